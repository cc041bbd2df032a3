//! Evidence that is found without being told where it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::Url;

use super::github::GitHub;
use super::{Evidence, Source};
use crate::ambient;
use crate::error::Error;
use crate::secret::Secret;
use crate::transport::is_loopback;

/// Where our guide mounts the projected service-account token of a pod.
const KUBERNETES: &str = "/var/run/secrets/dayfly/token";

/// What can be seen from here.
pub(crate) struct Surroundings<'a> {
    /// The environment.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// The broker's address as the caller wrote it, without a trailing slash.
    pub(crate) address: &'a str,
    /// The same, read.
    pub(crate) broker: &'a Url,
}

/// The first evidence that there is, or what was looked at in vain.
pub(crate) fn discover(around: &Surroundings<'_>) -> Result<Evidence, Error> {
    find(around, Path::new(KUBERNETES))
}

fn find(around: &Surroundings<'_>, kubernetes: &Path) -> Result<Evidence, Error> {
    let variable = around.variable;
    if let Some(path) = variable("DAYFLY_EVIDENCE_FILE") {
        return Ok(Evidence::file(path));
    }
    if let Some(token) = variable("DAYFLY_EVIDENCE") {
        return Ok(Evidence::text(token));
    }
    let audience = variable("DAYFLY_AUDIENCE").unwrap_or_else(|| around.address.to_owned());
    if let Some(endpoint) = variable("SPIFFE_ENDPOINT_SOCKET") {
        return spiffe(&endpoint, &audience);
    }
    if kubernetes.exists() {
        return Ok(Evidence::file(kubernetes));
    }
    let github = (
        variable("ACTIONS_ID_TOKEN_REQUEST_URL"),
        variable("ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
    );
    if let (Some(url), Some(token)) = github {
        let github = GitHub::new(&url, Secret::from(token), &audience)?;
        return Ok(Evidence(Source::GitHub(Arc::new(github))));
    }
    let beside = match variable("DAYFLY_AGENT") {
        Some(agent) if is_loopback(around.broker) => return dev(variable, &agent),
        Some(_) => "the files of `dayfly dev` are for a broker on this machine",
        None => "DAYFLY_AGENT is not set",
    };
    Err(Error::no_evidence(
        "there is no evidence of this workload",
        format!(
            "looked at DAYFLY_EVIDENCE_FILE, DAYFLY_EVIDENCE and SPIFFE_ENDPOINT_SOCKET (not set), {} (no such file), \
             ACTIONS_ID_TOKEN_REQUEST_URL with ACTIONS_ID_TOKEN_REQUEST_TOKEN (not set), `dayfly dev` ({beside})",
            kubernetes.display()
        ),
    ))
}

#[cfg(feature = "spiffe")]
fn spiffe(endpoint: &str, audience: &str) -> Result<Evidence, Error> {
    Evidence::spiffe(endpoint, audience)
}

#[cfg(not(feature = "spiffe"))]
fn spiffe(_: &str, _: &str) -> Result<Evidence, Error> {
    Err(Error::no_evidence(
        "the SPIFFE Workload API cannot be asked",
        "SPIFFE_ENDPOINT_SOCKET is set: build `dayfly-client` with its feature `spiffe`",
    ))
}

/// The file that `dayfly dev` keeps fresh for one of its agents.
fn dev(variable: &dyn Fn(&str) -> Option<String>, agent: &str) -> Result<Evidence, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if agent.is_empty() || agent.starts_with('.') || !agent.bytes().all(plain) {
        return Err(Error::no_evidence("DAYFLY_AGENT is no agent's name", ""));
    }
    let folder = variable("DAYFLY_DEV_FOLDER").unwrap_or_else(|| ".dayfly".to_owned());
    let path = PathBuf::from(folder)
        .join("evidence")
        .join(format!("{agent}.jwt"));
    Ok(Evidence::file(path))
}

impl Surroundings<'_> {
    /// The environment of the process.
    pub(crate) const PROCESS: &'static dyn Fn(&str) -> Option<String> = &ambient::variable;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(broker: &str, set: &[(&str, &str)], kubernetes: &Path) -> Result<Evidence, Error> {
        let variable = |name: &str| {
            let found = set.iter().find(|(given, _)| *given == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let around = Surroundings {
            variable: &variable,
            address: broker,
            broker: &broker.parse().unwrap(),
        };
        find(&around, kubernetes)
    }

    const HERE: &str = "http://127.0.0.1:8440";
    const NOWHERE: &str = "/no/such/file";

    #[test]
    fn takes_the_first_that_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let mounted = folder.path().join("token");
        std::fs::write(&mounted, "eyJ").unwrap();
        let mut set = vec![
            ("DAYFLY_EVIDENCE_FILE", "/run/evidence.jwt"),
            ("DAYFLY_EVIDENCE", "eyJ"),
            #[cfg(feature = "spiffe")]
            ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/spire.sock"),
        ];
        let mut seen = Vec::new();
        while !set.is_empty() {
            seen.push(format!("{:?}", look(HERE, &set, &mounted).unwrap()));
            set.remove(0);
        }
        seen.push(format!("{:?}", look(HERE, &[], &mounted).unwrap()));
        let github = [
            (
                "ACTIONS_ID_TOKEN_REQUEST_URL",
                "https://actions.example/token?api=1",
            ),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"),
            ("DAYFLY_AGENT", "support-bot"),
        ];
        seen.push(format!("{:?}", look(HERE, &github, Path::new(NOWHERE)).unwrap()));
        let dev = [("DAYFLY_AGENT", "support-bot"), ("DAYFLY_DEV_FOLDER", "/d")];
        seen.push(format!("{:?}", look(HERE, &dev, Path::new(NOWHERE)).unwrap()));
        let mut wanted = vec![
            "Evidence::file(\"/run/evidence.jwt\")".to_owned(),
            "Evidence::text(<redacted>)".to_owned(),
        ];
        #[cfg(feature = "spiffe")]
        wanted.push("Evidence::spiffe(\"unix:///run/spire.sock\")".to_owned());
        wanted.push(format!("Evidence::file({mounted:?})"));
        wanted.push("Evidence of GitHub Actions".to_owned());
        wanted.push("Evidence::file(\"/d/evidence/support-bot.jwt\")".to_owned());
        assert_eq!(seen, wanted);
    }

    #[test]
    fn says_what_it_looked_at_in_vain() {
        let error = look(HERE, &[], Path::new(NOWHERE)).unwrap_err();
        assert!(matches!(error, Error::AttestationFailed(_)));
        for name in [
            "DAYFLY_EVIDENCE_FILE",
            "SPIFFE_ENDPOINT_SOCKET",
            NOWHERE,
            "ACTIONS_ID_TOKEN_REQUEST_URL",
            "DAYFLY_AGENT is not set",
        ] {
            assert!(error.detail().contains(name), "{error}");
        }
    }

    #[test]
    fn the_files_of_dev_are_for_this_machine_and_stay_in_their_folder() {
        let set = [("DAYFLY_AGENT", "support-bot")];
        assert!(look("https://dayfly.example.org", &set, Path::new(NOWHERE)).is_err());
        for bad in ["../secrets", "a/b", "..", ""] {
            assert!(
                look(HERE, &[("DAYFLY_AGENT", bad)], Path::new(NOWHERE)).is_err(),
                "{bad}"
            );
        }
    }
}
