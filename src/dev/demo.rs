//! `dayfly demo`: the whole job on real input, told step by step. Everything goes over HTTP, as it does
//! for any agent and any tool; nothing here reaches into the broker.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::crm::Crm;
use super::estate::Estate;
use crate::app::{self, Running};
use crate::cli::client::{CallError, Client, Evidence};
use crate::cli::exit::Exit;
use crate::cli::terminal::{Terminal, Tone};
use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy as _, OsEntropy};
use crate::journal::note::NoteVerifier;
use crate::journal::receipt;
use crate::journal::verify::{Expected, verify};
use crate::model::secret::Secret;

/// Runs the demo in a folder of its own, which it removes afterwards.
pub async fn run(terminal: &Terminal) -> anyhow::Result<Exit> {
    let entropy = OsEntropy::new();
    let folder = Folder::new(&entropy)?;
    let story = Story {
        terminal,
        step: 0.into(),
    };
    let told = story.tell(folder.path(), &entropy).await;
    if told.is_ok() && !terminal.is_json() {
        terminal.line("")?;
        terminal.line(terminal.paint(Tone::Good, "every step happened as told"))?;
        terminal.line("next: `cargo run -- dev` keeps such a broker running and prints lines to paste")?;
    }
    told.map(|()| Exit::Done)
}

/// A folder that is removed when the demo is over, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(entropy: &OsEntropy) -> anyhow::Result<Self> {
        let mut name = [0; 8];
        entropy.fill(&mut name)?;
        let path = std::env::temp_dir().join(format!("dayfly-demo-{:016x}", u64::from_be_bytes(name)));
        // New, and for nobody else: whatever lies there under this name is not ours.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot write to {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::fs::remove_dir_all(&self.0).is_err() {
            let _ = writeln!(std::io::stderr(), "could not remove {}", self.0.display());
        }
    }
}

struct Story<'a> {
    terminal: &'a Terminal,
    step: std::cell::Cell<u32>,
}

impl Story<'_> {
    async fn tell(&self, folder: &Path, entropy: &OsEntropy) -> anyhow::Result<()> {
        self.title("Dayfly demo: a broker, a trust domain and a tool, all real, all on this machine")?;
        let clock = Arc::new(SystemClock::new());

        let listener = loopback().await?;
        let broker_at = listener.local_addr()?;
        let estate = Estate::lay_out(folder, broker_at, entropy)?;
        let began = Instant::now();
        let broker = app::start_on(listener, &estate.configuration()).await?;
        let crm_listener = loopback().await?;
        let crm_at = crm_listener.local_addr()?;
        estate.write_evidence(clock.now()).await?;
        let crm = Crm::start(crm_listener, broker_at, estate.evidence_file("crm-server")).await?;
        self.step(
            "start",
            &format!(
                "broker on {broker_at} (embedded ledger), CRM on {crm_at}, ready in {:?}",
                round(began.elapsed())
            ),
        )?;

        let base = format!("http://{broker_at}");
        let as_agent = |agent: &str| Client::new(&base, Some(Evidence::file(estate.evidence_file(agent))));
        let support = as_agent("support-bot")?;
        let report = as_agent("report-bot")?;
        let outcome = self.life(&support, &report, &base, crm_at).await;
        crm.stop().await;
        self.finish(broker, folder, outcome).await
    }

    /// The life of one credential, from the first request to the proof of its end: its receipt.
    async fn life(
        &self,
        support: &Client,
        report: &Client,
        base: &str,
        crm_at: SocketAddr,
    ) -> anyhow::Result<String> {
        let nobody = Client::new(base, Some(Evidence::text("eyJhbGciOiJub25lIn0.e30.")))?;
        let refused = problem(nobody.get("/v1/tools").await, 401)?;
        self.step(
            "attest",
            "support-bot proves itself with a JWT-SVID of spiffe://example.org",
        )?;
        self.more(&format!(
            "an unsigned token instead: 401 {}",
            said(&refused, "detail")
        ))?;

        let task = support
            .post(
                "/v1/tasks",
                json!({
                    "purpose": "answer ticket 4711",
                    "scope": [
                        {"tool": "crm", "actions": ["read", "comment"], "resources": ["customers/42"]},
                        {"tool": "crm", "actions": ["export"], "resources": ["customers"]}
                    ],
                    "on_behalf_of": "customer-service",
                    "ttl": "30m"
                }),
            )
            .await?;
        let id = said(&task, "id");
        self.step(
            "open",
            &format!("task {id}: \"answer ticket 4711\", for customer-service, 30m"),
        )?;

        let ask = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"], "ttl": "1h"});
        let issued = support.post(&format!("/v1/tasks/{id}/credentials"), ask).await?;
        let lease = said(&issued, "/lease/id");
        let token = Secret::new(said(&issued, "/credential/token"));
        self.step("issue", &format!("lease {lease}: crm:read on customers/42"))?;
        self.more(&format!(
            "asked for {}s, granted {}s, bounded by the {}; it can end: {}",
            said(&issued, "requested"),
            said(&issued, "granted"),
            said(&issued, "bounded_by"),
            said(&issued, "revocation")
        ))?;

        let tool = Tool::new(crm_at)?;
        let (status, body) = tool.call("customers/42", &token).await?;
        ensure!(status == 200, "the CRM answered {status}: {body}");
        self.step("use", &format!("GET /customers/42 at the CRM: 200 {body}"))?;
        let (status, body) = tool.call("customers/43", &token).await?;
        ensure!(
            status == 403,
            "the CRM answered {status} for another customer: {body}"
        );
        self.more("GET /customers/43 with the same token: 403, it is not in the credential")?;

        let ask = json!({"tool": "crm", "actions": ["export"], "resources": ["customers"]});
        let pending = problem(
            support.post(&format!("/v1/tasks/{id}/credentials"), ask).await,
            403,
        )?;
        self.step("deny", &format!("crm:export: 403 {}", said(&pending, "detail")))?;
        let theirs =
            json!({"purpose": "weekly report", "scope": [{"tool": "payments", "actions": ["read"]}]});
        let theirs = said(&report.post("/v1/tasks", theirs).await?, "id");
        let ask = json!({"tool": "payments", "actions": ["read"]});
        let denied = problem(
            report.post(&format!("/v1/tasks/{theirs}/credentials"), ask).await,
            403,
        )?;
        self.more(&format!(
            "report-bot, payments:read: 403 {}",
            said(&denied, "detail")
        ))?;
        self.more(&format!("on record as {}", said(&denied, "decision")))?;

        let ask = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
        let foreign = problem(
            report.post(&format!("/v1/tasks/{id}/credentials"), ask).await,
            404,
        )?;
        self.step(
            "isolate",
            &format!("report-bot tries that task: 404 {}", said(&foreign, "detail")),
        )?;

        let ending = Instant::now();
        let path = format!("/v1/tasks/{id}/complete?wait=5s");
        let ended = support.post(&path, json!({"outcome": "completed"})).await?;
        let answered = Instant::now();
        let denied_after = tool.until_refused(&token, ending).await?;
        self.step(
            "complete",
            &format!("the task is over, answered in {:?}", round(answered - ending)),
        )?;
        self.more(&format!(
            "its lease ended: {}, proof {} {}",
            said(&ended, "/leases/0/cause"),
            said(&ended, "/leases/0/proof"),
            said(&ended, "/leases/0/proven_at")
        ))?;
        self.step(
            "refuse",
            &format!("the same token at the CRM: 401, {denied_after:?} after we asked to complete"),
        )?;
        Ok(said(&ended, "/leases/0/receipt"))
    }

    /// Stops the broker and verifies what it wrote down, offline.
    async fn finish(
        &self,
        broker: Running,
        folder: &Path,
        outcome: anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        broker.stop(&Notify::new()).await?;
        let receipt = outcome?;
        let journal = folder.join("data/journal");
        let key: NoteVerifier = std::fs::read_to_string(journal.join("vkey"))?.trim().parse()?;
        let (claims, _) = receipt::verify(&receipt, std::slice::from_ref(&key))?;
        let expected = Expected {
            key: Some(key),
            kept: Vec::new(),
        };
        let verified = verify(&journal, &expected)?;
        ensure!(
            verified.newest.size == verified.records,
            "some records are not signed"
        );
        self.step(
            "prove",
            &format!(
                "{} records under signed checkpoints: the journal is whole",
                verified.records
            ),
        )?;
        let (lease, proof) = (claims.lease, claims.receipt);
        self.more(&format!(
            "the receipt of {lease}, signed: {} {}",
            proof.as_str(),
            proof.at()
        ))?;
        tamper(&journal)?;
        match verify(&journal, &expected) {
            Err(fault) => self.more(&format!("after changing one byte of it: {fault}")),
            Ok(_) => bail!("a changed record went unnoticed"),
        }
    }

    fn title(&self, text: &str) -> anyhow::Result<()> {
        if !self.terminal.is_json() {
            self.terminal.line(self.terminal.paint(Tone::Strong, text))?;
            self.terminal.line("")?;
        }
        Ok(())
    }

    fn step(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let number = self.step.get() + 1;
        self.step.set(number);
        if self.terminal.is_json() {
            return Ok(self
                .terminal
                .value(&json!({"step": number, "name": name, "told": text}))?);
        }
        let head = self
            .terminal
            .paint(Tone::Strong, &format!("{number:>2} {name:<9}"));
        Ok(self.terminal.line(format!("{head} {text}"))?)
    }

    fn more(&self, text: &str) -> anyhow::Result<()> {
        if self.terminal.is_json() {
            return Ok(self
                .terminal
                .value(&json!({"step": self.step.get(), "told": text}))?);
        }
        Ok(self
            .terminal
            .line(self.terminal.paint(Tone::Faint, &format!("{:13}{text}", "")))?)
    }
}

/// The CRM, as an agent's tool call reaches it.
struct Tool {
    http: reqwest::Client,
    base: String,
}

impl Tool {
    fn new(at: SocketAddr) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(5))
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            base: format!("http://{at}"),
        })
    }

    async fn call(&self, path: &str, token: &Secret) -> anyhow::Result<(u16, String)> {
        let answer = self
            .http
            .get(format!("{}/{path}", self.base))
            .bearer_auth(token.expose())
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// Calls until the tool refuses, and says how long after `since` that was.
    async fn until_refused(&self, token: &Secret, since: Instant) -> anyhow::Result<Duration> {
        while since.elapsed() < Duration::from_secs(10) {
            if self.call("customers/42", token).await?.0 == 401 {
                return Ok(round(since.elapsed()));
            }
        }
        bail!("the CRM still took the token ten seconds after the task was completed")
    }
}

async fn loopback() -> anyhow::Result<TcpListener> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?)
}

fn round(took: Duration) -> Duration {
    Duration::from_micros(u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / 100 * 100)
}

/// A member by name or by JSON pointer, as text.
fn said(value: &Value, place: &str) -> String {
    let found = if place.starts_with('/') {
        value.pointer(place)
    } else {
        value.get(place)
    };
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

/// The problem that must have come, with its status.
fn problem(answer: Result<Value, CallError>, status: u16) -> anyhow::Result<Value> {
    match answer {
        Err(error) => match error.problem() {
            Some(problem) if problem.status == Some(status) => Ok(problem.body.clone()),
            _ => bail!("expected {status}, got: {error}"),
        },
        Ok(body) => bail!("expected {status}, got {body}"),
    }
}

/// Changes one byte of a record.
fn tamper(journal: &Path) -> anyhow::Result<()> {
    let mut segments: Vec<PathBuf> = std::fs::read_dir(journal)?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .collect();
    segments.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    segments.sort();
    let first = segments.first().context("the journal has no segment")?;
    let mut bytes = std::fs::read(first)?;
    let place = bytes
        .windows(4)
        .position(|window| window == b"4711")
        .context("the purpose is not on record")?;
    if let Some(byte) = bytes.get_mut(place) {
        *byte = b'5';
    }
    Ok(std::fs::write(first, &bytes)?)
}
