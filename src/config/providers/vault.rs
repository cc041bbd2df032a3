//! `[provider.vault]`: a Vault or OpenBao server.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::config::read::{Base, address, duration_within, within};
use crate::model::document::Section;

/// The settings of a Vault or OpenBao server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VaultConfig {
    /// `https://host:port`, or `http` on this machine; without a path.
    pub address: String,
    /// The only certificate authorities that may vouch for it; none means the system's.
    pub ca_file: Option<PathBuf>,
    /// The namespace that everything is in.
    pub namespace: Option<String>,
    /// How Dayfly shows who it is.
    pub auth: VaultAuth,
    /// The token role by which the tokens of leases are made.
    pub token_role: Option<String>,
    /// How much longer than its lease a secret may live there.
    pub margin: Duration,
    /// How long a request may take.
    pub timeout: Duration,
    /// How many requests may be under way: so many to mint, and as many again to end.
    pub concurrency: NonZeroUsize,
}

/// How Dayfly shows who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VaultAuth {
    /// With a token that it signs itself.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// The role there.
        role: String,
        /// The `aud` of the token.
        audience: String,
    },
    /// With the token of its Kubernetes service account.
    Kubernetes {
        /// Where the method is mounted.
        mount: String,
        /// The role there.
        role: String,
        /// The file with the token.
        token_file: PathBuf,
    },
    /// With the two halves of an AppRole.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// The file with the role's id.
        role_id_file: PathBuf,
        /// The file with the secret id.
        secret_id_file: PathBuf,
    },
    /// With a token that somebody made.
    Token {
        /// The file with it.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Auth {
    Jwt,
    Kubernetes,
    AppRole,
    Token,
}

/// Where the token of a service account is in a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> Option<VaultConfig> {
    let address = server(section);
    let ca_file = base.optional_path(section, "ca_file");
    let namespace = path(section, "namespace", None);
    let auth = auth(section, base);
    let token_role = word(section, "token_role");
    let margin = duration_within(section, "margin", 30, 600);
    let timeout = duration_within(section, "timeout", 5, 8);
    let many = NonZeroUsize::new(32).unwrap_or(NonZeroUsize::MIN);
    let most = NonZeroUsize::new(1024).unwrap_or(NonZeroUsize::MIN);
    let concurrency = within(section, "concurrency", many, NonZeroUsize::MIN, most);
    Some(VaultConfig {
        address: address?,
        ca_file,
        namespace: namespace.filter(|namespace| !namespace.is_empty()),
        auth: auth?,
        token_role,
        margin,
        timeout,
        concurrency,
    })
}

fn server(section: &mut Section<'_>) -> Option<String> {
    let help = "write where it is, without a path: `address = \"https://vault.example.org:8200\"`";
    if !section.has("address") {
        section.blame("address", "it is missing", help);
        return None;
    }
    let text = address(section, "address")?;
    let bare = text.trim_end_matches('/');
    if reqwest::Url::parse(bare).is_ok_and(|url| url.path() != "/" || url.query().is_some()) {
        section.blame("address", "it has a path", help);
    }
    Some(bare.to_owned())
}

fn auth(section: &mut Section<'_>, base: Base<'_>) -> Option<VaultAuth> {
    let help =
        "write how Dayfly shows who it is: `auth = \"jwt\"`, `\"kubernetes\"`, `\"approle\"` or `\"token\"`";
    let way: Auth = section.required("auth", help)?;
    leave_out(section, way);
    match way {
        Auth::Jwt => {
            let mount = path(section, "mount", Some("jwt"));
            let role = role(section);
            let audience = section.required(
                "audience",
                "write the `aud` that the role there is bound to; no tool has it",
            );
            Some(VaultAuth::Jwt {
                mount: mount?,
                role: role?,
                audience: audience?,
            })
        }
        Auth::Kubernetes => {
            let mount = path(section, "mount", Some("kubernetes"));
            let role = role(section);
            Some(VaultAuth::Kubernetes {
                mount: mount?,
                role: role?,
                token_file: base.path(section, "token_file", SERVICE_ACCOUNT),
            })
        }
        Auth::AppRole => {
            let mount = path(section, "mount", Some("approle"));
            let role_id_file = file(section, base, "role_id_file");
            let secret_id_file = file(section, base, "secret_id_file");
            Some(VaultAuth::AppRole {
                mount: mount?,
                role_id_file: role_id_file?,
                secret_id_file: secret_id_file?,
            })
        }
        Auth::Token => Some(VaultAuth::Token {
            file: file(section, base, "token_file")?,
        }),
    }
}

/// A setting of another way in would be there for nothing.
fn leave_out(section: &mut Section<'_>, way: Auth) {
    let useless: &[&'static str] = match way {
        Auth::Jwt => &["token_file", "role_id_file", "secret_id_file"],
        Auth::Kubernetes => &["audience", "role_id_file", "secret_id_file"],
        Auth::AppRole => &["role", "audience", "token_file"],
        Auth::Token => &["mount", "role", "audience", "role_id_file", "secret_id_file"],
    };
    for key in useless.iter().copied() {
        if section.optional::<String>(key).is_some() {
            section.blame(key, "this `auth` has no use for it", "leave it out");
        }
    }
}

fn role(section: &mut Section<'_>) -> Option<String> {
    section.required(
        "role",
        "write the role that Dayfly logs in as: `role = \"dayfly\"`",
    )
}

fn file(section: &mut Section<'_>, base: Base<'_>, key: &'static str) -> Option<PathBuf> {
    let file = base.optional_path(section, key);
    if file.is_none() {
        section.blame(key, "it is missing", &format!("write the file: `{key} = \"…\"`"));
    }
    file
}

/// A name that becomes a segment of a path.
fn word(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let text = path(section, key, None)?;
    if text.contains('/') {
        section.blame(key, "it has a `/`", "write one name");
    }
    Some(text)
}

/// A name of several segments.
fn path(section: &mut Section<'_>, key: &'static str, default: Option<&str>) -> Option<String> {
    let text: Option<String> = section.optional(key);
    let text = text.or_else(|| default.map(str::to_owned))?;
    let text = text.trim_matches('/').to_owned();
    let good = |part: &str| {
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !part.is_empty() && !part.contains("..") && part != "." && part.chars().all(letter)
    };
    if !text.split('/').all(good) {
        section.blame(
            key,
            "it is not a path of names",
            "write names of letters, digits, `.`, `_` and `-`, with `/` between them",
        );
    }
    Some(text)
}

#[cfg(test)]
#[cfg(feature = "vault")]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::providers::ProviderKind;

    fn read(text: &str) -> Result<VaultConfig, String> {
        let text = format!(
            "[[identity.trust_domain]]\nname = 'example.org'\nbundle_file = 'b'\n[[provider]]\nname = 'v'\nkind = 'vault'\n[provider.vault]\n{text}"
        );
        let config = crate::config::parse("dayfly.toml", Path::new("/etc/dayfly"), &text);
        let config = config.map_err(|problems| problems.to_string())?;
        match config.providers.into_iter().next().unwrap().kind {
            ProviderKind::Vault(vault) => Ok(*vault),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn reads_how_to_log_in() {
        let vault =
            read("address = 'https://v:8200/'\nauth = 'jwt'\nrole = 'dayfly'\naudience = 'vault'").unwrap();
        assert_eq!(vault.address, "https://v:8200");
        assert_eq!(vault.timeout, Duration::from_secs(5));
        let VaultAuth::Jwt { mount, .. } = vault.auth else {
            panic!("not by JWT")
        };
        assert_eq!(mount, "jwt");
        let vault = read("address = 'http://127.0.0.1:8200'\nauth = 'token'\ntoken_file = 't'").unwrap();
        let file = PathBuf::from("/etc/dayfly/t");
        assert_eq!(vault.auth, VaultAuth::Token { file });
        let approle =
            "auth = 'approle'\nrole_id_file = 'r'\nsecret_id_file = 's'\nmount = 'a/b'\nnamespace = 'n/'";
        let vault = read(&format!("address = 'https://v'\n{approle}")).unwrap();
        assert_eq!(vault.namespace.as_deref(), Some("n"));
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, said) in [
            (
                "auth = 'token'\ntoken_file = 't'",
                "`provider.vault.address`: it is missing",
            ),
            (
                "address = 'http://v:8200'\nauth = 'token'\ntoken_file = 't'",
                "not an address",
            ),
            (
                "address = 'https://v/vault'\nauth = 'token'\ntoken_file = 't'",
                "it has a path",
            ),
            ("address = 'https://v'\nauth = 'token'", "token_file"),
            (
                "address = 'https://v'\nauth = 'token'\ntoken_file = 't'\nrole_id_file = 'r'",
                "`provider.vault.role_id_file`: this `auth` has no use for it",
            ),
            ("address = 'https://v'\nauth = 'ldap'", "auth"),
            ("address = 'https://v'\nauth = 'jwt'\nrole = 'a'", "audience"),
            (
                "address = 'https://v'\nauth = 'token'\ntoken_file = 't'\ntimeout = '9s'",
                "too long",
            ),
            (
                "address = 'https://v'\nauth = 'token'\ntoken_file = 't'\nnamespace = '../a'",
                "path of names",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
