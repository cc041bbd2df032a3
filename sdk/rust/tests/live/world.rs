//! `dayfly dev` in a folder of its own: a broker, a trust domain with four workloads, and a CRM.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use dayfly_client::{Broker, Builder, Error, Evidence};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// The longest that anything here is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What these tests ask for most.
pub(crate) const READ: &str = "crm:read@customers/42";

/// A broker that does not outlive this value.
pub(crate) struct World {
    folder: TempDir,
    _process: Child,
    pub(crate) broker: String,
    pub(crate) tool: String,
}

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DAYFLY_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("dayfly");
    assert!(
        path.exists(),
        "{} is missing: `cargo build`, or set DAYFLY_BIN",
        path.display()
    );
    path
}

impl World {
    pub(crate) async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let mut process = Command::new(binary())
            .args([
                "--json",
                "dev",
                "--listen",
                "127.0.0.1:0",
                "--tool",
                "127.0.0.1:0",
                "--folder",
            ])
            .arg(folder.path())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap();
        let told: Value = serde_json::from_str(&line.expect("it says where it is")).unwrap();
        Self {
            broker: told["broker"].as_str().unwrap().to_owned(),
            tool: told["tool"].as_str().unwrap().to_owned(),
            folder,
            _process: process,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn evidence_file(&self, agent: &str) -> PathBuf {
        self.folder.path().join(format!("evidence/{agent}.jwt"))
    }

    pub(crate) fn evidence(&self, agent: &str) -> String {
        std::fs::read_to_string(self.evidence_file(agent)).unwrap()
    }

    /// An agent that asks the broker at this address.
    pub(crate) fn builder(&self, agent: &str, address: &str) -> Builder {
        let evidence = Evidence::file(self.evidence_file(agent));
        Broker::builder().address(address).evidence(evidence)
    }

    pub(crate) fn agent(&self, agent: &str) -> Broker {
        self.builder(agent, &self.broker).build().unwrap()
    }

    /// Says in the catalogue where the CRM is.
    pub(crate) async fn place_crm(&self, origins: &[&str]) {
        let listed = format!("origins = {origins:?}");
        self.change("tools/crm.toml", |text| {
            let line = text.lines().find(|line| line.starts_with("origins = ")).unwrap();
            text.replace(line, &listed)
        })
        .await;
    }

    /// The URL of a customer at the CRM.
    pub(crate) fn customer(&self, number: u32) -> String {
        format!("{}/customers/{number}", self.tool)
    }

    /// What the CRM says to a token.
    pub(crate) async fn asked_with(&self, token: &str) -> u16 {
        // `Request` has no default provider to build with here, so the client for it comes from the crate.
        let answer = crate::way::get(&self.customer(42), Some(token)).await;
        answer.0
    }

    /// Waits until the CRM has heard that a token is dead.
    pub(crate) async fn until_dead(&self, token: &str) {
        until("the token is refused", async || {
            (self.asked_with(token).await == 401).then_some(())
        })
        .await;
    }

    /// A task as somebody sees who may see everything.
    pub(crate) async fn task(&self, id: &str) -> Value {
        let ops = self.agent("ops-console");
        ops.api().get(&format!("/v1/tasks/{id}")).await.unwrap()
    }

    /// Waits until a task has ended, and says how.
    pub(crate) async fn outcome(&self, id: &str) -> String {
        until("the task has ended", async || {
            Some(self.task(id).await["outcome"].as_str()?.to_owned())
        })
        .await
    }

    /// The leases of an agent that are not at their end.
    pub(crate) async fn live_leases(&self, agent: &str) -> usize {
        let ops = self.agent("ops-console");
        let query = [("agent", agent.to_owned()), ("state", "active".to_owned())];
        let page = ops.api().list("/v1/leases", &query).await.unwrap();
        page["leases"].as_array().unwrap().len()
    }

    /// Ends a task from outside.
    pub(crate) async fn revoke(&self, task: &str) {
        let ops = self.agent("ops-console");
        let path = format!("/v1/tasks/{task}/revoke");
        ops.api().post(&path, &json!({"reason": "a test"})).await.unwrap();
    }

    /// Rewrites one of the broker's files, and puts it in force.
    pub(crate) async fn change(&self, path: &str, change: impl FnOnce(String) -> String) {
        let path = self.folder.path().join(path);
        let text = change(std::fs::read_to_string(&path).unwrap());
        std::fs::write(&path, text).unwrap();
        let ops = self.agent("ops-console");
        ops.api().post("/v1/rules/reload", &json!({})).await.unwrap();
    }
}

/// Looks again and again until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The error of work that must not succeed.
pub(crate) fn error<T>(outcome: Result<T, Error>) -> Error {
    match outcome {
        Ok(_) => panic!("it went well"),
        Err(error) => error,
    }
}
