//! The credentials of a running program: in memory, one for each access, renewed or minted anew at two thirds of
//! their life. What is asked for is answered from here, so a program never waits for the broker while what it
//! holds is good.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use super::task::{Issued, Task};
use crate::clock::Clock;
use crate::model::access::{Access, ResourcePath};
use crate::model::credential::Credential;
use crate::model::origin::Origin;
use crate::model::time::Timestamp;

/// The shortest and the longest pause between two tries to renew.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// A credential that was refused is minted anew at most this often.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);
/// How long giving a credential back may hold up who waits for the next.
const TO_GIVE_BACK: Duration = Duration::from_secs(2);
/// How long before a task's deadline nothing is renewed any more: it would live no longer.
const BEFORE_DEADLINE: Duration = Duration::from_secs(1);

/// What a program asks for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::cli) struct Ask {
    /// The kind of credential, as the API calls it.
    pub(in crate::cli) kind: String,
    /// Which one, by its name; the only one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) name: Option<String>,
    /// Where it is to be sent: one of these places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) origins: Option<Vec<Origin>>,
    /// What is to be done with it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) resource: Option<ResourcePath>,
    /// The token with which that was refused before: where it is still the one that is given out, it is not any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::cli) refused: Option<String>,
}

/// Why nothing is given. The texts never contain a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::cli) enum Unserved {
    /// There is none for that; somebody else may have one.
    #[error("{0}")]
    Nothing(String),
    /// There should be one, and it cannot be given now.
    #[error("{0}")]
    Refused(String),
}

/// All credentials of one task.
pub(super) struct Wallet {
    task: Task,
    clock: Arc<dyn Clock>,
    entries: Vec<Entry>,
    /// Counts the credentials that came.
    changed: watch::Sender<u64>,
}

/// The credential of one access.
pub(super) struct Entry {
    /// The name of the tool; with a number where the tool is named again.
    name: String,
    access: Access,
    held: Mutex<Held>,
    /// Held by whoever renews.
    turn: tokio::sync::Mutex<()>,
    /// Told when the life of the credential is another one.
    woken: Notify,
}

struct Held {
    issued: Issued,
    since: Timestamp,
    /// When it is renewed.
    due: Timestamp,
    renewable: bool,
    /// Why it is not given out any more.
    unusable: Option<Unusable>,
    problem: Option<String>,
}

/// Why a credential is not given out, though its time is not over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unusable {
    /// A server refused it. Its lease may be live.
    Refused,
    /// Its lease ended elsewhere.
    Ended,
}

impl Held {
    fn new(issued: Issued, now: Timestamp, renewable: bool) -> Self {
        let life = issued.expires_at.since(now);
        Self {
            due: now.plus(life / 3 * 2),
            issued,
            since: now,
            renewable,
            unusable: None,
            problem: None,
        }
    }
}

impl Entry {
    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name that programs know it by.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What is held now, whether it is good or not.
    pub(super) fn issued(&self) -> Issued {
        self.held().issued.clone()
    }

    fn good(&self, now: Timestamp) -> Option<Issued> {
        let held = self.held();
        (held.unusable.is_none() && now < held.issued.expires_at).then(|| held.issued.clone())
    }
}

impl Wallet {
    /// Asks for a first credential for each access. The first that is denied ends it.
    pub(super) async fn fill(task: Task, accesses: &[Access], clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for access in accesses {
            let issued = task.issue(access).await?;
            let same = |entry: &&Entry| entry.access.tool() == access.tool();
            let name = match entries.iter().filter(same).count() {
                0 => access.tool().to_string(),
                before => format!("{}-{}", access.tool(), before + 1),
            };
            entries.push(Entry {
                name,
                access: access.clone(),
                held: Mutex::new(Held::new(issued, clock.now(), true)),
                turn: tokio::sync::Mutex::default(),
                woken: Notify::new(),
            });
        }
        Ok(Self {
            task,
            clock,
            entries,
            changed: watch::Sender::default(),
        })
    }

    /// A wallet that holds these, without a broker behind it.
    #[cfg(test)]
    pub(super) fn holding(held: &[(&str, serde_json::Value)], clock: Arc<dyn Clock>) -> Self {
        Self::of(Task::at("http://127.0.0.1:1"), held, clock)
    }

    #[cfg(test)]
    fn of(task: Task, held: &[(&str, serde_json::Value)], clock: Arc<dyn Clock>) -> Self {
        let entry = |(access, answer): &(&str, serde_json::Value)| {
            let access = crate::cli::task::access(access).unwrap();
            let issued = Issued::read(answer, None).unwrap();
            Entry {
                name: access.tool().to_string(),
                access,
                held: Mutex::new(Held::new(issued, clock.now(), true)),
                turn: tokio::sync::Mutex::default(),
                woken: Notify::new(),
            }
        };
        Self {
            entries: held.iter().map(entry).collect(),
            task,
            clock,
            changed: watch::Sender::default(),
        }
    }

    /// The credentials, in the order of the accesses.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Those of one kind.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Entry> {
        let is = move |entry: &&Entry| entry.held().issued.credential.kind() == kind;
        self.entries.iter().filter(is)
    }

    /// Tells when a credential came in place of another.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What was asked for.
    pub(super) async fn give(&self, ask: &Ask) -> Result<Issued, Unserved> {
        let entry = self.choose(ask)?;
        if let Some(refused) = &ask.refused {
            self.refuse(entry, refused);
        }
        self.fresh(entry).await.map_err(Unserved::Refused)
    }

    fn choose(&self, ask: &Ask) -> Result<&Entry, Unserved> {
        let nothing = |why: String| Err(Unserved::Nothing(why));
        let kind = ask.kind.replace('_', " ");
        let mut fitting: Vec<&Entry> = self.of_kind(&ask.kind).collect();
        if let Some(name) = &ask.name {
            fitting.retain(|entry| entry.name == *name);
            if fitting.is_empty() {
                return nothing(format!("this task has no {kind} for `{name}`"));
            }
        }
        if let Some(origins) = &ask.origins {
            fitting.retain(|entry| entry.held().issued.belongs_at(origins));
            if fitting.is_empty() {
                let place = origins.first().map(ToString::to_string).unwrap_or_default();
                return nothing(format!("this task has no {kind} for {place}"));
            }
        }
        choose_by_resource(&fitting, |entry| &entry.access, ask.resource.as_ref())
            .copied()
            .ok_or_else(|| match fitting.len() {
                0 => Unserved::Nothing(format!("this task has no {kind}")),
                _ => Unserved::Refused(format!(
                    "this task has more than one {kind} for that: name one of {}",
                    fitting
                        .iter()
                        .map(|entry| entry.name())
                        .collect::<Vec<_>>()
                        .join(", ")
                )),
            })
    }

    fn refuse(&self, entry: &Entry, refused: &str) {
        let mut held = entry.held();
        let same = matches!(&held.issued.credential, Credential::Bearer(token)
            if *token == crate::model::secret::Secret::new(refused));
        if same && self.clock.now().since(held.since) >= REFUSED_AGAIN {
            held.unusable.get_or_insert(Unusable::Refused);
        }
    }

    /// The leases of what is held.
    pub(super) fn leases(&self) -> BTreeSet<String> {
        self.entries
            .iter()
            .map(|entry| entry.held().issued.lease.clone())
            .collect()
    }

    /// The credentials of these leases are good no more: they are asked for anew. Whether there are any.
    pub(super) fn forget(&self, leases: &BTreeSet<String>) -> bool {
        let mut any = false;
        for entry in &self.entries {
            let mut held = entry.held();
            if !leases.contains(&held.issued.lease) {
                continue;
            }
            held.unusable = Some(Unusable::Ended);
            held.due = self.clock.now();
            drop(held);
            entry.woken.notify_one();
            any = true;
        }
        any
    }

    async fn fresh(&self, entry: &Entry) -> Result<Issued, String> {
        if let Some(issued) = entry.good(self.clock.now()) {
            return Ok(issued);
        }
        let _turn = entry.turn.lock().await;
        if let Some(issued) = entry.good(self.clock.now()) {
            return Ok(issued);
        }
        self.replace(entry)
            .await
            .map_err(|error| format!("no fresh credential for `{}`: {error:#}", entry.name))
    }

    /// A renewed credential in place of this one, or a new one. By whoever holds the turn.
    async fn replace(&self, entry: &Entry) -> anyhow::Result<Issued> {
        let (before, unusable, try_renewing) = {
            let held = entry.held();
            let alive = self.clock.now() < held.issued.expires_at && held.unusable.is_none();
            (held.issued.clone(), held.unusable, held.renewable && alive)
        };
        let renewed = match try_renewing {
            true => self.task.renew(&before).await?,
            false => None,
        };
        let renewable = renewed.is_some() || !try_renewing && entry.held().renewable;
        let issued = match renewed {
            Some(renewed) => renewed,
            None => self.task.issue(&entry.access).await?,
        };
        *entry.held() = Held::new(issued.clone(), self.clock.now(), renewable);
        self.changed.send_modify(|count| *count += 1);
        entry.woken.notify_one();
        if unusable == Some(Unusable::Refused) && issued.lease != before.lease {
            // Nobody uses it any more. What cannot be given back ends with its time, or with the task.
            let giving = self.task.give_back(&before.lease, "its server refuses it");
            let _ = tokio::time::timeout(TO_GIVE_BACK, giving).await;
        }
        Ok(issued)
    }

    /// Keeps one credential fresh, for as long as it is polled.
    pub(super) async fn keep(&self, entry: &Entry, tell: impl Fn(String)) {
        let mut pause = RETRY.0;
        loop {
            let due = entry.held().due;
            if due >= self.task.deadline().minus(BEFORE_DEADLINE) {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(due.since(self.clock.now())) => {}
                () = entry.woken.notified() => continue,
            }
            let turn = entry.turn.lock().await;
            if entry.held().due > self.clock.now() {
                continue;
            }
            let replaced = self.replace(entry).await;
            drop(turn);
            match replaced {
                Ok(_) => pause = RETRY.0,
                Err(error) => {
                    let told = format!("the credential for `{}` is not renewed: {error:#}", entry.name);
                    let known = entry.held().problem.replace(told.clone());
                    if known.as_ref() != Some(&told) {
                        tell(told);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }
}

/// Which of those that fit: one for the resource, or one without resources, or the only one.
pub(in crate::cli) fn choose_by_resource<'e, E>(
    fitting: &'e [E],
    access: impl Fn(&E) -> &Access,
    resource: Option<&ResourcePath>,
) -> Option<&'e E> {
    let covers = |entry: &&E| {
        let named = access(entry).resources();
        resource.is_some_and(|wanted| named.iter().any(|mine| mine.covers(wanted)))
    };
    let whole = |entry: &&E| access(entry).resources().is_empty();
    match fitting {
        [only] => Some(only),
        several if resource.is_some() => several.iter().find(covers).or_else(|| several.iter().find(whole)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::ManualClock;

    const MORNING: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn token(text: &str, origin: &str) -> Value {
        json!({
            "credential": {"type": "bearer_token", "token": text}, "lease": {"id": "lse_1"},
            "expires_at": MORNING.plus(Duration::from_secs(60)), "origins": [origin],
        })
    }

    fn wallet() -> (Arc<ManualClock>, Wallet) {
        let clock = Arc::new(ManualClock::at(MORNING));
        let held = [
            ("git:read@team/docs", token("docs", "https://git.example.org")),
            ("git:push@team/shop", token("shop", "https://git.example.org")),
            ("crm:read", token("crm", "https://crm.example.org")),
        ];
        let wallet = Wallet::holding(&held, clock.clone());
        (clock, wallet)
    }

    async fn given(
        wallet: &Wallet,
        origin: Option<&str>,
        resource: Option<&str>,
    ) -> Result<String, Unserved> {
        let ask = Ask {
            kind: "bearer_token".to_owned(),
            origins: origin.map(|origin| vec![origin.parse().unwrap()]),
            resource: resource.map(|path| path.parse().unwrap()),
            ..Ask::default()
        };
        wallet.give(&ask).await.map(|issued| issued.part(None).unwrap())
    }

    #[tokio::test]
    async fn a_token_is_given_for_its_own_place_and_its_own_resource() {
        let (_, wallet) = wallet();
        let git = Some("https://git.example.org");
        assert_eq!(given(&wallet, git, Some("team/shop")).await.unwrap(), "shop");
        assert_eq!(given(&wallet, git, Some("team/docs/sub")).await.unwrap(), "docs");
        assert!(matches!(
            given(&wallet, git, Some("team/else")).await,
            Err(Unserved::Refused(_))
        ));
        assert!(
            matches!(given(&wallet, git, None).await, Err(Unserved::Refused(_))),
            "which of two"
        );
        assert_eq!(
            given(&wallet, Some("https://crm.example.org"), Some("x"))
                .await
                .unwrap(),
            "crm"
        );
        for other in [
            "https://evil.example.org",
            "http://crm.example.org",
            "https://crm.example.org:8443",
        ] {
            assert!(
                matches!(given(&wallet, Some(other), None).await, Err(Unserved::Nothing(_))),
                "{other}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_over_is_not_given_though_nobody_gives_another() {
        let (clock, wallet) = wallet();
        let crm = Some("https://crm.example.org");
        assert!(given(&wallet, crm, None).await.is_ok());
        clock.advance(Duration::from_secs(60));
        let refused = given(&wallet, crm, None).await.unwrap_err();
        assert!(
            matches!(&refused, Unserved::Refused(why) if why.contains("`crm`")),
            "{refused}"
        );
    }

    #[tokio::test]
    async fn what_a_server_refused_is_given_once_more_only_while_it_is_new() {
        let (clock, wallet) = wallet();
        let mut ask = Ask {
            kind: "bearer_token".to_owned(),
            name: Some("crm".to_owned()),
            refused: Some("crm".to_owned()),
            ..Ask::default()
        };
        assert!(wallet.give(&ask).await.is_ok(), "it is new");
        clock.advance(REFUSED_AGAIN);
        ask.refused = Some("another".to_owned());
        assert!(wallet.give(&ask).await.is_ok(), "it was not this one");
        ask.refused = Some("crm".to_owned());
        assert!(matches!(wallet.give(&ask).await, Err(Unserved::Refused(_))));
    }

    #[tokio::test]
    async fn what_was_refused_is_given_back_and_what_ended_elsewhere_is_not() {
        use axum::extract::Path;
        use axum::routing::post;
        use std::sync::atomic::{AtomicU32, Ordering};

        let (issued, given_back) = (Arc::new(AtomicU32::new(1)), Arc::new(Mutex::new(Vec::new())));
        let (count, noted) = (issued.clone(), given_back.clone());
        let issue = async move || {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            let mut answer = token(&format!("crm-{number}"), "https://crm.example.org");
            answer["lease"]["id"] = json!(format!("lse_{number}"));
            axum::Json(answer)
        };
        let revoke = async move |Path(lease): Path<String>| {
            noted.lock().unwrap().push(lease);
            axum::Json(json!({}))
        };
        let router = axum::Router::new()
            .route("/v1/tasks/tsk_1/credentials", post(issue))
            .route("/v1/leases/{id}/revoke", post(revoke));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let task = Task::at(&format!("http://{}", listener.local_addr().unwrap()));
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await });

        let clock = Arc::new(ManualClock::at(MORNING));
        let held = [("crm:read", token("crm-1", "https://crm.example.org"))];
        let wallet = Wallet::of(task, &held, clock.clone());
        let given = async |refused: Option<&str>| {
            let ask = Ask {
                kind: "bearer_token".to_owned(),
                refused: refused.map(str::to_owned),
                ..Ask::default()
            };
            wallet.give(&ask).await.unwrap().part(None).unwrap()
        };
        assert_eq!(given(Some("crm-1")).await, "crm-1", "it is new");
        clock.advance(REFUSED_AGAIN);
        assert_eq!(given(Some("crm-1")).await, "crm-2");
        assert_eq!(*given_back.lock().unwrap(), ["lse_1"]);
        wallet.forget(&wallet.leases());
        assert_eq!(given(None).await, "crm-3");
        assert_eq!(*given_back.lock().unwrap(), ["lse_1"]);
    }

    #[tokio::test]
    async fn what_was_forgotten_is_asked_for_anew() {
        let (_, wallet) = wallet();
        assert!(!wallet.forget(&BTreeSet::from(["lse_another".to_owned()])));
        assert!(
            given(&wallet, Some("https://crm.example.org"), None)
                .await
                .is_ok()
        );
        assert!(wallet.forget(&wallet.leases()));
        assert!(
            given(&wallet, Some("https://crm.example.org"), None)
                .await
                .is_err()
        );
    }
}
