//! The floor: what answers like a broker and does nothing, so that a figure of a broker can be told from one of HTTP,
//! of the kernel and of this machine.
//!
//! It has the listener of a broker, routes as a broker has them, reads bodies as strictly, and gives answers that a
//! broker gave, as long as they were. It decides nothing, signs nothing and remembers nothing. It runs in a process of
//! its own, so that what it costs can be told like that of a broker; `dayfly bench --floor` starts and ends it.

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use clap::Args;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::exit::Exit;
use crate::cli::terminal::Terminal;
use crate::http::wire::credentials::{AskCredential, RenewLease};
use crate::http::wire::tasks::{CompleteTask, OpenTask};
use crate::http::{Farewell, Limits, REQUEST_ID, serve};
use crate::model::ids::{LeaseId, TaskId};

/// What a broker answered, by what it was asked.
pub(super) type Samples = BTreeMap<&'static str, Value>;

/// A floor in a process of its own. It does not outlive this value.
pub(super) struct Twin {
    process: Child,
    address: String,
}

impl Twin {
    /// Starts it with these answers. Blocks until it listens.
    pub(super) fn start(samples: &Samples) -> anyhow::Result<Self> {
        let itself = std::env::current_exe().context("this program cannot be found to be the floor")?;
        let process = Command::new(itself)
            .arg("floor")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the floor cannot be started")?;
        let mut twin = Self {
            process,
            address: String::new(),
        };
        let line = format!("{}\n", serde_json::to_string(samples)?);
        if let Some(input) = &mut twin.process.stdin {
            input.write_all(line.as_bytes())?;
        }
        let mut said = String::new();
        if let Some(output) = twin.process.stdout.take() {
            std::io::BufReader::new(output).read_line(&mut said)?;
        }
        twin.address = said.trim().to_owned();
        anyhow::ensure!(!twin.address.is_empty(), "the floor does not start");
        Ok(twin)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `dayfly floor`: takes answers from standard input, says where it listens, and ends with its input.
#[derive(Args, Debug)]
pub struct Floor {}

impl Floor {
    /// Runs it.
    pub async fn run(self, terminal: &Terminal) -> anyhow::Result<Exit> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        let answers = Arc::new(Answers::read(&line)?);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        terminal.line(format!("http://{}", listener.local_addr()?))?;
        let farewell = Farewell::default();
        let stop = farewell.stop.clone();
        // It ends by itself, with this process at the latest.
        let _waits = std::thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || wait_for_end(&stop))?;
        let (_kept, routes) = tokio::sync::watch::channel(routes(answers));
        let limits = Limits {
            body: 1 << 20,
            concurrency: NonZeroUsize::MIN,
            request: Duration::from_secs(10),
            drain: Duration::from_secs(1),
        };
        serve(listener, None, routes, limits, farewell, TaskTracker::new()).await?;
        Ok(Exit::Done)
    }
}

/// Whoever started it holds the other end, and is gone when that is closed.
fn wait_for_end(stop: &CancellationToken) {
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    stop.cancel();
}

/// Bodies that were answered by a broker.
struct Answers(BTreeMap<String, Bytes>);

impl Answers {
    fn read(line: &str) -> anyhow::Result<Self> {
        let samples: BTreeMap<String, Value> = serde_json::from_str(line)
            .context("answers are expected on standard input: use `bench --floor`")?;
        let bodies = samples
            .into_iter()
            .map(|(what, answer)| (what, Bytes::from(answer.to_string())));
        Ok(Self(bodies.collect()))
    }

    /// The answer, with as many headers as a broker's.
    fn give(&self, status: StatusCode, what: &str, headers: &HeaderMap) -> Response {
        let Some(body) = self.0.get(what).filter(|_| headers.contains_key(AUTHORIZATION)) else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let id = HeaderValue::from_static("req_00000000000000000000000000");
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (REQUEST_ID, id),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (status, headers, body.clone()).into_response()
    }
}

type Asked = State<Arc<Answers>>;

fn routes(answers: Arc<Answers>) -> Router {
    let (created, ok) = (StatusCode::CREATED, StatusCode::OK);
    let open = async move |State(answers): Asked, headers: HeaderMap, Json(_): Json<OpenTask>| {
        answers.give(created, "open", &headers)
    };
    let issue =
        async move |State(answers): Asked,
                    Path(_): Path<TaskId>,
                    headers: HeaderMap,
                    Json(_): Json<AskCredential>| { answers.give(created, "issue", &headers) };
    let complete =
        async move |State(answers): Asked,
                    Path(_): Path<TaskId>,
                    headers: HeaderMap,
                    Json(_): Json<CompleteTask>| { answers.give(ok, "complete", &headers) };
    let renew =
        async move |State(answers): Asked,
                    Path(_): Path<LeaseId>,
                    headers: HeaderMap,
                    Json(_): Json<RenewLease>| { answers.give(ok, "renew", &headers) };
    let introspect = async move |State(answers): Asked, headers: HeaderMap, _form: Bytes| {
        answers.give(ok, "introspect", &headers)
    };
    Router::new()
        .route("/v1/tasks", post(open))
        .route("/v1/tasks/{id}/credentials", post(issue))
        .route("/v1/tasks/{id}/complete", post(complete))
        .route("/v1/leases/{id}/renew", post(renew))
        .route("/oauth2/introspect", post(introspect))
        .with_state(answers)
}
