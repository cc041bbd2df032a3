//! `dayfly mcp`: any MCP client reaches an MCP server over HTTP, with a token of Dayfly's at each request.
//!
//! The client starts `dayfly mcp connect` as a server of its own, on standard input and output. What it says goes to
//! the real server as Streamable HTTP, each request with a token that is good at that moment. The client holds no
//! credential: there is none in its configuration, and none that could go stale.

mod bridge;
mod events;
mod fault;
mod message;
mod stdio;
mod task;
mod upstream;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use dayfly_client::{Broker, Evidence};
use reqwest::Url;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::Remote;
use super::client::CallError;
use super::exit::Exit;
use super::memory::keep_to_oneself;
use super::task::access;
use super::terminal::Terminal;
use crate::model::access::Access;
use crate::model::name::{Purpose, UserId};
use crate::model::origin::Origin;
use crate::model::ttl::Ttl;

use bridge::Bridge;
use fault::Kind;
use task::Tool;
use upstream::Upstream;

/// How long answers are waited for once the client has closed standard input. Clients kill what takes much longer.
const GRACE: Duration = Duration::from_secs(1);
/// How long what is under way may take to stop, and the end of the session, and what is written still.
const LEAVE: Duration = Duration::from_secs(1);

/// `dayfly mcp …`
#[derive(Subcommand, Debug)]
pub enum McpCommand {
    /// Be an MCP server on standard input and output that is the one at a URL, with a fresh token at each request.
    Connect(Connect),
    /// Print what to put into the configuration of an MCP client. There is no secret in it.
    Config {
        /// What the server is called there; the tool's name when absent.
        #[arg(long)]
        name: Option<String>,
        /// How to connect.
        #[command(flatten)]
        connect: Connect,
    },
}

/// Which server, and what for.
#[derive(Args, Debug)]
#[group(skip)]
pub struct Connect {
    /// Where the MCP server is. Its origin has to be among the `origins` of the tool.
    #[arg(value_parser = endpoint)]
    url: Url,
    /// What the tokens permit: `tool:action[,action…][@resource[,resource…]]`.
    #[arg(long, value_parser = access)]
    access: Access,
    /// Why the task exists.
    #[arg(long)]
    purpose: Purpose,
    /// On whose behalf: a stable user id.
    #[arg(long)]
    on_behalf_of: Option<UserId>,
    /// How long the task takes at most, such as `8h`.
    #[arg(long)]
    ttl: Option<Ttl>,
    /// The task ends when the bridge gives no sign of life for this long.
    #[arg(long, default_value = "30s")]
    heartbeat: Ttl,
    #[command(flatten)]
    remote: Remote,
}

/// Reads the URL of a server.
fn endpoint(given: &str) -> Result<Url, String> {
    let url: Url = given
        .parse()
        .map_err(|_| "write a URL, such as https://mcp.example.org/mcp")?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("an MCP server is reached by https or http".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave out the name and the password: the bridge adds a token".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a URL with a fragment is no place to send something to".to_owned());
    }
    origin(&url).map(|_| url)
}

impl Remote {
    /// The broker, as whoever the evidence proves; what is found where none is named.
    fn broker(&self) -> Result<Broker, CallError> {
        let mut broker = Broker::builder()
            .address(&self.broker)
            .allow_plain_http()
            .no_proxy();
        if let Some(file) = &self.ca_file {
            broker = broker.ca_file(file);
        }
        match &self.evidence {
            Some(file) => broker.evidence(Evidence::file(file)).build(),
            None => broker.build(),
        }
    }
}

fn origin(url: &Url) -> Result<Origin, String> {
    let origin = url.origin().ascii_serialization();
    origin.parse().map_err(|error| format!("{error}"))
}

impl McpCommand {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        match self {
            Self::Connect(connect) => connect.run(terminal).await,
            Self::Config { name, connect } => connect.configuration(name, terminal),
        }
    }
}

/// What tells the bridge to stop.
struct Orders {
    terminate: Signal,
    interrupt: Signal,
}

impl Orders {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Ready once it is told to, each time anew.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Why the bridge ends.
enum End {
    /// The client closed standard input.
    Closed,
    /// It was told to stop, or nobody reads its output.
    Stopped,
    /// The server ended the session.
    SessionGone,
}

impl Connect {
    async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        keep_to_oneself();
        let mut orders = Orders::listen()?;
        let origin = origin(&self.url).map_err(anyhow::Error::msg)?;
        let broker = self.remote.broker()?;
        let http = upstream::http(&self.url)?;
        let access: dayfly_client::Access = written(&self.access).parse().map_err(CallError::from)?;
        let mut task = broker
            .task(self.purpose.to_string(), [access.clone()])
            .heartbeat(self.heartbeat.as_duration());
        if let Some(user) = &self.on_behalf_of {
            task = task.on_behalf_of(user.to_string());
        }
        if let Some(ttl) = self.ttl {
            task = task.ttl(ttl.as_duration());
        }
        let task = tokio::select! {
            () = orders.stop() => return Ok(Exit::Done),
            task = task.open() => task?,
        };
        let tool = Arc::new(Tool::new(broker, task, access, origin.to_string(), http.clone()));
        let (notes, noted) = stdio::notes(*terminal)?;
        if let Err(fault) = tool.credential().await {
            notes.tell(&fault.reason);
            if fault.kind == Kind::OriginRefused {
                tool.end(false)
                    .await
                    .map_err(|fault| anyhow::anyhow!(fault.reason))?;
                drop(notes);
                let _ = timeout(LEAVE, noted).await;
                return Ok(Exit::Denied);
            }
            // Anything else may be otherwise when the client asks, and is said then.
        }
        let (out, written) = stdio::output()?;
        let mut lines = stdio::lines()?;
        let upstream = Upstream::new(self.url, http, Arc::clone(&tool));
        let bridge = Arc::new(Bridge::new(Arc::clone(&tool), upstream, out, notes.clone()));
        let passing = async {
            while let Some(line) = lines.recv().await {
                bridge.take(line).await;
            }
        };
        let mut watching = pin!(async {
            tool.watch().await;
            // Every request is told so, until the client leaves.
            std::future::pending::<()>().await;
        });
        let end = tokio::select! {
            biased;
            () = orders.stop() => End::Stopped,
            () = bridge.gone() => End::SessionGone,
            () = bridge.unheard() => End::Stopped,
            () = &mut watching => End::Stopped,
            () = passing => End::Closed,
        };
        let parting = async {
            if !matches!(end, End::Stopped) {
                bridge.settle(GRACE).await;
            }
            let _ = timeout(LEAVE, bridge.stop()).await;
            let _ = timeout(LEAVE, bridge.leave()).await;
        };
        // Whoever says it once more is in a hurry. The task is ended even so.
        tokio::select! {
            () = orders.stop() => {}
            () = parting => {}
        }
        if let Err(fault) = tool.end(!matches!(end, End::SessionGone)).await {
            notes.tell(&format!("the task ends for want of heartbeats: {}", fault.reason));
        }
        let exit = match end {
            End::SessionGone => {
                notes.tell("the server ended the session");
                Exit::Failed
            }
            _ => Exit::Done,
        };
        drop((bridge, notes));
        let _ = timeout(LEAVE, async { tokio::join!(written, noted) }).await;
        Ok(exit)
    }

    fn configuration(self, name: Option<String>, terminal: &Terminal) -> anyhow::Result<Exit> {
        // Clients start servers in folders and with search paths of their own.
        let command = std::env::current_exe().context("cannot tell where this program is")?;
        let mut args: Vec<String> = ["mcp", "connect", self.url.as_str()].map(str::to_owned).into();
        let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        flag("access", written(&self.access));
        flag("purpose", self.purpose.to_string());
        if let Some(user) = &self.on_behalf_of {
            flag("on-behalf-of", user.to_string());
        }
        if let Some(ttl) = self.ttl {
            flag("ttl", ttl.to_string());
        }
        flag("heartbeat", self.heartbeat.to_string());
        flag("broker", self.remote.broker.clone());
        if let Some(evidence) = &self.remote.evidence {
            flag("evidence", text(&std::path::absolute(evidence)?)?);
        }
        let server = json!({ "command": text(&command)?, "args": args });
        let name = name.unwrap_or_else(|| self.access.tool().to_string());
        let snippet = json!({ "mcpServers": { name: server } });
        match terminal.is_json() {
            true => terminal.value(&snippet)?,
            false => terminal.line(serde_json::to_string_pretty(&snippet)?)?,
        }
        Ok(Exit::Done)
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    let text = PathBuf::from(path).into_os_string().into_string();
    text.map_err(|path| anyhow::anyhow!("{} is no text that JSON can hold", PathBuf::from(path).display()))
}

/// An access as the command line has it.
fn written(access: &Access) -> String {
    let joined = |parts: Vec<String>| parts.join(",");
    let actions = joined(access.actions().iter().map(ToString::to_string).collect());
    let resources = joined(access.resources().iter().map(ToString::to_string).collect());
    let place = if resources.is_empty() { "" } else { "@" };
    format!("{}:{actions}{place}{resources}", access.tool())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_at_a_url_of_http_without_credentials() {
        let url = endpoint("HTTPS://MCP.example.org:443/mcp?x=y").unwrap();
        assert_eq!(origin(&url).unwrap().as_str(), "https://mcp.example.org");
        assert_eq!(
            origin(&endpoint("http://[::1]:8080").unwrap()).unwrap().as_str(),
            "http://[::1]:8080"
        );
        // What a URL is for whoever sends the request, not how it was written.
        let odd = endpoint(r"http:\\a.example\@b.example/").unwrap();
        assert_eq!(origin(&odd).unwrap().as_str(), "http://a.example");
        for bad in [
            "mcp.example.org",
            "ftp://a.example/",
            "https://u:p@a.example/",
            "https://a.example/#b",
            "http://",
        ] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_access_is_written_as_it_is_read() {
        for text in ["crm:read", "crm:comment,read@customers/42,orders"] {
            assert_eq!(written(&access(text).unwrap()), text);
        }
    }
}
