//! What proves the workload to the broker, and where it comes from.

mod discover;
mod github;
#[cfg(feature = "spiffe")]
mod spiffe;

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::ambient;
use crate::error::Error;
use crate::secret::Secret;

pub(crate) use discover::{Surroundings, discover};

/// The longest file that is read as evidence, in bytes.
const LONGEST: u64 = 64 * 1024;

/// What a callable source answers.
type Asked = Pin<Box<dyn Future<Output = Result<Secret, Error>> + Send>>;

/// Where the workload's evidence comes from: a JWT-SVID, a Kubernetes service-account token, or an ID token.
///
/// A [`Broker`](crate::Broker) that is given none looks for it, in this order: `DAYFLY_EVIDENCE_FILE`,
/// `DAYFLY_EVIDENCE`, `SPIFFE_ENDPOINT_SOCKET`, `/var/run/secrets/dayfly/token`, GitHub Actions, and, for a broker on
/// this machine, the files of `dayfly dev` for the agent `DAYFLY_AGENT`.
#[derive(Clone)]
pub struct Evidence(Source);

#[derive(Clone)]
enum Source {
    None,
    File(PathBuf),
    Text(Secret),
    Fn(Arc<dyn Fn() -> Asked + Send + Sync>),
    GitHub(Arc<github::GitHub>),
    #[cfg(feature = "spiffe")]
    Spiffe(Arc<spiffe::WorkloadApi>),
}

impl Evidence {
    /// A file, read anew for each request, since whoever writes it rotates it.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(Source::File(path.into()))
    }

    /// A token that the caller holds.
    pub fn text(token: impl Into<Secret>) -> Self {
        Self(Source::Text(token.into()))
    }

    /// Whatever a function gives. It is asked before each request, so it keeps what is still good.
    ///
    /// ```
    /// use dayfly_client::{Error, Evidence};
    ///
    /// let evidence = Evidence::from_fn(async || Ok::<_, Error>("eyJ…"));
    /// # let _ = evidence;
    /// ```
    pub fn from_fn<F, Fut, S, E>(source: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<S, E>> + Send + 'static,
        S: Into<Secret>,
        E: fmt::Display,
    {
        let ask = move || -> Asked {
            let asked = source();
            Box::pin(async move {
                let given = asked.await.map(Into::into);
                given.map_err(|error| Error::no_evidence("the evidence cannot be had", error.to_string()))
            })
        };
        Self(Source::Fn(Arc::new(ask)))
    }

    /// A JWT-SVID for this audience from the SPIFFE Workload API at `endpoint`: `unix:///run/spire/agent.sock` or
    /// `tcp://127.0.0.1:8081`. Kept until half of its life is over.
    #[cfg(feature = "spiffe")]
    pub fn spiffe(endpoint: &str, audience: &str) -> Result<Self, Error> {
        let api = spiffe::WorkloadApi::new(endpoint, audience)?;
        Ok(Self(Source::Spiffe(Arc::new(api))))
    }

    /// None: only what needs none is answered.
    pub fn none() -> Self {
        Self(Source::None)
    }

    pub(crate) fn is_none(&self) -> bool {
        matches!(self.0, Source::None)
    }

    /// The evidence for one request. `anew` when the last was refused: nothing that is kept is good then.
    pub(crate) async fn fetch(&self, anew: bool) -> Result<Option<Secret>, Error> {
        let (name, text) = match &self.0 {
            Source::None => return Ok(None),
            Source::Text(text) => ("given".to_owned(), text.clone()),
            Source::File(path) => {
                let name = path.display().to_string();
                // A file of a kilobyte, in memory more often than not: no thread is worth it.
                let text = read(path).map_err(|error| unreadable(&name, &error))?;
                (name, Secret::from(text))
            }
            Source::Fn(ask) => ("given".to_owned(), ask().await?),
            Source::GitHub(github) => ("GitHub Actions".to_owned(), github.fetch(anew).await?),
            #[cfg(feature = "spiffe")]
            Source::Spiffe(api) => ("SPIFFE_ENDPOINT_SOCKET".to_owned(), api.fetch(anew).await?),
        };
        let token = text.reveal().trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unreadable(&name, &"it is not the text of one token"));
        }
        Ok(Some(match token.len() == text.reveal().len() {
            true => text,
            false => Secret::from(token),
        }))
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::None => f.write_str("Evidence::none"),
            Source::File(path) => write!(f, "Evidence::file({path:?})"),
            Source::Text(_) => f.write_str("Evidence::text(<redacted>)"),
            Source::Fn(_) => f.write_str("Evidence::from_fn(…)"),
            Source::GitHub(_) => f.write_str("Evidence of GitHub Actions"),
            #[cfg(feature = "spiffe")]
            Source::Spiffe(api) => write!(f, "Evidence::spiffe({:?})", api.endpoint()),
        }
    }
}

/// Reads a file, and nothing else: a pipe would hold up everybody on this thread.
fn read(path: &Path) -> io::Result<String> {
    let refused = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if !std::fs::metadata(path)?.is_file() {
        return refused("it is no file");
    }
    let mut text = String::new();
    File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()).is_ok_and(|length| length <= LONGEST) {
        true => Ok(text),
        false => refused("it is longer than 64 KiB"),
    }
}

fn unreadable(name: &str, problem: &dyn fmt::Display) -> Error {
    Error::no_evidence(
        format!("the evidence `{name}` cannot be read"),
        problem.to_string(),
    )
}

/// A token that is kept for a while.
#[derive(Default)]
struct Kept(Mutex<Option<(Secret, SystemTime)>>);

impl Kept {
    /// The kept token while it is good, or a new one, which one caller fetches for all who wait. `until` says how long
    /// to keep it, from when it was fetched and when it expires.
    async fn get(
        &self,
        anew: bool,
        until: fn(SystemTime, SystemTime) -> SystemTime,
        fetch: impl AsyncFnOnce() -> Result<Secret, Error>,
    ) -> Result<Secret, Error> {
        let mut kept = self.0.lock().await;
        if let Some((token, until)) = &*kept
            && !anew
            && ambient::now() < *until
        {
            return Ok(token.clone());
        }
        let fetched_at = ambient::now();
        let token = fetch().await?;
        // What says nothing of its end is asked for each time.
        let until = expiry(&token).map_or(fetched_at, |expires_at| until(fetched_at, expires_at));
        *kept = Some((token.clone(), until));
        Ok(token)
    }
}

/// The `exp` of a JWT. Nobody verifies it here: it is our own.
fn expiry(token: &Secret) -> Option<SystemTime> {
    let payload = token.reveal().split('.').nth(1)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    let seconds = claims.get("exp")?.as_u64()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    pub(super) fn token(life: Duration, number: u32) -> String {
        let exp = (ambient::now() + life)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let claims = serde_json::json!({"exp": exp, "number": number}).to_string();
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[tokio::test]
    async fn a_file_is_read_anew_each_time_and_is_one_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("evidence.jwt");
        let evidence = Evidence::file(&path);
        let error = evidence.fetch(false).await.unwrap_err();
        assert!(matches!(error, Error::AttestationFailed(_)));
        assert!(error.to_string().contains("evidence.jwt"), "{error}");
        for text in ["first", " second\n"] {
            std::fs::write(&path, text).unwrap();
            let read = evidence.fetch(false).await.unwrap().unwrap();
            assert_eq!(read.reveal(), text.trim());
        }
        for bad in ["", "\n", "two tokens", "line\nline", "schlüssel"] {
            std::fs::write(&path, bad).unwrap();
            let error = evidence.fetch(false).await.unwrap_err().to_string();
            assert!(error.contains("not the text of one token"), "{error}");
            assert!(bad.trim().is_empty() || !error.contains(bad), "{error}");
        }
    }

    #[tokio::test]
    async fn what_is_no_file_or_too_long_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("long.jwt");
        std::fs::write(&long, "a".repeat(64 * 1024 + 1)).unwrap();
        let error = Evidence::file(&long).fetch(false).await.unwrap_err();
        assert!(error.to_string().contains("64 KiB"), "{error}");
        let error = Evidence::file(folder.path()).fetch(false).await.unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
        // Nobody writes to it, and nobody waits for that.
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let error = Evidence::file(&pipe).fetch(false).await.unwrap_err();
        assert!(error.to_string().contains("no file"), "{error}");
    }

    #[tokio::test]
    async fn what_is_kept_is_fetched_once_until_it_is_refused_or_old() {
        let (kept, fetched) = (Kept::default(), AtomicU32::new(0));
        let half = |from: SystemTime, to: SystemTime| from + to.duration_since(from).unwrap_or_default() / 2;
        let get = async |anew, life| {
            let fetch = async || {
                let number = fetched.fetch_add(1, Ordering::Relaxed);
                Ok(token(life, number).into())
            };
            kept.get(anew, half, fetch).await.unwrap()
        };
        let first = get(false, Duration::from_secs(300)).await;
        assert_eq!(get(false, Duration::from_secs(300)).await, first);
        let second = get(true, Duration::ZERO).await;
        assert_ne!(second, first);
        assert_ne!(
            get(false, Duration::from_secs(300)).await,
            second,
            "it was old at once"
        );
        assert_eq!(fetched.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn shows_where_it_comes_from_and_not_what_it_is() {
        let shown = format!("{:?} {:?}", Evidence::text("hunter2"), Evidence::file("/run/e"));
        assert_eq!(shown, "Evidence::text(<redacted>) Evidence::file(\"/run/e\")");
    }

    #[tokio::test]
    async fn a_function_is_asked_each_time_and_its_failure_is_ours() {
        let evidence = Evidence::from_fn(async || Err::<&str, _>("the vault is sealed"));
        let error = evidence.fetch(false).await.unwrap_err();
        assert!(matches!(error, Error::AttestationFailed(_)));
        assert_eq!(error.detail(), "the vault is sealed");
        let evidence = Evidence::from_fn(async || Ok::<_, Error>("eyJ"));
        assert_eq!(evidence.fetch(false).await.unwrap().unwrap().reveal(), "eyJ");
    }
}
