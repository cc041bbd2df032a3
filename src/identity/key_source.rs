//! The keys of one authority: where they come from, held in memory, kept fresh.
//!
//! Checking a signature reads what is held and does no I/O. Fetching is the work of one task,
//! [`KeySource::run`]: it asks again in good time, and at once when evidence names a key that is not
//! held, but never more often than the floor allows. A Workload API says by itself when they change; it is
//! asked again all the same, lest an agent that hangs keep old keys alive. A fetch that fails changes
//! nothing until the held keys are too old to rely on; then nothing is accepted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::bundles::Document;
use super::certificates::{Leaf, Unbelieved};
use super::discovery::{discover, document_of};
use super::fetch::{Address, Endpoint, FetchError, Fetcher, read};
use super::vouching::Trust;
use super::workload_api::{Call, Messages, WorkloadApi, bundle};
use super::{IdentityError, SetupError};
use crate::entropy::{Entropy, draw};
use crate::keys::jose::{JoseError, Unverified};
use crate::keys::jwk::{KeyUse, VerifyingKey};
use crate::model::lease::VouchingKey;
use crate::model::name::InvalidName;
use crate::model::spiffe::TrustDomain;
use crate::model::time::Timestamp;

/// The bounds of what a publisher's hint can ask for.
const OFTENEST: Duration = Duration::from_secs(10);
const SELDOMEST: Duration = Duration::from_secs(60 * 60);
/// How soon, and how late, an agent on this machine is asked again after a failure.
const AGENT_SOON: Duration = Duration::from_secs(1);
const AGENT_LATE: Duration = Duration::from_secs(30);
/// How long evidence waits for a fetch that it caused: a little more than a request may take.
const PATIENCE: Duration = Duration::from_secs(12);

/// Where the keys come from. Always configured, never taken from evidence.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Pinned: the document itself.
    Inline(String),
    /// A file, read again like an endpoint is asked again.
    File(PathBuf),
    /// A server that answers with the document.
    Endpoint(Endpoint),
    /// The `jwks_uri` of an OpenID provider's discovery document.
    Discovery {
        /// The issuer, exactly as it stands in `iss`.
        issuer: String,
        /// The discovery document's place.
        endpoint: Endpoint,
    },
    /// SPIFFE's Workload API, which says by itself when the keys change. For SPIFFE trust domains only.
    WorkloadApi(WorkloadApi),
}

impl Origin {
    /// The keys that the discovery document of this issuer points to.
    pub fn discovered(issuer: &str) -> Result<Self, InvalidName> {
        Ok(Self::Discovery {
            issuer: issuer.to_owned(),
            endpoint: Endpoint::open(document_of(issuer)?),
        })
    }
}

/// How fresh the keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How often to ask when the document does not say, between 10 seconds and an hour. Default 5 minutes.
    pub refresh: Duration,
    /// The least time between two fetches that unknown keys cause. Default 30 seconds.
    pub floor: Duration,
    /// How long keys are relied on when they cannot be fetched again. Default 24 hours.
    pub max_age: Duration,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(5 * 60),
            floor: Duration::from_secs(30),
            max_age: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A trust domain and where its bundle comes from.
#[derive(Clone, Debug)]
pub struct Trusted {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Its bundle.
    pub bundle: Origin,
    /// How fresh the bundle is kept.
    pub freshness: Freshness,
}

#[derive(Debug)]
struct Held {
    document: Document,
    /// Its keys, as what they vouched for remembers them.
    trusted: BTreeSet<VouchingKey>,
    since: Instant,
}

/// The keys of one authority.
#[derive(Debug)]
pub struct KeySource {
    authority: String,
    purpose: KeyUse,
    origin: Origin,
    fetcher: Option<Fetcher>,
    freshness: Freshness,
    held: ArcSwapOption<Held>,
    withdrawals: AtomicU64,
    /// Keys that were trusted at some time since somebody last asked.
    passed: Mutex<BTreeSet<VouchingKey>>,
    wanted: Notify,
    /// When the newest keys came, whether they are still held or not; before that, when it was made.
    renewed: Mutex<Instant>,
    /// When the last fetch ended. Only `run` writes it.
    attempted: watch::Sender<Option<Instant>>,
}

impl KeySource {
    /// The keys of `authority`, as messages call it.
    ///
    /// Pinned keys and files are read at once, so that a mistake in them shows at start; servers are
    /// first asked by [`run`](Self::run), because they may be down when we start.
    pub fn new(
        authority: impl Into<String>,
        purpose: KeyUse,
        origin: Origin,
        freshness: Freshness,
    ) -> Result<Self, SetupError> {
        let authority = authority.into();
        let unusable =
            |reason: String| SetupError(format!("the keys of `{authority}` cannot be used: {reason}"));
        let fetcher = match &origin {
            Origin::WorkloadApi(_) if purpose == KeyUse::Signature => {
                return Err(unusable("a Workload API has those of trust domains only".into()));
            }
            Origin::Inline(_) | Origin::File(_) | Origin::WorkloadApi(_) => None,
            Origin::Endpoint(endpoint) | Origin::Discovery { endpoint, .. } => {
                Some(Fetcher::new(endpoint).map_err(|e| unusable(e.to_string()))?)
            }
        };
        let source = Self {
            authority: authority.clone(),
            purpose,
            fetcher,
            freshness,
            held: ArcSwapOption::empty(),
            withdrawals: AtomicU64::new(0),
            passed: Mutex::default(),
            wanted: Notify::new(),
            renewed: Mutex::new(Instant::now()),
            attempted: watch::Sender::new(None),
            origin,
        };
        match &source.origin {
            Origin::Inline(text) => source.replace(text.as_bytes()).map_err(unusable)?,
            Origin::File(path) => {
                let about = |reason: String| unusable(format!("{}: {reason}", path.display()));
                let content = std::fs::read(path).map_err(|e| about(e.to_string()))?;
                source.replace(&content).map_err(about)?;
            }
            Origin::Endpoint(_) | Origin::Discovery { .. } | Origin::WorkloadApi(_) => {}
        }
        Ok(source)
    }

    /// Whose keys these are.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// How long ago the keys were last read or fetched; since the start where they never were. `None` for pinned
    /// ones, which do not age.
    pub fn age(&self) -> Option<Duration> {
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        (!matches!(self.origin, Origin::Inline(_))).then(|| renewed.elapsed())
    }

    /// How many times keys stopped being trusted. What was checked before the last time no longer counts.
    pub fn withdrawals(&self) -> u64 {
        self.withdrawals.load(Ordering::Acquire)
    }

    /// The keys that are trusted now. `None` where nothing is held that may be relied on: that says nothing about
    /// any key.
    pub fn trusted(&self) -> Option<BTreeSet<VouchingKey>> {
        Some(self.current()?.trusted.clone())
    }

    /// The keys that were trusted at some time since this was last asked, for however short. It is asked before
    /// [`trusted`](Self::trusted), and by one alone: what that does not have any more has left meanwhile.
    pub fn passed(&self) -> BTreeSet<VouchingKey> {
        std::mem::take(&mut *self.passed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known here of a key.
    pub fn trust(&self, key: VouchingKey) -> Trust {
        match self.current() {
            None => Trust::Unknown,
            Some(held) if held.trusted.contains(&key) => Trust::Held,
            Some(_) => Trust::Gone,
        }
    }

    /// Checks the signature with the key that the header names, and says which it is. Fetches once when that key is
    /// not held.
    pub(crate) async fn check(&self, token: &Unverified<'_>) -> Result<Option<VouchingKey>, IdentityError> {
        if let Some(verdict) = self.check_held(token) {
            return verdict;
        }
        self.refetch().await;
        self.check_held(token).unwrap_or_else(|| Err(self.no_key()))
    }

    /// Why there is no key to check with.
    pub(super) fn no_key(&self) -> IdentityError {
        if self.has_keys() {
            IdentityError::Refused(format!(
                "`{}` has no key with this `kid` and `alg`",
                self.authority
            ))
        } else {
            IdentityError::Unavailable(format!(
                "those of `{}` were not fetched recently enough; try again in {} s",
                self.authority,
                self.freshness.floor.as_secs()
            ))
        }
    }

    /// Whether a document is held that may be relied on. It may have no keys.
    pub(super) fn has_keys(&self) -> bool {
        self.current().is_some()
    }

    /// Like [`check`](Self::check) with the keys that are held. `None` when the named key is not among them.
    pub(super) fn check_held(
        &self,
        token: &Unverified<'_>,
    ) -> Option<Result<Option<VouchingKey>, IdentityError>> {
        let held = self.current()?;
        match token.signer_among(&held.document.keys) {
            Ok(key) => Some(Ok(vouching(&self.authority, key))),
            Err(JoseError::NoKey) => None,
            Err(_) => Some(Err(IdentityError::Refused(format!(
                "its signature is not by the key of `{}` that it names",
                self.authority
            )))),
        }
    }

    /// Who of the authorities that are held vouches for an X.509-SVID, and until when. `None` when none are held.
    pub(super) fn vouched_held(
        &self,
        leaf: &Leaf,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Option<Result<(VouchingKey, Timestamp), Unbelieved>> {
        let held = self.current()?;
        Some(leaf.vouched(chain, &held.document.authorities, now))
    }

    /// Has them fetched soon, unless the last fetch is too recent.
    pub(super) fn want(&self) {
        if self.may_fetch() {
            self.wanted.notify_one();
        }
    }

    /// Waits for a fetch, unless the last one is too recent or the keys are pinned.
    pub(super) async fn refetch(&self) {
        let mut attempted = self.attempted.subscribe();
        if matches!(self.origin, Origin::Inline(_)) || !self.may_fetch() {
            return;
        }
        self.wanted.notify_one();
        // Whether it came, came too late or failed: what is held now decides.
        let _ended = timeout(PATIENCE, attempted.changed()).await;
    }

    fn may_fetch(&self) -> bool {
        let last = *self.attempted.borrow();
        last.is_none_or(|last| last.elapsed() >= self.freshness.floor)
    }

    fn current(&self) -> Option<Arc<Held>> {
        let fresh = |held: &Arc<Held>| {
            matches!(self.origin, Origin::Inline(_)) || held.since.elapsed() <= self.freshness.max_age
        };
        self.held.load_full().filter(fresh)
    }

    /// Keeps the keys fresh until told to stop. Without it, servers are never asked.
    pub async fn run(self: Arc<Self>, entropy: Arc<dyn Entropy>, stop: CancellationToken) {
        if matches!(self.origin, Origin::Inline(_)) {
            return;
        }
        let mut failures = 0;
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.ask() => outcome,
            };
            let mut later = match outcome {
                Ok(later) => {
                    failures = 0;
                    later
                }
                Err(reason) => {
                    failures += 1;
                    self.failed(&reason, failures);
                    None
                }
            };
            self.attempted.send_replace(Some(Instant::now()));
            let mut next = Instant::now() + self.pause(failures, &*entropy);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep_until(next) => break,
                    () = self.wanted.notified() => if self.may_fetch() { break },
                    sent = self.told(&mut later) => if let Err(reason) = sent {
                        failures += 1;
                        self.failed(&reason, failures);
                        later = None;
                        next = Instant::now() + self.pause(failures, &*entropy);
                    }
                }
            }
        }
    }

    fn failed(&self, reason: &str, failures: u32) {
        tracing::warn!(authority = %self.authority, %reason, failures, "keys could not be refreshed");
        self.drop_overdue();
    }

    /// Asks for the keys now. Says why there are none.
    pub async fn refresh(&self) -> Result<(), String> {
        self.ask().await.map(drop)
    }

    /// The same. Where later ones come by themselves, answers with what they come in.
    async fn ask(&self) -> Result<Option<Messages>, String> {
        let text = |e: FetchError| e.to_string();
        let document = match (&self.origin, &self.fetcher) {
            (Origin::File(path), _) => read(path).await,
            (Origin::Endpoint(endpoint), Some(fetcher)) => fetcher.get(&endpoint.address).await,
            (Origin::Discovery { issuer, endpoint }, Some(fetcher)) => {
                let keys: Address = discover(fetcher, issuer, &endpoint.address).await.map_err(text)?;
                fetcher.get(&keys).await
            }
            (Origin::WorkloadApi(api), _) => {
                let (first, later) = api.call(self.call()).await.map_err(text)?;
                self.take(&first)?;
                return Ok(Some(later));
            }
            (Origin::Inline(_), _) | (_, None) => return Ok(None),
        };
        self.replace(&document.map_err(text)?)?;
        Ok(None)
    }

    /// Takes the next keys that come by themselves. Waits for ever where none do.
    async fn told(&self, later: &mut Option<Messages>) -> Result<(), String> {
        match later {
            Some(messages) => {
                let message = messages.next().await.map_err(|e| e.to_string())?;
                self.take(&message)
            }
            None => std::future::pending().await,
        }
    }

    const fn call(&self) -> Call {
        match self.purpose {
            KeyUse::X509Svid => Call::X509Bundles,
            KeyUse::JwtSvid | KeyUse::Signature => Call::JwtBundles,
        }
    }

    /// Takes what a Workload API says. A bundle that it does not have any more is not used any more; that says
    /// nothing about the keys in it, as an empty one does (SPIFFE Workload API §5.2.2, §6.2.2).
    fn take(&self, message: &[u8]) -> Result<(), String> {
        match bundle(self.call(), message, &self.authority).map_err(|e| e.to_string())? {
            Some(document) => self.replace(&document),
            None => {
                if self.held.swap(None).is_some() {
                    self.withdraw();
                }
                let domain = &self.authority;
                Err(format!(
                    "the Workload API has no bundle of `{domain}` for this process: it is of another trust domain, \
                     or the broker's entry does not federate with `{domain}`"
                ))
            }
        }
    }

    /// Puts a document in the place of the held one, unless it is an older one.
    fn replace(&self, json: &[u8]) -> Result<(), String> {
        let document = Document::parse(json, self.purpose, &self.authority)?;
        let held = self.held.load_full();
        let withdrawn = match held.as_deref() {
            Some(held) if document.rolls_back(&held.document) => {
                return Err("its `spiffe_sequence` is lower than that of the bundle held".into());
            }
            Some(held) => !document.keeps_all_of(&held.document),
            None => false,
        };
        if let Some(passed_over) = document.useless() {
            tracing::warn!(authority = %self.authority, passed_over, "no usable keys: nothing of it is accepted");
        }
        match document.overlooked() {
            0 => {}
            overlooked => {
                tracing::warn!(authority = %self.authority, overlooked, "some authorities of X.509-SVIDs count for nothing: they cannot be read, or there are too many");
            }
        }
        let held = Held {
            trusted: document.vouching(&self.authority),
            document,
            since: Instant::now(),
        };
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = held.since;
        let held = Arc::new(held);
        self.held.store(Some(Arc::clone(&held)));
        // After they are there: nobody takes one that is still to come for one that left.
        let passed = self.passed.lock();
        passed
            .unwrap_or_else(PoisonError::into_inner)
            .extend(&held.trusted);
        if withdrawn {
            self.withdraw();
        }
        Ok(())
    }

    fn drop_overdue(&self) {
        if self.held.load().is_some() && self.current().is_none() {
            self.held.store(None);
            self.withdraw();
        }
    }

    /// Counted after the keys are gone: whoever reads the new count can no longer use the old keys.
    fn withdraw(&self) {
        self.withdrawals.fetch_add(1, Ordering::AcqRel);
        tracing::info!(authority = %self.authority, "keys were withdrawn; evidence is verified again");
    }

    /// The time until the next fetch: as hinted, sooner after a failure, and never for all at once.
    fn pause(&self, failures: u32, entropy: &dyn Entropy) -> Duration {
        let hint = self.held.load().as_ref().and_then(|h| h.document.refresh_hint);
        let regular = hint.unwrap_or(self.freshness.refresh).clamp(OFTENEST, SELDOMEST);
        let (soon, late) = match self.origin {
            Origin::WorkloadApi(_) => (AGENT_SOON, AGENT_LATE.min(regular)),
            _ => (OFTENEST, regular),
        };
        let whole = match failures {
            0 => regular,
            n => late.min(soon.saturating_mul(1 << (n - 1).min(16))),
        };
        let [spread] = draw(entropy).unwrap_or_default();
        whole - whole.mul_f64(0.1) * u32::from(spread) / 255
    }
}

fn vouching(authority: &str, key: &VerifyingKey) -> Option<VouchingKey> {
    Some(VouchingKey::of(authority, &key.id()?.0, &key.thumbprint()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::entropy::{NoEntropy, OsEntropy};
    use crate::identity::claims::parse;
    use crate::identity::testing::{Authority, Server, keep_fresh, pass, slow};

    const FLOOR: Duration = Duration::from_secs(31);

    fn at_server(server: &Server, purpose: KeyUse) -> Arc<KeySource> {
        let origin = Origin::Endpoint(Endpoint::open(server.address("/keys")));
        Arc::new(KeySource::new("authority", purpose, origin, slow()).unwrap())
    }

    fn document(sequence: u64, authorities: &[&Authority]) -> String {
        let keys: Vec<Value> = authorities.iter().map(|a| a.jwk("jwt-svid")).collect();
        json!({"keys": keys, "spiffe_sequence": sequence}).to_string()
    }

    async fn check(source: &KeySource, signer: &Authority) -> Result<(), IdentityError> {
        let evidence = signer.sign(&json!({})).await;
        source.check(&parse(&evidence).unwrap()).await.map(drop)
    }

    #[tokio::test]
    async fn an_unknown_key_causes_a_fetch_but_not_below_the_floor() {
        let (server, old, new) = (Server::start().await, Authority::new(), Authority::new());
        server.answer("/keys", &document(1, &[&old]));
        let source = at_server(&server, KeyUse::JwtSvid);
        let _running = keep_fresh([&source]);
        assert_eq!(check(&source, &old).await, Ok(()));
        server.answer("/keys", &document(2, &[&old, &new]));
        for _ in 0..5 {
            assert!(matches!(
                check(&source, &new).await,
                Err(IdentityError::Refused(_))
            ));
        }
        assert_eq!(server.hits("/keys"), 1, "the floor was not kept");
        pass(FLOOR).await;
        assert_eq!(check(&source, &new).await, Ok(()));
        assert_eq!(check(&source, &old).await, Ok(()));
        assert_eq!(server.hits("/keys"), 2);
        assert_eq!(source.withdrawals(), 0, "nothing was taken away");
    }

    #[tokio::test]
    async fn many_unknown_keys_at_once_cause_one_fetch() {
        let (server, known) = (Server::start().await, Authority::new());
        server.answer("/keys", &document(1, &[&known]));
        let source = at_server(&server, KeyUse::JwtSvid);
        let _running = keep_fresh([&source]);
        assert_eq!(check(&source, &known).await, Ok(()));
        pass(FLOOR).await;
        let strangers: Vec<Authority> = (0..20).map(|_| Authority::new()).collect();
        let checks = strangers.iter().map(|stranger| check(&source, stranger));
        for outcome in futures_util::future::join_all(checks).await {
            assert!(outcome.is_err());
        }
        assert_eq!(server.hits("/keys"), 2);
    }

    #[tokio::test]
    async fn an_older_bundle_changes_nothing() {
        let (server, held, rolled_back) = (Server::start().await, Authority::new(), Authority::new());
        server.answer("/keys", &document(5, &[&held]));
        let source = at_server(&server, KeyUse::JwtSvid);
        let _running = keep_fresh([&source]);
        assert_eq!(check(&source, &held).await, Ok(()));
        server.answer("/keys", &document(4, &[&rolled_back]));
        pass(FLOOR).await;
        assert!(check(&source, &rolled_back).await.is_err());
        assert_eq!(server.hits("/keys"), 2);
        assert_eq!(check(&source, &held).await, Ok(()));
        assert_eq!(source.withdrawals(), 0);
    }

    #[tokio::test]
    async fn keys_outlive_failing_fetches_only_until_they_are_too_old() {
        let (server, authority) = (Server::start().await, Authority::new());
        server.answer("/keys", &document(1, &[&authority]));
        let source = at_server(&server, KeyUse::JwtSvid);
        let _running = keep_fresh([&source]);
        assert_eq!(check(&source, &authority).await, Ok(()));
        for broken in ["", "{}", "<html>", r#"{"keys":{}}"#] {
            server.answer("/keys", broken);
            pass(FLOOR).await;
            assert!(check(&source, &Authority::new()).await.is_err());
            assert_eq!(check(&source, &authority).await, Ok(()));
        }
        server.forget("/keys");
        pass(Duration::from_secs(24 * 60 * 60)).await;
        let refused = check(&source, &authority).await.unwrap_err();
        assert!(matches!(refused, IdentityError::Unavailable(_)), "{refused}");
        assert_eq!(source.withdrawals(), 1);
        server.answer("/keys", &document(2, &[&authority]));
        pass(FLOOR).await;
        assert_eq!(check(&source, &authority).await, Ok(()));
    }

    #[tokio::test]
    async fn a_file_is_read_at_start_and_again() {
        let (old, new) = (Authority::new(), Authority::new());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bundle.json");
        let open = || KeySource::new("a", KeyUse::JwtSvid, Origin::File(path.clone()), slow());
        assert!(open().unwrap_err().to_string().contains("bundle.json"));
        std::fs::write(&path, "{").unwrap();
        assert!(open().unwrap_err().to_string().contains("bundle.json"));
        std::fs::write(&path, document(1, &[&old])).unwrap();
        let source = Arc::new(open().unwrap());
        assert_eq!(check(&source, &old).await, Ok(()));
        std::fs::write(&path, document(2, &[&new])).unwrap();
        let _running = keep_fresh([&source]);
        assert_eq!(check(&source, &new).await, Ok(()));
        assert!(check(&source, &old).await.is_err());
        assert_eq!(source.withdrawals(), 1);
    }

    #[tokio::test]
    async fn stops_when_told() {
        let server = Server::start().await;
        let stop = CancellationToken::new();
        stop.cancel();
        let source = at_server(&server, KeyUse::JwtSvid);
        source.run(Arc::new(OsEntropy::new()), stop).await;
    }

    #[test]
    fn asks_as_often_as_hinted_within_bounds_and_sooner_after_a_failure() {
        struct Fixed(u8);
        impl Entropy for Fixed {
            fn fill(&self, buffer: &mut [u8]) -> Result<(), NoEntropy> {
                buffer.fill(self.0);
                Ok(())
            }
        }
        let hinting = |hint: Value| {
            let text = json!({"keys": [], "spiffe_refresh_hint": hint}).to_string();
            KeySource::new("a", KeyUse::JwtSvid, Origin::Inline(text), Freshness::default()).unwrap()
        };
        let secs = |hint, failures| hinting(hint).pause(failures, &Fixed(0)).as_secs();
        assert_eq!(secs(Value::Null, 0), 300);
        assert_eq!(secs(json!(60), 0), 60);
        assert_eq!(secs(json!(1), 0), 10);
        assert_eq!(secs(json!(86_400), 0), 3600);
        assert_eq!([1, 2, 3, 99].map(|n| secs(Value::Null, n)), [10, 20, 40, 300]);
        assert_eq!(
            hinting(Value::Null).pause(0, &Fixed(255)),
            Duration::from_secs(270)
        );
    }
}
