//! The real binary on the files of a real installation, for tests that kill it and take things away.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::dev::estate::Estate;
use dayfly::entropy::{OsEntropy, draw};
use dayfly::ledger::redis::Mode;
use dayfly::model::secret::Secret;
use dayfly::model::time::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

/// The longest that anything here is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Files, and a trust domain that vouches for the workloads of the examples.
pub(crate) struct Installation {
    folder: TempDir,
    estate: Estate,
    address: SocketAddr,
}

impl Installation {
    /// With an embedded ledger. Claims of a reaper that died come back after two seconds, and nobody
    /// runs out of budget.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let address = free_address();
        let estate = Estate::lay_out(folder.path(), address, &OsEntropy::new()).unwrap();
        let this = Self {
            folder,
            estate,
            address,
        };
        this.change("agents/support-bot.toml", |text| {
            text.replace("live_credentials = 200", "live_credentials = 1000000")
                .replace("open_tasks = 200", "open_tasks = 1000000")
        });
        this.change("dayfly.toml", |text| {
            text + "\n[reaper]\nhold = \"2s\"\n\n[telemetry]\nlevel = \"dayfly=info\"\n"
        });
        this
    }

    /// With a ledger of its own on these Redis servers.
    pub(crate) fn on(mode: Mode) -> Self {
        let (mode, urls) = match mode {
            Mode::Single { url } => ("single", vec![url]),
            Mode::Cluster { urls } => ("cluster", urls),
            Mode::Sentinel { .. } => panic!("not needed here"),
        };
        let urls: Vec<&str> = urls.iter().map(Secret::expose).collect();
        let random: [u8; 8] = draw(&OsEntropy::new()).unwrap();
        let prefix = format!("test-{:016x}", u64::from_be_bytes(random));
        let this = Self::new();
        this.change("dayfly.toml", |text| {
            text.replace("kind = \"embedded\"", "kind = \"redis\"")
                + &format!(
                    "\n[ledger.redis]\nmode = \"{mode}\"\nurls = {urls:?}\nprefix = \"{prefix}\"\nshards = 8\n"
                )
        });
        this
    }

    /// Rewrites one of the files.
    pub(crate) fn change(&self, path: &str, change: impl FnOnce(String) -> String) {
        let path = self.folder.path().join(path);
        let text = change(fs::read_to_string(&path).unwrap());
        fs::write(path, text).unwrap();
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.estate.configuration()
    }

    /// What tokens say about who issued them.
    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Evidence of an agent's workload; good for five minutes.
    pub(crate) async fn evidence(&self, agent: &str) -> String {
        self.estate
            .evidence(agent, SystemClock::new().now())
            .await
            .unwrap()
    }

    /// A file with evidence of an agent's workload.
    pub(crate) async fn evidence_file(&self, agent: &str) -> PathBuf {
        self.estate
            .write_evidence(SystemClock::new().now())
            .await
            .unwrap();
        self.estate.evidence_file(agent)
    }

    /// The first broker.
    pub(crate) fn broker(&self) -> Site {
        Site {
            configuration: self.configuration(),
            address: self.address,
            journal: self.path("data/journal"),
            environment: None,
        }
    }

    /// A second broker of the same name, with the same keys and ledger, and a journal of its own.
    pub(crate) fn replica(&self) -> Site {
        let address = free_address();
        let text = fs::read_to_string(self.configuration()).unwrap();
        let text = text
            .replace(
                &format!("listen = \"{}\"", self.address),
                &format!("listen = \"{address}\""),
            )
            .replace("data/journal", "data/journal-of-the-replica");
        let configuration = self.path("replica.toml");
        fs::write(&configuration, text).unwrap();
        Site {
            configuration,
            address,
            journal: self.path("data/journal-of-the-replica"),
            environment: None,
        }
    }

    /// An agent that asks this broker.
    pub(crate) async fn api(&self, agent: &str, site: &Site) -> Api {
        Self::api_with(self.evidence(agent).await, site)
    }

    /// The same with this evidence.
    pub(crate) fn api_with(evidence: String, site: &Site) -> Api {
        Api {
            client: client(),
            evidence,
            base: format!("http://{}", site.address),
        }
    }

    /// Evidence of an agent's workload that was given out then, for five minutes.
    pub(crate) async fn evidence_of(&self, agent: &str, then: Timestamp) -> String {
        self.estate.evidence(agent, then).await.unwrap()
    }
}

/// A broker that can be started there.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) configuration: PathBuf,
    pub(crate) address: SocketAddr,
    pub(crate) journal: PathBuf,
    /// All that is in its environment, where that is not ours.
    pub(crate) environment: Option<Vec<(String, String)>>,
}

impl Site {
    /// Starts a process and returns once it answers.
    pub(crate) async fn start(&self) -> Process {
        let mut process = self.launch();
        let client = client();
        let url = format!("http://{}/healthz", self.address);
        let deadline = Instant::now() + PATIENCE;
        let answers = async || {
            let answer = client.get(&url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        while !answers().await {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended with {ended:?}: {}", process.log());
            assert!(Instant::now() < deadline, "it does not answer: {}", process.log());
            tokio::time::sleep(LOOK).await;
        }
        process
    }

    /// Starts a process, which may fail.
    pub(crate) fn launch(&self) -> Process {
        static LAUNCHED: AtomicUsize = AtomicUsize::new(0);
        let number = LAUNCHED.fetch_add(1, Ordering::Relaxed);
        let log = self.configuration.with_extension(format!("{number}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
        if let Some(environment) = &self.environment {
            command.env_clear().envs(environment.iter().cloned());
        }
        let child = command
            .arg("serve")
            .arg("--config")
            .arg(&self.configuration)
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// `dayfly journal verify` on its journal, with its key.
    #[track_caller]
    pub(crate) fn verify_journal(&self) {
        let verified = dayfly(&[
            "journal".as_ref(),
            "verify".as_ref(),
            self.journal.as_os_str(),
            "--key".as_ref(),
            self.journal.join("vkey").as_os_str(),
        ]);
        assert!(verified.status.success(), "{verified:?}");
    }

    /// Every record in its journal.
    pub(crate) fn records(&self) -> Vec<Value> {
        let mut segments: Vec<PathBuf> = fs::read_dir(&self.journal)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
            .collect();
        segments.sort();
        let records = segments.iter().flat_map(|path| records_in(path));
        records.collect()
    }
}

fn records_in(segment: &Path) -> Vec<Value> {
    let lines = fs::read_to_string(segment).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs a command of the binary to its end.
pub(crate) fn dayfly(arguments: &[&std::ffi::OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dayfly"))
        .args(arguments)
        .output()
        .unwrap()
}

/// A broker in a process of its own. It does not outlive this value.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// As if the machine had lost its power, for this process at least.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// By which the system knows it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Tells it to look at its files.
    pub(crate) fn hang_up(&self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-HUP", &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks it to stop and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        let status = self.ended().await;
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// Whether it came to an end by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}

/// An agent, and the broker that it asks.
#[derive(Clone)]
pub(crate) struct Api {
    client: reqwest::Client,
    evidence: String,
    base: String,
}

/// A status and a body, or no answer.
pub(crate) type Answer = Result<(u16, Value), reqwest::Error>;

impl Api {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        read(self.client.get(format!("{}{path}", self.base)), &self.evidence).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        let request = self.client.put(format!("{}{path}", self.base)).json(body);
        read(request, &self.evidence).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        read(self.client.delete(format!("{}{path}", self.base)), &self.evidence).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base)).json(body);
        read(request, &self.evidence).await
    }

    /// Sends a signed token about an event.
    pub(crate) async fn push(&self, path: &str, set: String) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = request
            .header("content-type", "application/secevent+jwt")
            .body(set);
        read(request, &self.evidence).await
    }
}

impl Api {
    /// Sends a token in a form, as OAuth has it.
    pub(crate) async fn token(&self, path: &str, token: &str) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base));
        read(request.form(&[("token", token)]), &self.evidence).await
    }
}

/// What an outage has to look like: the answer names no credential, and says when to come again.
pub(crate) async fn unavailable(api: &Api, path: &str, body: &Value) -> bool {
    let request = api.client.post(format!("{}{path}", api.base)).json(body);
    let response = request.bearer_auth(&api.evidence).send().await.unwrap();
    if response.status() != 503 {
        return false;
    }
    let headers = response.headers();
    assert_eq!(headers["content-type"], "application/problem+json");
    assert!(headers.contains_key("retry-after"), "{headers:?}");
    let body = response.text().await.unwrap();
    assert!(!body.contains("eyJ"), "{body}");
    true
}

async fn read(request: reqwest::RequestBuilder, evidence: &str) -> Answer {
    let response = request.bearer_auth(evidence).send().await?;
    let status = response.status().as_u16();
    let body = response.bytes().await?;
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn client() -> reqwest::Client {
    // Only the first one counts, and all are the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::ClientBuilder::new().timeout(PATIENCE).build().unwrap()
}

/// Looks again and again until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// An address that nobody listens on, and that no connection gets by chance: below the ports that
/// systems hand out.
fn free_address() -> SocketAddr {
    loop {
        let random: [u8; 2] = draw(&OsEntropy::new()).unwrap();
        let port = 10_000 + u16::from_be_bytes(random) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// What it has written is what the other one's workloads and broker go by.
#[test]
fn a_second_dev_in_one_folder_leaves_the_first_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = std::fs::File::create(folder.path().join("lock")).unwrap();
    first.try_lock().unwrap();
    let second = dayfly(&["dev".as_ref(), "--folder".as_ref(), folder.path().as_os_str()]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("another `dayfly dev` runs in"), "{said}");
    assert!(!folder.path().join("dayfly.toml").exists());
}
