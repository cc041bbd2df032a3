//! `dayfly credential`: answers to programs that ask for credentials by protocols of their own. Inside of
//! `dayfly exec` the answers come from its socket; elsewhere from a task that is named, or opened for this one
//! answer.

mod aws;
mod docker;
mod git;
mod install;
mod kubectl;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};

use super::Remote;
use super::exec::task::{Issued, Order, Task};
use super::exec::wallet::{Ask, Unserved, choose_by_resource};
use super::exec::{SOCKET, socket};
use super::exit::Exit;
use super::memory::keep_to_oneself;
use super::terminal::Terminal;
use crate::model::access::{Access, Scope};
use crate::model::ids::TaskId;
use crate::model::name::Purpose;
use crate::model::ttl::Ttl;

/// The names under which programs look for helpers, and the sub-command that each stands for.
pub(super) const LINKS: [(&str, &str); 3] = [
    ("docker-credential-dayfly", "docker"),
    ("git-credential-dayfly", "git"),
    ("kubectl-dayfly", "kubectl"),
];
/// The most that is read of a question, in bytes.
const LONGEST: u64 = 64 * 1024;

/// `dayfly credential …`
#[derive(Subcommand, Debug)]
pub enum CredentialCommand {
    /// A session of AWS, as a `credential_process` prints it.
    Aws(Source),
    /// A token for git: `get`, `store` or `erase`, as git calls its credential helpers.
    Git(Called),
    /// A token for docker: `get`, `store`, `erase` or `list`, as docker calls its credential helpers.
    Docker(Called),
    /// A token for kubectl, as its exec plug-ins print it.
    Kubectl(Source),
    /// Make the links under which programs look for their helpers, and say what to configure.
    Install(install::Install),
}

/// Where a credential comes from.
#[derive(Args, Debug)]
pub struct Source {
    /// The tool, where there are several.
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Outside of `dayfly exec`: the task that the credential is for.
    #[arg(long, env = "DAYFLY_TASK")]
    task: Option<TaskId>,
    /// Outside of `dayfly exec`, without a task: why one is opened.
    #[arg(long, env = "DAYFLY_PURPOSE")]
    purpose: Option<Purpose>,
    /// Outside of `dayfly exec`: what is asked for, `tool:action[,action…][@resource[,resource…]]`. May be given several
    /// times.
    #[arg(long = "access", env = "DAYFLY_ACCESS", value_delimiter = ' ', value_parser = super::task::access)]
    accesses: Vec<Access>,
    /// How long a task lives that is opened here, and so its credential at most.
    #[arg(long, default_value = "15m")]
    ttl: Ttl,
    #[command(flatten)]
    remote: Remote,
}

/// What is asked for, and where it comes from.
#[derive(Args, Debug)]
pub struct Called {
    /// What to do.
    operation: String,
    #[command(flatten)]
    source: Source,
}

impl CredentialCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        keep_to_oneself();
        match self {
            Self::Aws(source) => aws::run(source, terminal).await,
            Self::Git(called) => git::run(&called.operation, called.source, terminal).await,
            Self::Docker(called) => docker::run(&called.operation, called.source, terminal).await,
            Self::Kubectl(source) => kubectl::run(source, terminal).await,
            Self::Install(install) => install.run(terminal),
        }
    }
}

/// The arguments of this process; where it was called under the name of a helper, those of the sub-command.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given = given.into_iter();
    let Some(called) = given.next() else {
        return Vec::new();
    };
    let name = Path::new(&called).file_name().and_then(|name| name.to_str());
    let helper = LINKS.iter().find(|(link, _)| Some(*link) == name);
    let stands_for = helper.map(|(_, command)| ["credential".into(), (*command).into()]);
    std::iter::once(called)
        .chain(stands_for.into_iter().flatten())
        .chain(given)
        .collect()
}

impl Source {
    /// The credential that was asked for. Fails with [`Unserved::Nothing`] where there is none for that.
    async fn give(self, mut ask: Ask) -> anyhow::Result<Issued> {
        if ask.name.is_none() {
            ask.name.clone_from(&self.tool);
        }
        match std::env::var_os(SOCKET) {
            Some(socket) => Ok(socket::ask(Path::new(&socket), &ask).await??),
            None => self.give_of_own(&ask).await,
        }
    }

    async fn give_of_own(self, ask: &Ask) -> anyhow::Result<Issued> {
        let mut accesses = self.accesses;
        accesses.retain(|access| {
            ask.name
                .as_ref()
                .is_none_or(|name| access.tool().as_str() == name)
        });
        let access = choose_by_resource(&accesses, |access| access, ask.resource.as_ref()).cloned();
        let Some(access) = access else {
            bail!("outside of `dayfly exec` say what for: `--access tool:action`, one for each tool");
        };
        let client = self.remote.client()?;
        let task = match (self.task, self.purpose) {
            (Some(task), _) => Task::find(client, &task.to_string()).await?,
            (None, Some(purpose)) => {
                let order = Order {
                    purpose,
                    scope: Scope::new(vec![access.clone()])?,
                    on_behalf_of: None,
                    ttl: Some(self.ttl),
                    heartbeat: None,
                };
                Task::open(client, &order).await?
            }
            (None, None) => bail!("outside of `dayfly exec` name a task with `--task`, or say `--purpose`"),
        };
        let issued = task.issue(&access).await?;
        let kind = issued.credential.kind();
        let unfit = match &ask.origins {
            _ if kind != ask.kind => Some(format!("`{}` gives a {}", access.tool(), kind.replace('_', " "))),
            Some(origins) if !issued.belongs_at(origins) => Some(format!(
                "a token for `{}` is not to be sent to {}",
                access.tool(),
                origins.first().map(ToString::to_string).unwrap_or_default()
            )),
            _ => None,
        };
        let Some(why) = unfit else {
            return Ok(issued);
        };
        task.give_back(&issued.lease, "it was not for who asked").await?;
        Err(Unserved::Nothing(why).into())
    }
}

/// Whether there is none for that, as opposed to none now.
fn is_nothing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Unserved::Nothing(_)))
}

/// What stands on standard input.
fn question() -> anyhow::Result<String> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut text)
        .context("the question cannot be read")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stands_for_its_sub_command() {
        let read = |given: &[&str]| arguments(given.iter().map(OsString::from)).join(" ".as_ref());
        assert_eq!(
            read(&["/usr/bin/git-credential-dayfly", "--tool", "forge", "get"]),
            "/usr/bin/git-credential-dayfly credential git --tool forge get"
        );
        assert_eq!(
            read(&["docker-credential-dayfly", "get"]),
            "docker-credential-dayfly credential docker get"
        );
        assert_eq!(read(&["dayfly", "git"]), "dayfly git");
        assert_eq!(read(&[]), "");
    }
}
