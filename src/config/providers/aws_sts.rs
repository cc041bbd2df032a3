//! `[provider.aws_sts]`: sessions of AWS roles.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Deserialize;

use super::super::read::{Base, address, seconds};
use crate::model::aws::{AwsRegion, RoleArn};
use crate::model::document::Section;
use crate::model::ttl::Ttl;

/// The most roles of one provider: a lease that ends early goes into the slot of each of them.
const MOST_ROLES: usize = 32;
/// What STS gives at least, at most, and at most to those who came in by a role themselves.
const SESSIONS: [Ttl; 3] = [seconds(900), seconds(12 * 3600), seconds(3600)];

/// How sessions are minted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AwsStsConfig {
    /// Whose STS is asked.
    pub region: AwsRegion,
    /// In place of AWS's own addresses.
    pub endpoint_url: Option<String>,
    /// The roles that tools may name.
    pub roles: BTreeSet<RoleArn>,
    /// Whether Dayfly may write a policy into these roles that ends leases early.
    pub deny_slot: bool,
    /// Whether a full slot ends every session of its role.
    pub deny_role_wide_when_full: bool,
    /// The longest session.
    pub max_session: Ttl,
    /// Dayfly's own way in.
    pub credentials: AwsCredentials,
}

/// Where Dayfly's own credentials come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AwsCredentials {
    /// The SDK's default chain.
    Default,
    /// A token of Dayfly's own.
    WebIdentity {
        /// The role to come in as.
        role: RoleArn,
        /// Its `sub`.
        subject: String,
    },
    /// An access key in files.
    Static {
        /// The file with its id.
        access_key_id_file: PathBuf,
        /// The file with its secret.
        secret_access_key_file: PathBuf,
    },
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Default,
    WebIdentity,
    Static,
}

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> Option<AwsStsConfig> {
    let region = section.parsed("region");
    if !section.has("region") {
        let help = "write whose STS is asked: `region = \"eu-central-1\"`";
        section.blame("region", "it is missing", help);
    }
    let endpoint_url = address(section, "endpoint_url");
    let roles = roles(section);
    let deny_slot = section.or("deny_slot", false);
    let deny_role_wide_when_full = section.or("deny_role_wide_when_full", false);
    if deny_role_wide_when_full && !deny_slot {
        section.blame(
            "deny_role_wide_when_full",
            "there is no slot that could be full",
            "write `deny_slot = true`, or leave this out",
        );
    }
    let way = section.or("credentials", Way::Default);
    let credentials = credentials(section, way, base);
    let max_session = max_session(section, way);
    Some(AwsStsConfig {
        region: region?,
        endpoint_url,
        roles,
        deny_slot,
        deny_role_wide_when_full,
        max_session,
        credentials: credentials?,
    })
}

fn roles(section: &mut Section<'_>) -> BTreeSet<RoleArn> {
    let texts: Vec<String> = section.list("roles").unwrap_or_default();
    if texts.is_empty() || texts.len() > MOST_ROLES {
        section.blame(
            "roles",
            format!("there are {}", texts.len()),
            &format!("name 1 to {MOST_ROLES} roles whose sessions tools may be for, by their ARNs"),
        );
    }
    let roles = texts.iter().filter_map(|text| {
        text.parse()
            .map_err(|error| section.blame("roles", error, ""))
            .ok()
    });
    roles.collect()
}

fn max_session(section: &mut Section<'_>, way: Way) -> Ttl {
    let [least, most, most_chained] = SESSIONS;
    let longest = section.or("max_session", most_chained);
    let (most, why) = match way {
        Way::WebIdentity => (most_chained, " to those who came in as a role themselves"),
        Way::Default | Way::Static => (most, ""),
    };
    if longest < least || longest > most {
        section.blame(
            "max_session",
            format!("{longest} is out of range"),
            &format!("STS gives sessions of {least} to {most}{why}"),
        );
    }
    longest
}

fn credentials(section: &mut Section<'_>, way: Way, base: Base<'_>) -> Option<AwsCredentials> {
    let role = section.parsed("web_identity_role");
    let subject: String = section.or("web_identity_subject", "dayfly".into());
    let id = base.optional_path(section, "access_key_id_file");
    let secret = base.optional_path(section, "secret_access_key_file");
    let mut only_with = |wanted: Way, word: &str, keys: [&'static str; 2]| {
        for key in keys {
            if way != wanted && section.has(key) {
                let help = format!("write `credentials = \"{word}\"`, or leave this out");
                section.blame(key, "it is for other credentials", &help);
            }
        }
    };
    only_with(
        Way::WebIdentity,
        "web_identity",
        ["web_identity_role", "web_identity_subject"],
    );
    only_with(
        Way::Static,
        "static",
        ["access_key_id_file", "secret_access_key_file"],
    );
    if subject.is_empty() || subject.len() > 255 || !subject.bytes().all(|b| b.is_ascii_graphic()) {
        section.blame(
            "web_identity_subject",
            "it cannot be the subject of a token",
            "write 1 to 255 characters of ASCII without spaces",
        );
    }
    match (way, role, id, secret) {
        (Way::Default, ..) => Some(AwsCredentials::Default),
        (Way::WebIdentity, Some(role), ..) => Some(AwsCredentials::WebIdentity { role, subject }),
        (Way::Static, _, Some(access_key_id_file), Some(secret_access_key_file)) => {
            Some(AwsCredentials::Static {
                access_key_id_file,
                secret_access_key_file,
            })
        }
        (Way::WebIdentity, None, ..) => {
            if !section.has("web_identity_role") {
                let help = "name the role that trusts Dayfly's own tokens";
                section.blame("web_identity_role", "it is missing", help);
            }
            None
        }
        (Way::Static, _, id, _) => {
            let missing = match id {
                None => "access_key_id_file",
                Some(_) => "secret_access_key_file",
            };
            section.blame(missing, "it is missing", "name the file that holds it");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::{Config, parse};
    use super::super::ProviderKind;
    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/data-reader";

    fn with(settings: &str) -> Result<Config, String> {
        let text = format!(
            "[[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n\
             [[provider]]\nname = 'aws'\nkind = 'aws_sts'\n[provider.aws_sts]\n{settings}"
        );
        parse("dayfly.toml", Path::new("/etc/dayfly"), &text).map_err(|problems| problems.to_string())
    }

    fn least(more: &str) -> Result<Config, String> {
        with(&format!("region = 'eu-central-1'\nroles = ['{ROLE}']\n{more}"))
    }

    #[cfg(feature = "aws")]
    #[test]
    fn reads_the_least_and_fills_in_the_rest() {
        let config = least("").unwrap();
        let [provider] = config.providers.as_slice() else {
            panic!("{:?}", config.providers);
        };
        let ProviderKind::AwsSts(aws) = &provider.kind else {
            panic!("{provider:?}");
        };
        assert_eq!(
            **aws,
            AwsStsConfig {
                region: "eu-central-1".parse().unwrap(),
                endpoint_url: None,
                roles: [ROLE.parse().unwrap()].into(),
                deny_slot: false,
                deny_role_wide_when_full: false,
                max_session: Ttl::from_secs(3600).unwrap(),
                credentials: AwsCredentials::Default,
            }
        );
    }

    #[cfg(feature = "aws")]
    #[test]
    fn reads_each_way_in() {
        let of = |more: &str| match &least(more).unwrap().providers[0].kind {
            ProviderKind::AwsSts(aws) => aws.credentials.clone(),
            other => panic!("{other:?}"),
        };
        let role: RoleArn = ROLE.parse().unwrap();
        assert_eq!(
            of(&format!(
                "credentials = 'web_identity'\nweb_identity_role = '{ROLE}'"
            )),
            AwsCredentials::WebIdentity {
                role,
                subject: "dayfly".into()
            }
        );
        assert_eq!(
            of("credentials = 'static'\naccess_key_id_file = 'id'\nsecret_access_key_file = '/run/secret'"),
            AwsCredentials::Static {
                access_key_id_file: "/etc/dayfly/id".into(),
                secret_access_key_file: "/run/secret".into()
            }
        );
    }

    #[test]
    fn says_what_is_wrong_and_what_to_write() {
        for (settings, expected) in [
            ("roles = []", "`provider.aws_sts.region`: it is missing"),
            (
                "region = 'Frankfurt'",
                "`provider.aws_sts.region`: `Frankfurt` is not a valid region",
            ),
            ("region = 'eu-central-1'", "`provider.aws_sts.roles`: there are 0"),
            (
                "roles = ['reader']",
                "`provider.aws_sts.roles`: `reader` is not a valid role ARN",
            ),
            ("regoin = 'x'", "did you mean `region`?"),
        ] {
            let problems = with(settings).unwrap_err();
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
        for (more, expected) in [
            (
                "endpoint_url = 'http://sts.example.org'",
                "`provider.aws_sts.endpoint_url`: it is not an address",
            ),
            (
                "deny_role_wide_when_full = true",
                "there is no slot that could be full",
            ),
            ("max_session = '14m'", "STS gives sessions of 15m to 12h"),
            ("max_session = '13h'", "13h is out of range"),
            (
                "credentials = 'web_identity'\nmax_session = '2h'\nweb_identity_role = 'arn:aws:iam::123456789012:role/a'",
                "15m to 1h to those who came in as a role",
            ),
            (
                "credentials = 'web_identity'",
                "`provider.aws_sts.web_identity_role`: it is missing",
            ),
            ("web_identity_subject = 'x'", "it is for other credentials"),
            (
                "credentials = 'static'",
                "`provider.aws_sts.access_key_id_file`: it is missing",
            ),
            (
                "credentials = 'static'\naccess_key_id_file = 'a'",
                "`provider.aws_sts.secret_access_key_file`: it is missing",
            ),
            ("secret_access_key_file = 'a'", "write `credentials = \"static\"`"),
            ("credentials = 'env'", "unknown variant `env`"),
        ] {
            let problems = least(more).unwrap_err();
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
    }

    #[cfg(not(feature = "aws"))]
    #[test]
    fn says_that_it_was_built_without() {
        assert!(
            least("")
                .unwrap_err()
                .contains("this Dayfly was built without `aws_sts`")
        );
    }
}
