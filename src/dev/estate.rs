//! The files of a small installation: a configuration, agents, tools, policies and a trust bundle.
//!
//! The same examples as in `config/`, written to a folder of one's own, so that the broker reads them
//! the way it reads any installation.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::entropy::OsEntropy;
use crate::keys::file::write_private;
use crate::model::time::Timestamp;
use crate::model::ttl::Ttl;

use super::trust_domain::DevTrustDomain;

/// The trust domain of the examples.
pub const TRUST_DOMAIN: &str = "example.org";

/// The agents of the examples, each with the path of its workload's SPIFFE ID.
pub const WORKLOADS: [(&str, &str); 4] = [
    ("support-bot", "/agents/support-bot"),
    ("report-bot", "/agents/report-bot"),
    ("ops-console", "/ops/console"),
    ("crm-server", "/tools/crm"),
];

/// How long the evidence lives that the trust domain signs.
pub const EVIDENCE_LIFE: Ttl = match Ttl::from_secs(300) {
    Some(ttl) => ttl,
    None => Ttl::MAX,
};

macro_rules! examples {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../config/", $path)))),*]
    };
}

const EXAMPLES: [(&str, &str); 15] = examples![
    "agents/support-bot.toml",
    "agents/report-bot.toml",
    "agents/ops-console.toml",
    "agents/crm-server.toml",
    "tools/crm.toml",
    "tools/payments.toml",
    "tools/reports.toml",
    "policies/00-baseline.cedar",
    "policies/05-facts.cedar",
    "policies/10-dayfly.cedar",
    "policies/20-grants.cedar",
    "policies/tests/00-baseline.json",
    "policies/tests/05-facts.json",
    "policies/tests/10-dayfly.json",
    "policies/tests/20-grants.json",
];

/// A small installation on disk, with the trust domain that vouches for its workloads.
pub struct Estate {
    folder: PathBuf,
    audience: String,
    trust_domain: DevTrustDomain,
}

impl Estate {
    /// Writes the files for a broker that listens on `listen`. The trust domain gets a new key. A folder
    /// with a configuration that was not laid out here is left alone.
    pub fn lay_out(folder: &Path, listen: SocketAddr, entropy: &OsEntropy) -> anyhow::Result<Self> {
        let configured = folder.join("dayfly.toml");
        match fs::read_to_string(&configured) {
            Ok(text) if text.starts_with(MADE_HERE) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => bail!(
                "{} is somebody's own: name another folder, everything in this one would be written anew",
                configured.display()
            ),
        }
        for (path, text) in EXAMPLES {
            write(&folder.join(path), text)?;
        }
        let trust_domain = DevTrustDomain::generate(TRUST_DOMAIN.parse()?, entropy)?;
        write(&folder.join("bundle.json"), &trust_domain.bundle())?;
        let audience = format!("http://{listen}");
        write(&folder.join("dayfly.toml"), &configuration(listen, &audience))?;
        Ok(Self {
            folder: folder.to_owned(),
            audience,
            trust_domain,
        })
    }

    /// Says in the catalogue where the CRM is: on this machine, and not where its audience says. For a broker that
    /// has not started.
    pub fn place_crm(&self, at: SocketAddr) -> anyhow::Result<()> {
        let path = self.folder.join("tools/crm.toml");
        let text = fs::read_to_string(&path)?;
        let audience = text.lines().find(|line| line.starts_with("audience = "));
        let audience = audience.context("the CRM has no audience")?;
        let placed = format!("{audience}\norigins = [\"http://{at}\"]");
        Ok(write(&path, &text.replace(audience, &placed))?)
    }

    /// The configuration file.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("dayfly.toml")
    }

    /// Evidence for the workload of one of the agents, as it would get it from the Workload API.
    pub async fn evidence(&self, agent: &str, now: Timestamp) -> anyhow::Result<String> {
        let (_, path) = WORKLOADS
            .iter()
            .find(|(name, _)| *name == agent)
            .context("no such agent")?;
        Ok(self
            .trust_domain
            .svid(path, &self.audience, now, EVIDENCE_LIFE)
            .await?)
    }

    /// Where the evidence of an agent's workload is written for the command line.
    pub fn evidence_file(&self, agent: &str) -> PathBuf {
        self.folder.join("evidence").join(format!("{agent}.jwt"))
    }

    /// Writes fresh evidence for every workload, readable by its owner alone.
    pub async fn write_evidence(&self, now: Timestamp) -> anyhow::Result<()> {
        for (agent, _) in WORKLOADS {
            let path = self.evidence_file(agent);
            parent(&path)?;
            write_private(&path, self.evidence(agent, now).await?.as_bytes())?;
        }
        Ok(())
    }
}

/// How the configuration begins, by which a folder is known again.
const MADE_HERE: &str = "# Written anew at each start.";

fn configuration(listen: SocketAddr, issuer: &str) -> String {
    format!(
        "{MADE_HERE} Copy it, and what it names, to begin an installation of your own.\n\
         [server]\n\
         listen = \"{listen}\"\n\
         public_url = \"{issuer}\"\n\n\
         [[identity.trust_domain]]\n\
         name = \"{TRUST_DOMAIN}\"\n\
         bundle_file = \"bundle.json\"\n\n\
         [registry]\n\
         agents = \"agents\"\n\
         tools = \"tools\"\n\n\
         [policy]\n\
         dirs = [\"policies\"]\n\n\
         [ledger]\n\
         kind = \"embedded\"\n\n\
         [ledger.embedded]\n\
         path = \"data/ledger.redb\"\n\n\
         [journal]\n\
         dir = \"data/journal\"\n\n\
         [tokens]\n\
         keys = \"data/keys\"\n\n\
         [[provider]]\n\
         name = \"jwt\"\n\
         kind = \"jwt\"\n"
    )
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    parent(path)?;
    fs::write(path, text)
}

fn parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::files;

    #[test]
    fn writes_its_own_folder_anew_and_leaves_somebody_elses_alone() {
        let temp = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:8440".parse().unwrap();
        let lay_out = || Estate::lay_out(temp.path(), listen, &OsEntropy::new());
        lay_out().unwrap();
        let path = lay_out().unwrap().configuration();
        fs::write(&path, "[server]\n").unwrap();
        fs::remove_dir_all(temp.path().join("policies")).unwrap();
        assert!(lay_out().is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[server]\n");
        assert!(!temp.path().join("policies").exists());
    }

    #[test]
    fn the_crm_is_where_it_listens() {
        let temp = tempfile::tempdir().unwrap();
        let listen = "127.0.0.1:8440".parse().unwrap();
        let estate = Estate::lay_out(temp.path(), listen, &OsEntropy::new()).unwrap();
        estate.place_crm("127.0.0.1:8441".parse().unwrap()).unwrap();
        let loaded = files::load(&temp.path().join("agents"), &temp.path().join("tools")).unwrap();
        let crm = loaded.registry.tool(&"crm".parse().unwrap()).unwrap();
        assert_eq!(crm.audience, "https://crm.example.org");
        let origins: Vec<String> = crm.origins.iter().map(ToString::to_string).collect();
        assert_eq!(origins, ["http://127.0.0.1:8441"]);
    }
}
