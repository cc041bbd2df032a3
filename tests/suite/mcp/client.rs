//! An MCP client that starts `dayfly mcp connect` as its server, and a broker for it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStderr, ChildStdin, Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::server::Server;
use crate::process::{Api, Installation, PATIENCE, Process, Site, until};

/// A broker whose CRM is the MCP server.
pub(super) struct House {
    pub(super) installation: Installation,
    pub(super) site: Site,
    _broker: Process,
}

impl House {
    pub(super) async fn for_server(server: &Server) -> Self {
        Self::with_crm(|text| {
            format!("{text}\n").replace(
                "[actions]",
                &format!("origins = [\"{}\"]\n\n[actions]", server.origin),
            )
        })
        .await
    }

    pub(super) async fn with_crm(change: impl FnOnce(String) -> String) -> Self {
        let installation = Installation::new();
        installation.change("tools/crm.toml", change);
        let site = installation.broker();
        let broker = site.start().await;
        Self {
            installation,
            site,
            _broker: broker,
        }
    }

    pub(super) async fn api(&self, agent: &str) -> Api {
        self.installation.api(agent, &self.site).await
    }

    /// The flags of every connection, and these.
    pub(super) async fn flags(&self, url: &str, more: &[&str]) -> Vec<String> {
        let evidence = self.installation.evidence_file("support-bot").await;
        let mut flags = vec![url.to_owned()];
        if !more.contains(&"--access") {
            flags.extend(["--access".to_owned(), "crm:read@customers/42".to_owned()]);
        }
        flags.extend(more.iter().map(|it| (*it).to_owned()));
        flags.extend(["--purpose", "answer ticket 4711", "--broker"].map(str::to_owned));
        flags.push(self.installation.issuer());
        flags.extend(["--evidence".to_owned(), evidence.display().to_string()]);
        flags
    }

    pub(super) async fn connect(&self, server: &Server, more: &[&str]) -> Client {
        Client::start(env!("CARGO_BIN_EXE_dayfly"), &self.arguments(server, more).await)
    }

    pub(super) async fn arguments(&self, server: &Server, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["mcp".to_owned(), "connect".to_owned()];
        arguments.extend(self.flags(&server.url(), more).await);
        arguments
    }

    /// Connects, and waits for the end that is to come by itself.
    pub(super) async fn refused(&self, server: &Server, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
        command
            .args(self.arguments(server, more).await)
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// The one task of the agent, once it is there.
    pub(super) async fn task(&self) -> String {
        let site = &self.site;
        until("a task", async || {
            let opened = site
                .records()
                .into_iter()
                .find(|record| record["verb"] == "open")?;
            opened["task"].as_str().map(str::to_owned)
        })
        .await
    }

    pub(super) async fn state_of(&self, task: &str) -> (String, String) {
        let (_, shown) = self
            .api("support-bot")
            .await
            .get(&format!("/v1/tasks/{task}"))
            .await
            .unwrap();
        let text = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
        (text("state"), text("outcome"))
    }

    /// Tells the broker something about the task, as its agent.
    pub(super) async fn tell(&self, task: &str, deed: &str) {
        let path = format!("/v1/tasks/{task}/{deed}");
        let (status, answer) = self
            .api("support-bot")
            .await
            .post(&path, &json!({}))
            .await
            .unwrap();
        assert_eq!(status, 200, "{answer}");
    }

    /// Waits for the end of a task, which may be told in the background, and says how it has to be.
    pub(super) async fn ends_as(&self, task: &str, outcome: &str) {
        let ended = until("the end of the task", async || {
            let (state, outcome) = self.state_of(task).await;
            (state == "ended").then_some(outcome)
        });
        assert_eq!(ended.await, outcome);
    }

    /// Whether the broker would still let a token pass.
    pub(super) async fn is_active(&self, token: &str) -> bool {
        let (_, found) = self
            .api("crm-server")
            .await
            .token("/oauth2/introspect", token)
            .await
            .unwrap();
        found["active"] == true
    }
}

/// The client's end of the bridge.
pub(super) struct Client {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    notes: Option<JoinHandle<String>>,
    /// Open, and not read.
    unread: Option<ChildStderr>,
}

/// How a bridge ended.
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) notes: String,
}

impl Client {
    pub(super) fn start(program: &str, arguments: &[String]) -> Self {
        let mut client = Self::start_unread(program, arguments);
        let mut stderr = client.unread.take().unwrap();
        let notes = std::thread::Builder::new().spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        client.notes = Some(notes.unwrap());
        client
    }

    /// One that reads no notes.
    pub(super) fn start_unread(program: &str, arguments: &[String]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).env_clear();
        let piped = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::Builder::new()
            .spawn(move || {
                for line in stdout.lines().map_while(Result::ok) {
                    let _nobody_reads_any_more = sender.send(line);
                }
            })
            .unwrap();
        Self {
            stdin: child.stdin.take(),
            unread: child.stderr.take(),
            child,
            lines,
            notes: None,
        }
    }

    /// Sends a line as it is.
    pub(super) fn write(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        writeln!(stdin, "{line}").unwrap();
    }

    pub(super) fn send(&mut self, message: &Value) {
        self.write(&message.to_string());
    }

    pub(super) fn ask(&mut self, id: u64, method: &str, params: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
    }

    pub(super) fn tell(&mut self, method: &str, params: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    /// The next message. Nothing but JSON-RPC may be there, and no token.
    pub(super) async fn hear(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.recv()).await;
        let line = line.expect("nothing is heard").expect("the bridge ended");
        assert!(!line.contains("eyJ"), "{line}");
        let message: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(message["jsonrpc"], "2.0");
        message
    }

    /// Asks, and gives the answer, which has to be the next message.
    pub(super) async fn call(&mut self, id: u64, method: &str, params: &Value) -> Value {
        self.ask(id, method, params);
        let answer = self.hear().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// Begins a session as a client of 2025 does.
    pub(super) async fn initialize(&mut self) {
        self.initialize_as("2025-11-25").await;
    }

    pub(super) async fn initialize_as(&mut self, version: &str) {
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let answer = self.call(0, "initialize", &params).await;
        assert_eq!(answer["result"]["protocolVersion"], version, "{answer}");
        self.tell("notifications/initialized", &json!({}));
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn terminate(&self) {
        let id = self.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Closes its input.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    pub(super) async fn ended(mut self) -> Ended {
        let child = &mut self.child;
        let status = until("the end of the bridge", async || child.try_wait().unwrap()).await;
        let notes = self
            .notes
            .take()
            .map(|notes| notes.join().unwrap())
            .unwrap_or_default();
        assert!(!notes.contains("eyJ"), "{notes}");
        Ended {
            code: status.code(),
            notes,
        }
    }

    /// Closes its input and waits for its end, which has to be a good one.
    pub(super) async fn leave(mut self) -> String {
        self.close();
        let ended = self.ended().await;
        assert_eq!(ended.code, Some(0), "{}", ended.notes);
        ended.notes
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}
