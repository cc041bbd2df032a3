//! Redis servers to test against: those that the environment names, and a server of a test's own to
//! mistreat.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use dayfly::ledger::redis::Mode;
use dayfly::model::secret::Secret;
use tempfile::TempDir;
use tokio::time::Instant;

/// Where the servers are, or nothing, said once and past the test harness, which would swallow it.
fn urls(variable: &str, said: &Once) -> Option<Vec<Secret>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the only thing that tells where servers are"
    )]
    let urls = std::env::var(variable).ok();
    if urls.is_none() {
        said.call_once(|| {
            let line = format!("{variable} is not set: its tests of the Redis ledger are skipped\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        });
    }
    Some(urls?.split(',').map(Secret::new).collect())
}

pub(crate) fn single() -> Option<Mode> {
    static SAID: Once = Once::new();
    let url = urls("DAYFLY_TEST_REDIS", &SAID)?.remove(0);
    Some(Mode::Single { url })
}

pub(crate) fn cluster() -> Option<Mode> {
    static SAID: Once = Once::new();
    let urls = urls("DAYFLY_TEST_REDIS_CLUSTER", &SAID)?;
    Some(Mode::Cluster { urls })
}

pub(crate) fn sentinel() -> Option<Mode> {
    static SAID: Once = Once::new();
    let urls = urls("DAYFLY_TEST_REDIS_SENTINEL", &SAID)?;
    let (master, nodes) = ("dayfly".to_owned(), None);
    Some(Mode::Sentinel { urls, master, nodes })
}

/// A server of a test's own, with an append-only file that survives it.
pub(crate) struct Server {
    port: u16,
    directory: TempDir,
    process: Child,
    arguments: &'static [&'static str],
}

impl Server {
    /// `None` where no servers are wanted.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with("save \"\"\nappendonly yes\n", &[]).await
    }

    /// With a configuration file, which a Sentinel needs, and more arguments.
    pub(crate) async fn start_with(file: &str, arguments: &'static [&'static str]) -> Option<Self> {
        single()?;
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("redis.conf"), file).unwrap();
        let process = Self::launch(port, &directory, arguments);
        let server = Self {
            port,
            directory,
            process,
            arguments,
        };
        server.answers().await;
        Some(server)
    }

    fn launch(port: u16, directory: &TempDir, arguments: &[&str]) -> Child {
        Command::new("redis-server")
            .arg(directory.path().join("redis.conf"))
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(directory.path())
            .args(arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    pub(crate) fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) async fn restart(&mut self) {
        self.process = Self::launch(self.port, &self.directory, self.arguments);
        self.answers().await;
    }

    async fn answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.say::<String>(&["PING"]).is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn say<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        let mut command = redis::Cmd::new();
        command.arg(words).query(&mut connection)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> Secret {
        Secret::new(format!("redis://127.0.0.1:{}", self.port))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
