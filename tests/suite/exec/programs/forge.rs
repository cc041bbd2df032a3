//! A forge: repositories over HTTP by git's own backend, behind a door that takes tokens.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// A forge with one repository, `team/docs.git`.
pub(super) struct Forge {
    pub(super) url: String,
    door: Arc<Door>,
    _serving: AbortOnDropHandle<()>,
}

struct Door {
    folder: TempDir,
    /// How it asks for the token.
    scheme: &'static str,
    /// Tokens that came, and those that are not taken any more.
    came: Mutex<Vec<String>>,
    forgotten: Mutex<Vec<String>>,
}

/// Whether this git can send what is no name and password: from 2.46 on.
pub(super) fn git_sends_bearer() -> bool {
    let version = Command::new("git").arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(2), Some(46))
}

impl Forge {
    pub(super) async fn open(scheme: &'static str) -> Self {
        let folder = TempDir::new().unwrap();
        let repository = folder.path().join("team/docs.git");
        fs::create_dir_all(&repository).unwrap();
        git(&["init", "-q", "--bare", "."], &repository);
        git(&["config", "http.receivepack", "true"], &repository);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let door = Arc::new(Door {
            folder,
            scheme,
            came: Mutex::default(),
            forgotten: Mutex::default(),
        });
        let router = Router::new().fallback(enter).with_state(door.clone());
        let serving = TaskTracker::new().spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            url,
            door,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// The claims of the tokens that came.
    pub(super) fn claims(&self) -> Vec<Value> {
        let came = self.door.came.lock().unwrap();
        came.iter()
            .map(|token| {
                let claims = token.split('.').nth(1).unwrap();
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
            })
            .collect()
    }

    /// Takes none any more of the tokens that came.
    pub(super) fn forget(&self) {
        *self.door.forgotten.lock().unwrap() = self.door.came.lock().unwrap().clone();
    }

    /// The branches of its repository.
    pub(super) fn branches(&self) -> Vec<String> {
        let repository = self.door.folder.path().join("team/docs.git");
        let listed = git(&["for-each-ref", "--format=%(refname:short)"], &repository);
        listed.lines().map(str::to_owned).collect()
    }
}

fn git(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn token(scheme: &str, headers: &HeaderMap) -> Option<String> {
    let (came, value) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    if !came.eq_ignore_ascii_case(scheme) {
        return None;
    }
    match scheme {
        "Basic" => {
            let text = String::from_utf8(STANDARD.decode(value).ok()?).ok()?;
            Some(text.split_once(':')?.1.to_owned())
        }
        _ => Some(value.to_owned()),
    }
}

async fn enter(
    State(door): State<Arc<Door>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let known = token(door.scheme, &headers).filter(|token| !door.forgotten.lock().unwrap().contains(token));
    let Some(token) = known else {
        let ask = format!("{} realm=\"forge\"", door.scheme);
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", ask)]).into_response();
    };
    door.came.lock().unwrap().push(token);
    let text = |name: &str| {
        headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
            .to_owned()
    };
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", door.folder.path())
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "agent")
        .env("REQUEST_METHOD", method.as_str())
        .env("PATH_INFO", uri.path())
        .env("QUERY_STRING", uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", text("content-type"))
        .env("HTTP_CONTENT_ENCODING", text("content-encoding"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = backend.stdin.take().unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        stdin.write_all(&body).unwrap();
        drop(stdin);
        backend.wait_with_output().unwrap().stdout
    });
    let answer = answer.await.unwrap();
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .unwrap();
    let head = std::str::from_utf8(&answer[..end]).unwrap();
    let mut response = Response::builder();
    for line in head.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        response = match name {
            "Status" => response.status(value.split(' ').next().unwrap().parse::<u16>().unwrap()),
            _ => response.header(name, value),
        };
    }
    response.body(answer[end + 4..].to_vec().into()).unwrap()
}
