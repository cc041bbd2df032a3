//! `dayfly credential install`: the links under which programs look for their helpers. Nobody's configuration is
//! changed: what to write into it is printed.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::LINKS;
use crate::cli::exit::Exit;
use crate::cli::terminal::Terminal;

/// Which helpers, and where.
#[derive(Args, Debug)]
pub struct Install {
    /// For which programs.
    #[arg(required = true)]
    programs: Vec<For>,
    /// A folder in the search path; `~/.local/bin` when absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum For {
    /// The SDKs and the command line of AWS.
    Aws,
    /// docker, podman, helm.
    Docker,
    /// git.
    Git,
    /// kubectl and its kin.
    Kubectl,
}

impl For {
    const fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Docker => "docker",
            Self::Git => "git",
            Self::Kubectl => "kubectl",
        }
    }

    /// What to configure. `dayfly` is this program.
    fn advice(self, dayfly: &str) -> String {
        match self {
            Self::Aws => format!(
                "in ~/.aws/config:\n\n  [profile reports]\n  credential_process = \"{dayfly}\" credential aws --purpose \
                 \"quarterly figures\" --access reports:read\n"
            ),
            Self::Docker => "in ~/.docker/config.json:\n\n  {\"credHelpers\": {\"registry.example.org\": \"dayfly\"}}\n\n\
                             and in the environment, since docker passes no arguments:\n\n  \
                             DAYFLY_PURPOSE='build the image' DAYFLY_ACCESS=registry:pull\n"
                .to_owned(),
            Self::Git => "as git config, an empty helper first so that no other one keeps the token:\n\n  \
                          git config --add credential.https://git.example.org.helper ''\n  \
                          git config --add credential.https://git.example.org.helper \
                          \"dayfly --purpose 'update the docs' --access git:read,push\"\n  \
                          git config credential.https://git.example.org.useHttpPath true\n"
                .to_owned(),
            Self::Kubectl => "as a user of the kubeconfig:\n\n  users:\n  - name: dayfly\n    user:\n      exec:\n        \
                              apiVersion: client.authentication.k8s.io/v1\n        command: kubectl-dayfly\n        \
                              args: [--purpose, roll out the shop, --access, 'k8s:deploy']\n        \
                              interactiveMode: Never\n        provideClusterInfo: true\n"
                .to_owned(),
        }
    }
}

impl Install {
    /// Makes the links and prints what to configure.
    pub(super) fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let itself = std::env::current_exe().context("this program cannot be found")?;
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/bin"));
        let dir = self.dir.or_else(home).context("say where: `--dir DIR`")?;
        for program in &self.programs {
            let link = LINKS.iter().find(|(_, command)| *command == program.name());
            if let Some((link, _)) = link {
                let path = dir.join(link);
                make(&itself, &path)?;
                terminal.line(format!("{} -> {}", path.display(), itself.display()))?;
            }
            terminal.line(format!(
                "{}: {}",
                program.name(),
                program.advice(&itself.display().to_string())
            ))?;
        }
        terminal.note("inside of `dayfly exec` nothing of this is needed")?;
        Ok(Exit::Done)
    }
}

/// A link, in place of one that is there already. What is no link is somebody's own.
fn make(itself: &Path, link: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(link) {
        Ok(found) if found.is_symlink() => fs::remove_file(link)?,
        Ok(_) => bail!(
            "{} is there and no link: name another folder with `--dir`",
            link.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| link.display().to_string()),
    }
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    symlink(itself, link).with_context(|| link.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_anew_and_a_file_of_somebodys_stays() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("bin/git-credential-dayfly");
        make(Path::new("/opt/old"), &link).unwrap();
        make(Path::new("/opt/new"), &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/opt/new"));
        let own = folder.path().join("own");
        fs::write(&own, "mine").unwrap();
        assert!(make(Path::new("/opt/new"), &own).is_err());
        assert_eq!(fs::read_to_string(&own).unwrap(), "mine");
    }
}
