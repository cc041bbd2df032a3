//! No secret is ever told to anybody but whom it is for: not to logs at their most talkative, not to the
//! journal, not in an error.

use std::fs;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Duration;

use dayfly::cli::client::{Client, Evidence};
use dayfly::config;
use dayfly::entropy::OsEntropy;
use dayfly::http::{self, Farewell, Limits};
use dayfly::keys::Algorithm;
use dayfly::keys::file::{KeyDirectory, read_key};
use dayfly::keys::key_ring::{KeyRing, Rotation};
use dayfly::ledger::redis::{Mode, RedisConfig, RedisLedger};
use dayfly::model::secret::Secret;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing_subscriber::filter::{LevelFilter, dynamic_filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::http::Api;
use crate::world::MORNING;

/// Everything that was logged while somebody listened; `None` while nobody does.
static HEARD: Mutex<Option<Vec<u8>>> = Mutex::new(None);

fn heard() -> MutexGuard<'static, Option<Vec<u8>>> {
    HEARD.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Ear;

impl Write for Ear {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(heard) = heard().as_mut() {
            heard.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes down every span and event of every thread and crate, at every level.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let everything = fmt::layer()
            .with_writer(|| Ear)
            .with_ansi(false)
            .with_span_events(fmt::format::FmtSpan::FULL);
        let while_heard = dynamic_filter_fn(|_, _| heard().is_some());
        tracing_subscriber::registry()
            .with(everything.with_filter(while_heard))
            .with(LevelFilter::TRACE)
            .init();
    });
    *heard() = Some(Vec::new());
}

fn stop_listening() -> String {
    String::from_utf8_lossy(&heard().take().unwrap_or_default()).into_owned()
}

/// What must not be seen of a token: its signature, and all of it. Anybody may know its claims.
fn of_token(token: &str) -> [String; 2] {
    let (_, signature) = token.rsplit_once('.').unwrap();
    [token.to_owned(), signature.to_owned()]
}

/// What must not be seen of a key file: each line between the first and the last.
fn of_key(pem: &str) -> impl Iterator<Item = String> {
    let lines = pem
        .lines()
        .filter(|line| !line.starts_with('-') && line.len() > 8);
    lines.map(str::to_owned).collect::<Vec<_>>().into_iter()
}

async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn logs_records_and_errors_hold_no_secret() {
    // Only the first in the process counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    listen();
    let mut secrets: Vec<String> = Vec::new();
    let mut told: Vec<String> = Vec::new();

    // A broker on a real socket, so that the HTTP stack is heard too.
    let api = Api::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (farewell, tracker) = (Farewell::default(), TaskTracker::new());
    let limits = Limits {
        body: 4096,
        concurrency: std::num::NonZeroUsize::MIN.saturating_add(7),
        request: Duration::from_secs(10),
        drain: Duration::from_secs(1),
    };
    let serving = http::serve(
        listener,
        None,
        watch::channel(api.router.clone()).1,
        limits,
        farewell.clone(),
        tracker.clone(),
    );
    let serving = tracker.spawn(serving);

    let evidence = api.world.evidence("support-bot").await.expose().to_owned();
    let stranger = api.world.evidence_of("nobody").await.expose().to_owned();
    let (body, _) = evidence.rsplit_once('.').unwrap();
    let (_, signature) = stranger.rsplit_once('.').unwrap();
    let forged = format!("{body}.{signature}");
    for token in [&evidence, &stranger, &forged] {
        secrets.extend(of_token(token));
    }
    let base = format!("http://{address}");
    let client = |evidence: &str| Client::new(&base, Some(Evidence::text(evidence))).unwrap();
    let bot = client(&evidence);

    // What goes well.
    let scope = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let task = bot.post("/v1/tasks", scope.clone()).await.unwrap();
    let task = task["id"].as_str().unwrap();
    let credentials = format!("/v1/tasks/{task}/credentials");
    let ask = json!({"tool": "crm", "actions": ["read"]});
    let issued = bot.post(&credentials, ask.clone()).await.unwrap();
    let lease = issued["lease"]["id"].as_str().unwrap();
    let renewed = bot
        .post(&format!("/v1/leases/{lease}/renew"), json!({}))
        .await
        .unwrap();
    for answer in [&issued, &renewed] {
        let token = answer["credential"]["token"].as_str().unwrap();
        secrets.extend(of_token(token));
    }
    let token = secrets[secrets.len() - 2].clone();
    told.push(bot.get(&format!("/v1/leases/{lease}")).await.unwrap().to_string());
    told.push(bot.get("/v1/leases").await.unwrap().to_string());

    // What does not.
    for (who, path, body) in [
        (&forged, "/v1/tasks".to_owned(), Some(scope.clone())),
        (&stranger, "/v1/tasks".to_owned(), Some(scope)),
        (&token, credentials.clone(), Some(ask)),
        (
            &evidence,
            credentials.clone(),
            Some(json!({"tool": "payments", "actions": ["read"]})),
        ),
        (&evidence, credentials, Some(json!({ "tool": token }))),
        (&evidence, format!("/v1/leases/{token}"), None),
        (&evidence, format!("/v1/leases?agent={token}"), None),
        (&evidence, format!("/v1/revocations?cursor={token}"), None),
        (&evidence, "/v1/journal".to_owned(), None),
    ] {
        let answer = match body {
            Some(body) => client(who).post(&path, body).await,
            None => client(who).get(&path).await,
        };
        let error = answer.unwrap_err();
        told.extend([error.to_string(), format!("{error:?}")]);
    }
    for header in [
        format!("Authorization: Basic {token}"),
        format!("Authorization: Bearer {evidence}\r\nAuthorization: Bearer {evidence}"),
        format!("Authorization: Bearer {evidence}\r\nIdempotency-Key: {token}"),
        format!("Authorization: Bearer {evidence}\r\nbroken header {token}"),
    ] {
        let request =
            format!("POST /v1/tasks?x={token} HTTP/1.1\r\nhost: x\r\n{header}\r\nconnection: close\r\n\r\n");
        told.push(raw(address, &request).await);
    }
    api.world.journal.fail(true);
    let failed = bot.post(
        "/v1/tasks",
        json!({"purpose": "p", "scope": [{"tool": "crm", "actions": ["read"]}]}),
    );
    told.push(format!("{:?}", failed.await.unwrap_err()));
    api.world.journal.fail(false);
    api.world.clock.advance(Duration::from_secs(600));
    told.push(format!("{:?}", bot.get("/v1/leases").await.unwrap_err()));
    api.world.reap().await;

    // Keys on disk, whole and damaged.
    let folder = tempfile::tempdir().unwrap();
    let entropy = OsEntropy::new();
    let rotation = Rotation {
        algorithm: Algorithm::Es256,
        period: Rotation::PERIOD,
        overlap: Duration::from_secs(3600),
    };
    let ring = KeyRing::open(folder.path(), rotation, &entropy, MORNING).unwrap();
    let directory = KeyDirectory::open(folder.path(), &entropy).unwrap();
    told.extend([format!("{ring:?}"), format!("{directory:?}")]);
    for (path, key) in directory.keys().unwrap() {
        let pem = fs::read_to_string(&path).unwrap();
        secrets.extend(of_key(&pem));
        told.push(format!("{key:?}"));
        fs::write(&path, pem.replace("-----END", "x-----END")).unwrap();
        let error = read_key(&path, &entropy).unwrap_err();
        told.extend([error.to_string(), format!("{error:?}")]);
    }

    // A password that Redis never gets to see, and one in the wrong place.
    let password = "k33p-me-s3cret";
    secrets.push(password.to_owned());
    let url = |rest: &str| Secret::new(format!("redis://dayfly:{password}@{rest}"));
    for url in [
        url("127.0.0.1:1"),
        url("127.0.0.1:1/not-a-number"),
        url("["),
        url("127.0.0.1:99999"),
    ] {
        let settings = RedisConfig::new(Mode::Single { url });
        told.push(format!("{settings:?}"));
        let Err(error) = RedisLedger::connect(&settings).await else {
            panic!("there is no Redis");
        };
        told.extend([error.to_string(), format!("{error:?}")]);
    }
    let text = format!(
        "[ledger]\nkind = 'redis'\n[ledger.redis]\nurls = ['redis://x:{password}@h:1', '{password}@']\n"
    );
    let refused = config::parse("dayfly.toml", folder.path(), &text).unwrap_err();
    told.extend([refused.to_string(), format!("{refused:?}")]);

    farewell.stop.cancel();
    serving.await.unwrap().unwrap();
    let logs = stop_listening();
    assert!(
        logs.contains("hyper") && logs.contains("dayfly"),
        "nothing was heard"
    );
    let records: Vec<String> = api
        .world
        .journal
        .records()
        .unwrap()
        .iter()
        .map(|record| format!("{record:?}"))
        .collect();
    assert!(records.len() > 5, "{records:?}");
    for secret in &secrets {
        assert!(secret.len() > 8);
        for text in told.iter().chain(&records).chain([&logs]) {
            let place = text.find(secret.as_str());
            let around = place.map(|at| text[at.saturating_sub(200)..at].to_owned());
            assert_eq!(around, None, "a secret follows");
        }
    }
}
