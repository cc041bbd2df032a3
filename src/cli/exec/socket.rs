//! The socket that a program's helpers ask for credentials: one question and one answer, a line of JSON each. It
//! lies in the private folder, and answers nobody but processes of the same user.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::task::Issued;
use super::wallet::{Ask, Unserved, Wallet};

/// The longest question or answer, in bytes.
const LONGEST: u64 = 256 * 1024;
/// How long a question may take, and how long its answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many are answered at a time.
const AT_A_TIME: usize = 64;
/// How long nobody is let in after the system gave no connection.
const REST: Duration = Duration::from_millis(100);

/// Answers those who ask, for as long as it is polled. `owner` is the user whose processes may.
pub(super) async fn serve(listener: UnixListener, wallet: Arc<Wallet>, owner: u32, tracker: TaskTracker) {
    let places = Arc::new(Semaphore::new(AT_A_TIME));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == owner);
        if !allowed {
            continue;
        }
        let wallet = wallet.clone();
        tracker.spawn(async move {
            // Whoever asked and went away misses nothing.
            let _ = tokio::time::timeout(PATIENCE * 2, answer(stream, &wallet)).await;
            drop(place);
        });
    }
}

async fn answer(stream: UnixStream, wallet: &Wallet) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reading = BufReader::new(reading.take(LONGEST));
    tokio::time::timeout(PATIENCE, reading.read_line(&mut line)).await??;
    let given = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => wallet.give(&ask).await,
        Err(_) => Err(Unserved::Refused("the question cannot be read".to_owned())),
    };
    let answer = match given {
        Ok(issued) => json!({ "given": issued.write() }),
        Err(Unserved::Nothing(why)) => json!({ "nothing": why }),
        Err(Unserved::Refused(why)) => json!({ "refused": why }),
    };
    writing.write_all(format!("{answer}\n").as_bytes()).await
}

/// Asks the `exec` that this process runs in.
pub(in crate::cli) async fn ask(socket: &Path, ask: &Ask) -> anyhow::Result<Result<Issued, Unserved>> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.context("the `dayfly exec` that this ran in is gone, and its credentials with it")?;
    let (reading, mut writing) = stream.into_split();
    let question = serde_json::to_string(ask)?;
    writing.write_all(format!("{question}\n").as_bytes()).await?;
    let mut line = String::new();
    let mut reading = BufReader::new(reading.take(LONGEST));
    tokio::time::timeout(PATIENCE * 2, reading.read_line(&mut line))
        .await
        .context("`dayfly exec` does not answer")??;
    let answer: Value = serde_json::from_str(&line).context("`dayfly exec` gave no answer")?;
    let why = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(given) = answer.get("given") {
        return Ok(Ok(Issued::read(given, None)?));
    }
    Ok(Err(match why("nothing") {
        Some(why) => Unserved::Nothing(why),
        None => Unserved::Refused(why("refused").unwrap_or_default()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    async fn asked(owner: u32) -> anyhow::Result<Result<Issued, Unserved>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let wallet = Arc::new(Wallet::holding(&[], Arc::new(SystemClock::new())));
        let question = Ask {
            kind: "bearer_token".to_owned(),
            ..Ask::default()
        };
        tokio::select! {
            () = serve(listener, wallet, owner, TaskTracker::new()) => panic!("it stopped"),
            answer = ask(&path, &question) => answer,
        }
    }

    #[tokio::test]
    async fn the_same_user_is_answered_and_others_are_not() {
        let own = rustix::process::geteuid().as_raw();
        let answer = asked(own).await.unwrap().unwrap_err();
        assert_eq!(
            answer,
            Unserved::Nothing("this task has no bearer token".to_owned())
        );
        let nothing = asked(own + 1).await.unwrap_err();
        assert!(!format!("{nothing:#}").contains("bearer"), "{nothing:#}");
    }

    #[tokio::test]
    async fn what_is_no_question_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let wallet = Arc::new(Wallet::holding(&[], Arc::new(SystemClock::new())));
        let own = rustix::process::geteuid().as_raw();
        let asking = async {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(b"{\"give\": \"me\"}\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        tokio::select! {
            () = serve(listener, wallet, own, TaskTracker::new()) => panic!("it stopped"),
            answer = asking => assert_eq!(answer, "{\"refused\":\"the question cannot be read\"}\n"),
        }
    }
}
