//! Templates of what a tool's actions mean in AWS: texts in which `{resource}` stands for the path of a
//! resource, and nothing else stands for anything.
//!
//! What is filled in can never become more than itself: IAM reads `*` and `?` as wildcards and `${…}` as
//! variables, so no such character comes from an access, and no variable from a template.

use super::super::ProviderError;
use crate::model::access::ResourcePath;
use crate::model::aws::is_partition;

/// What stands for the path of the resource.
const PLACE: &str = "{resource}";

/// A text that may hold `{resource}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Template(String);

impl Template {
    /// A value of a condition.
    pub(super) fn value(text: &str) -> Result<Self, String> {
        let fixed = text.replace(PLACE, "");
        if text.is_empty() || text.len() > 512 {
            return Err("write 1 to 512 characters".into());
        }
        if let Some(bad) = fixed.chars().find(|c| !printable(*c) || "\"'\\${}".contains(*c)) {
            return Err(format!(
                "`{}` cannot stand there: use printable ASCII without quotes, `\\`, `$` and braces, \
                 and `{PLACE}` for the path of the resource",
                bad.escape_default()
            ));
        }
        Ok(Self(text.into()))
    }

    /// A resource: an ARN, or `*` for actions that know no resources.
    pub(super) fn resource(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self(text.into()));
        }
        let template = Self::value(text)?;
        let mut parts = text.splitn(6, ':');
        let head = (parts.next(), parts.next(), parts.next());
        let (Some("arn"), Some(partition), Some(service)) = head else {
            return Err(format!("`{text}` is no ARN: write `arn:aws:<service>:…`, or `*`"));
        };
        if !is_partition(partition) || service.is_empty() || service.contains(['*', '?']) {
            return Err(format!("`{text}` is no ARN: name its partition and its service"));
        }
        let (region, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let Some(name) = parts.next().filter(|name| !name.is_empty()) else {
            return Err(format!(
                "`{text}` is no ARN: there have to be five colons and a name"
            ));
        };
        if [service, region, account].iter().any(|part| part.contains(PLACE)) {
            return Err(format!("`{PLACE}` may stand in the last part of an ARN only"));
        }
        // A path that is followed by more letters would also match longer names of the same beginning.
        if name.replace(PLACE, "").contains(['{', '}']) {
            return Err(format!("braces are for `{PLACE}` only"));
        }
        Ok(template)
    }

    /// Whether what it says depends on the resource.
    pub(super) fn is_open(&self) -> bool {
        self.0.contains(PLACE)
    }

    /// The text for one resource.
    pub(super) fn fill(&self, resource: &Filling<'_>) -> String {
        self.0.replace(PLACE, resource.0)
    }

    /// The text where nothing is to be filled in.
    pub(super) fn fixed(&self) -> Option<&str> {
        (!self.is_open()).then_some(&self.0)
    }
}

/// A resource's path that means nothing but itself in a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling<'a>(&'a str);

impl<'a> Filling<'a> {
    pub(super) fn of(path: &'a ResourcePath) -> Result<Self, ProviderError> {
        Self::of_text(path.as_str())
    }

    /// Paths are narrower than this already. Here it is said what a policy needs, whatever paths become.
    fn of_text(text: &'a str) -> Result<Self, ProviderError> {
        let bad = |c: char| !printable(c) || c == ' ' || "*?$\"'`\\{}<>".contains(c);
        match text.chars().find(|c| bad(*c)) {
            None if !text.is_empty() => Ok(Self(text)),
            None => Err(unfit(
                "a resource is empty: name it, or leave `resources` out".into(),
            )),
            Some(character) => Err(unfit(format!(
                "`{}` in a resource would mean more than itself in an AWS policy: ask for resources without it",
                character.escape_default()
            ))),
        }
    }
}

fn unfit(reason: String) -> ProviderError {
    ProviderError::Unfit {
        pointer: "/resources",
        reason,
    }
}

fn printable(c: char) -> bool {
    matches!(c, ' '..='~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_paths_into_the_last_part_of_arns() {
        let template = Template::resource("arn:aws:s3:::acme-data/{resource}/*").unwrap();
        let path: ResourcePath = "customers/42".parse().unwrap();
        let filled = template.fill(&Filling::of(&path).unwrap());
        assert_eq!(filled, "arn:aws:s3:::acme-data/customers/42/*");
        assert_eq!(template.fixed(), None);
        assert_eq!(Template::resource("*").unwrap().fixed(), Some("*"));
    }

    #[test]
    fn refuses_templates_that_could_say_more_than_they_show() {
        for bad in [
            "",
            "acme-data",
            "**",
            "arn:aws:s3",
            "arn:aws:s3:::",
            "arn:*:s3:::a",
            "arn:aws:*:::a",
            "arn:aws:s3:::a/${aws:username}",
            "arn:aws:s3:::a/$x",
            "arn:aws:s3:::a/{Resource}",
            "arn:aws:s3:::a/{resource",
            "arn:aws:s3:::a/{{resource}}",
            "arn:aws:s3:{resource}::a",
            "arn:aws:s3::{resource}:a",
            "arn:aws:{resource}:::a",
            "arn:aws:s3:::a\"b",
            "arn:aws:s3:::a\\b",
            "arn:aws:s3:::a\nb",
            "arn:aws:s3:::ä",
        ] {
            assert!(Template::resource(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "${aws:userid}", "a'b", "{x}", "\u{202e}"] {
            assert!(Template::value(bad).is_err(), "{bad:?}");
        }
        assert!(Template::value("{resource}/*").unwrap().is_open());
    }

    #[test]
    fn refuses_fillings_that_would_mean_more_than_themselves() {
        for bad in [
            "",
            "*",
            "a*",
            "a/?",
            "${aws:username}",
            "a$",
            "a\"b",
            "a'b",
            "a\\b",
            "a b",
            "a\0b",
            "a\nb",
            "ä",
            "a/{resource}",
            "\u{ff0a}",
        ] {
            let error = Filling::of_text(bad).unwrap_err();
            assert!(
                matches!(
                    error,
                    ProviderError::Unfit {
                        pointer: "/resources",
                        ..
                    }
                ),
                "{bad:?}: {error}"
            );
        }
        for path in ["customers/42", "a:b", "a@b.c,d+e=f~g"] {
            assert!(Filling::of_text(path).is_ok(), "{path}");
            assert!(Filling::of(&path.parse().unwrap()).is_ok(), "{path}");
        }
    }
}
