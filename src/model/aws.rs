//! Names in AWS, as far as a configuration and a catalogue mention them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::name::InvalidName;

/// The ARN of an IAM role, such as `arn:aws:iam::123456789012:role/agents/data-reader`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleArn(Arc<str>);

const ROLE: &str = "write `arn:aws:iam::<account>:role/<name>`, as IAM shows it";

impl RoleArn {
    /// The whole ARN.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the role, without its path: what IAM calls `RoleName`.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }
}

/// Letters, digits and `+=,.@_-`: what IAM allows in names and STS in session names.
pub fn is_iam_name(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b))
}

impl FromStr for RoleArn {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = || {
            let (partition, rest) = text.strip_prefix("arn:")?.split_once(":iam::")?;
            let (account, path) = rest.split_once(":role/")?;
            let (folders, name) = path.rsplit_once('/').map_or((None, path), |(f, n)| (Some(f), n));
            let mut folders = folders.into_iter().flat_map(|folders| folders.split('/'));
            Some(
                is_partition(partition)
                    && account.len() == 12
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && is_iam_name(name, 1, 64)
                    && folders.all(|folder| is_iam_name(folder, 1, 128))
                    && text.len() <= 512,
            )
        };
        match well_formed() {
            Some(true) => Ok(Self(text.into())),
            _ => Err(InvalidName::new("role ARN", text, ROLE)),
        }
    }
}

/// The partition of an ARN: `aws`, `aws-cn`, `aws-us-gov`, …
pub fn is_partition(text: &str) -> bool {
    text.strip_prefix("aws").is_some_and(|rest| {
        rest.is_empty()
            || (rest.starts_with('-') && rest.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
    })
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A region, such as `eu-central-1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AwsRegion(Arc<str>);

impl AwsRegion {
    /// The region as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AwsRegion {
    type Err = InvalidName;

    /// It becomes part of a host name, so nothing but its letters may be in it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let letters = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let number = parts.next_back().is_some_and(digits);
        let words: Vec<&str> = parts.collect();
        if number && (2..=4).contains(&words.len()) && words.into_iter().all(letters) && text.len() <= 32 {
            return Ok(Self(text.into()));
        }
        Err(InvalidName::new(
            "region",
            text,
            "write it as AWS does, such as `eu-central-1`",
        ))
    }
}

impl fmt::Display for AwsRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AwsRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_role_arns_of_every_partition_and_nothing_else() {
        for (arn, name) in [
            ("arn:aws:iam::123456789012:role/reader", "reader"),
            ("arn:aws-cn:iam::123456789012:role/a/b/reader+1", "reader+1"),
            ("arn:aws-us-gov:iam::123456789012:role/x", "x"),
        ] {
            assert_eq!(arn.parse::<RoleArn>().unwrap().name(), name);
        }
        for bad in [
            "",
            "reader",
            "arn:aws:iam::123456789012:user/reader",
            "arn:aws:iam::12345678901:role/reader",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role//reader",
            "arn:aws:iam::123456789012:role/*",
            "arn:aws:iam:eu-central-1:123456789012:role/reader",
            "arn:awsome:iam::123456789012:role/reader",
            "arn:aws:iam::123456789012:role/reader ",
            "arn:aws:sts::123456789012:assumed-role/reader/x",
        ] {
            assert!(bad.parse::<RoleArn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn takes_regions_and_nothing_that_would_be_another_host() {
        for good in [
            "eu-central-1",
            "us-gov-west-1",
            "us-iso-east-1",
            "cn-north-1",
            "ap-southeast-7",
        ] {
            assert_eq!(good.parse::<AwsRegion>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "eu",
            "eu-central",
            "eu-central-1.evil.example",
            "EU-central-1",
            "eu--1",
            "1-1-1",
            "a/b-1",
        ] {
            assert!(bad.parse::<AwsRegion>().is_err(), "{bad}");
        }
    }
}
