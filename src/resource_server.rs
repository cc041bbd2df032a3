//! Floor 4: what a tool needs to accept Dayfly's access tokens: offline verification, and the feed of
//! cutoffs that ends tokens before their expiry. For tools written in Rust; others find the same
//! rules in the guide.
//!
//! It fails closed. A resource server that has not read the feed for longer than it may knows nothing
//! about revocations, so it says "503, later", whatever the token looks like.
//!
//! ```no_run
//! # async fn example(tracker: tokio_util::task::TaskTracker, stop: tokio_util::sync::CancellationToken)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//! use dayfly::resource_server::{ResourceServer, Settings};
//!
//! let settings = Settings::new("https://dayfly.example.org", "https://crm.example.org/api");
//! let clock = Arc::new(dayfly::clock::SystemClock::new());
//! let entropy = Arc::new(dayfly::entropy::OsEntropy::new());
//! let server = ResourceServer::follow(settings, clock, entropy, &tracker, stop)?;
//!
//! let token = server.verify("eyJ…").await?;
//! token.demand(&"read".parse()?, Some(&"customers/42".parse()?))?;
//! # Ok(()) }
//! ```

pub mod deny_list;
mod follower;
pub mod status_list;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::keys::Algorithm;
use crate::keys::jose::{JoseError, Unverified};
use crate::keys::jwk::KeySet;
use crate::model::access::ResourcePath;
use crate::model::lease::Cause;
use crate::model::name::Operation;
use crate::model::time::Timestamp;
use crate::model::token::{AccessToken, Profile, TYP};

use deny_list::DenyList;
use follower::Source;

/// What to accept, and from whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `iss` of tokens: the URL of the broker.
    pub issuer: String,
    /// The `aud` of tokens: what the catalogue says for this tool.
    pub audience: String,
    /// Where the broker publishes its keys.
    pub jwks: String,
    /// Where the broker publishes cutoffs.
    pub feed: String,
    /// A file with the evidence of this workload, where the broker wants some; read anew each time.
    pub evidence: Option<PathBuf>,
    /// Nothing is accepted once the feed was last read longer ago than this. At least five seconds.
    pub max_staleness: Duration,
    /// How far the clock here may be behind the broker's. At most 60 seconds. It never prolongs a token.
    pub skew: Duration,
    /// The longest life of a token. A token that lives longer is refused, because its cutoff could be
    /// forgotten before its expiry.
    pub longest_life: Duration,
    /// How many cutoffs are held at most. One takes about 250 bytes.
    pub most_cutoffs: usize,
    /// The keys are fetched no more often than this, whatever keys tokens name.
    pub between_key_fetches: Duration,
}

impl Settings {
    /// Tokens of one broker for one tool, with the usual places and limits.
    pub fn new(issuer: impl Into<String>, audience: impl Into<String>) -> Self {
        let issuer = issuer.into();
        let at = |path: &str| format!("{}{path}", issuer.trim_end_matches('/'));
        Self {
            jwks: at("/.well-known/jwks.json"),
            feed: at("/v1/revocations"),
            issuer,
            audience: audience.into(),
            evidence: None,
            max_staleness: Duration::from_secs(60),
            skew: Duration::from_secs(30),
            longest_life: Duration::from_secs(3600),
            most_cutoffs: 200_000,
            between_key_fetches: Duration::from_secs(10),
        }
    }

    fn check(&self) -> Result<(), InvalidSettings> {
        let problem = if self.skew > Duration::from_secs(60) {
            "`skew` is at most 60 seconds"
        } else if self.max_staleness < Duration::from_secs(5) {
            "`max_staleness` is at least 5 seconds"
        } else if self.issuer.is_empty() || self.audience.is_empty() {
            "`issuer` and `audience` are needed"
        } else {
            return Ok(());
        };
        Err(InvalidSettings(problem.into()))
    }
}

/// The settings make no resource server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the settings of the resource server are wrong: {0}")]
pub struct InvalidSettings(String);

/// Accepts or refuses access tokens.
pub struct ResourceServer {
    settings: Settings,
    clock: Arc<dyn Clock>,
    keys: ArcSwap<KeySet>,
    denied: RwLock<DenyList>,
    /// The state of the broker that the deny list shows; `None` before the feed was read once.
    as_of: watch::Sender<Option<Timestamp>>,
    source: Source,
}

/// A token that was accepted just now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    token: AccessToken,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody here knows what was revoked lately.
    #[error("revocations were not read lately enough: try again later")]
    Stale,
    /// It is no token, or nobody we know signed it.
    #[error(transparent)]
    Token(#[from] JoseError),
    /// It is another kind of token.
    #[error("the token is no access token: its `typ` is not `{TYP}`")]
    OtherType,
    /// It is signed in a way that Dayfly does not use.
    #[error("the algorithm {} is not accepted here", .0.as_str())]
    OtherAlgorithm(Algorithm),
    /// Somebody else issued it.
    #[error("another issuer issued the token")]
    OtherIssuer,
    /// It is for another tool.
    #[error("the token is for another audience")]
    OtherAudience,
    /// Its presenter would have to prove something that is not checked here.
    #[error("the token is bound to a key (`cnf`), which is not supported here")]
    Bound,
    /// Its time is up.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet: compare the clocks")]
    NotYetValid,
    /// It lives longer than cutoffs are remembered.
    #[error("the token lives longer than is accepted here")]
    TooLongLived,
    /// A cutoff ended it.
    #[error("the token was revoked ({})", .0.as_str())]
    Revoked(Cause),
    /// It is valid and does not permit this.
    #[error("the token does not permit `{0}` there")]
    NotPermitted(Operation),
}

impl Refusal {
    /// The HTTP status to answer with.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Stale => 503,
            Self::NotPermitted(_) => 403,
            _ => 401,
        }
    }

    /// The `error` of the `WWW-Authenticate: Bearer` header (RFC 6750 §3.1); none when the token is not at fault.
    pub const fn error(&self) -> Option<&'static str> {
        match self {
            Self::Stale => None,
            Self::NotPermitted(_) => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }
}

impl Accepted {
    /// What the token says.
    pub fn token(&self) -> &AccessToken {
        &self.token
    }

    /// Refuses unless the token permits this action on this resource, or, without one, on the tool
    /// as a whole.
    pub fn demand(&self, action: &Operation, resource: Option<&ResourcePath>) -> Result<(), Refusal> {
        if self.token.permits(action, resource) {
            Ok(())
        } else {
            Err(Refusal::NotPermitted(action.clone()))
        }
    }
}

/// What Dayfly signs with.
const ALGORITHMS: [Algorithm; 4] = [
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
    Algorithm::Rs256,
];
/// The longest token that is looked at. It has to fit into a header.
const LONGEST_TOKEN: usize = 8 << 10;

impl ResourceServer {
    /// A resource server that keeps itself up to date on a task of `tracker` until it is told to stop.
    /// It refuses everything as [`Refusal::Stale`] until keys and feed were read once.
    pub fn follow(
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, InvalidSettings> {
        let server = Arc::new(Self::new(settings, clock)?);
        tracker.spawn(follower::run(server.clone(), entropy, stop));
        Ok(server)
    }

    fn new(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let source = Source::new(&settings)?;
        // A cutoff is recorded by one broker's clock, a token by another's, and read by ours.
        let keep = settings.longest_life.saturating_add(2 * settings.skew);
        Ok(Self {
            denied: RwLock::new(DenyList::new(keep, settings.most_cutoffs)),
            settings,
            clock,
            keys: ArcSwap::default(),
            as_of: watch::Sender::new(None),
            source,
        })
    }

    /// Accepts a token, or says why not. Looks for new keys when the token names one that is not known.
    pub async fn verify(&self, token: &str) -> Result<Accepted, Refusal> {
        match self.check(token) {
            Err(Refusal::Token(JoseError::NoKey)) if self.look_for_keys().await => self.check(token),
            outcome => outcome,
        }
    }

    /// Accepts a token, or says why not, by what is known now. No I/O.
    pub fn check(&self, token: &str) -> Result<Accepted, Refusal> {
        let now = self.clock.now();
        let read_at = *self.as_of.borrow();
        if read_at.is_none_or(|at| now.since(at) > self.settings.max_staleness) {
            return Err(Refusal::Stale);
        }
        let unverified = Unverified::parse(token, LONGEST_TOKEN)?;
        let header = unverified.header();
        if !header.is_typ(TYP) {
            return Err(Refusal::OtherType);
        }
        if !ALGORITHMS.contains(&header.algorithm) {
            return Err(Refusal::OtherAlgorithm(header.algorithm));
        }
        if header.kid.is_none() {
            return Err(Refusal::Token(JoseError::Malformed(
                "header",
                "`kid` is missing".into(),
            )));
        }
        unverified.verify_with(&self.keys.load())?;
        let token: AccessToken = unverified.claims()?;
        self.check_claims(&token, now)?;
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        match denied.denies(&token) {
            Some(cause) => Err(Refusal::Revoked(cause)),
            None => Ok(Accepted { token }),
        }
    }

    fn check_claims(&self, token: &AccessToken, now: Timestamp) -> Result<(), Refusal> {
        let settings = &self.settings;
        let ahead = now.plus(settings.skew).as_secs();
        if token.iss != settings.issuer {
            Err(Refusal::OtherIssuer)
        } else if token.aud != settings.audience {
            Err(Refusal::OtherAudience)
        } else if token.cnf.is_some() {
            Err(Refusal::Bound)
        } else if token.sub_profile == Profile::User && token.user().is_none() {
            let problem = "`sub` is no user id".to_owned();
            Err(Refusal::Token(JoseError::Malformed("payload", problem)))
        } else if now >= Timestamp::from_secs(token.exp) {
            Err(Refusal::Expired)
        } else if token.nbf > ahead || token.iat > ahead {
            Err(Refusal::NotYetValid)
        } else if token.exp.saturating_sub(token.iat) > settings.longest_life.as_secs() {
            Err(Refusal::TooLongLived)
        } else {
            Ok(())
        }
    }

    /// Waits until keys and feed were read once.
    pub async fn ready(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.as_of.subscribe().wait_for(Option::is_some).await;
    }

    /// When the feed was last read to its end; `None` before the first time. For a readiness check.
    pub fn as_of(&self) -> Option<Timestamp> {
        *self.as_of.borrow()
    }

    /// How many cutoffs are held. For a gauge.
    pub fn cutoffs(&self) -> usize {
        self.denied.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl fmt::Debug for ResourceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResourceServer")
            .field("settings", &self.settings)
            .field("as_of", &self.as_of())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clock::ManualClock;
    use crate::entropy::OsEntropy;
    use crate::keys::jose::sign;
    use crate::keys::ring_keys::RingSigner;
    use crate::keys::{KeyId, Signer};
    use crate::model::cutoff::{Cutoff, Selector};
    use crate::model::ids::{DecisionId, LeaseId, TaskId};

    pub(crate) const START: Timestamp = Timestamp::from_secs(1_795_329_000);
    pub(crate) const ISSUER: &str = "http://127.0.0.1:9";
    pub(crate) const AUDIENCE: &str = "https://crm.example.org/api";

    pub(crate) fn claims_of(agent: &str, made_at: Timestamp, seed: u8) -> Value {
        let task = TaskId::new(made_at, [seed; 10]);
        let lease = LeaseId::new(task, made_at, [seed; 10]);
        json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-of-{agent}"), "sub_profile": "user",
            "client_id": agent, "iat": made_at.as_secs(), "nbf": made_at.as_secs(), "exp": made_at.as_secs() + 300,
            "jti": lease, "txn": task, "scope": "crm:read",
            "authorization_details": [{
                "type": "dayfly_access", "locations": [AUDIENCE], "actions": ["read"], "resources": ["customers/42"],
            }],
            "act": {"sub": agent, "iss": ISSUER, "sub_profile": "ai_agent"},
            "https://dayfly.dev/claims": {
                "task": task, "lease": lease, "agent": agent, "tool": format!("tool-of-{agent}"),
                "environment": format!("environment-of-{agent}"), "trust_domain": format!("{agent}.example.org"),
                "decision": DecisionId::new(made_at, [seed; 10]),
            },
        })
    }

    pub(crate) fn token_of(agent: &str, made_at: Timestamp, seed: u8) -> AccessToken {
        serde_json::from_value(claims_of(agent, made_at, seed)).unwrap()
    }

    pub(crate) fn key() -> RingSigner {
        RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap()
    }

    struct Fixture {
        server: ResourceServer,
        clock: Arc<ManualClock>,
        key: RingSigner,
    }

    fn fixture() -> Fixture {
        let clock = Arc::new(ManualClock::at(START));
        let server = ResourceServer::new(Settings::new(ISSUER, AUDIENCE), clock.clone()).unwrap();
        let key = key();
        server
            .keys
            .store(Arc::new(KeySet::of([key.public_key().clone()])));
        server.as_of.send_replace(Some(START));
        Fixture { server, clock, key }
    }

    impl Fixture {
        async fn check(&self, claims: &Value) -> Result<Accepted, Refusal> {
            self.server.check(&sign(&self.key, TYP, claims).await.unwrap())
        }
    }

    fn with(name: &str, value: Value) -> Value {
        let mut claims = claims_of("support-bot", START, 1);
        claims[name] = value;
        claims
    }

    #[tokio::test]
    async fn accepts_a_good_token_for_what_it_permits_and_for_nothing_else() {
        let accepted = fixture()
            .check(&claims_of("support-bot", START, 1))
            .await
            .unwrap();
        let path = |text: &str| text.parse::<ResourcePath>().unwrap();
        let demand = |action: &str, resource: Option<&str>| {
            accepted.demand(&action.parse().unwrap(), resource.map(path).as_ref())
        };
        assert_eq!(demand("read", Some("customers/42")), Ok(()));
        assert_eq!(demand("read", Some("customers/42/notes")), Ok(()));
        for (action, resource) in [
            ("read", Some("customers/421")),
            ("read", Some("customers")),
            ("read", None),
            ("write", Some("customers/42")),
        ] {
            let refusal = demand(action, resource).unwrap_err();
            assert_eq!(
                (refusal.status(), refusal.error()),
                (403, Some("insufficient_scope"))
            );
        }
    }

    #[tokio::test]
    async fn refuses_each_claim_that_is_not_as_it_has_to_be() {
        let fixture = fixture();
        let secs = START.as_secs();
        for (name, value, wanted) in [
            ("iss", json!("https://other.example.org"), Refusal::OtherIssuer),
            ("iss", json!(format!("{ISSUER}/")), Refusal::OtherIssuer),
            ("aud", json!("https://crm.example.org"), Refusal::OtherAudience),
            ("cnf", json!({"jkt": "x"}), Refusal::Bound),
            ("exp", json!(secs), Refusal::Expired),
            ("exp", json!(0), Refusal::Expired),
            ("nbf", json!(secs + 31), Refusal::NotYetValid),
            ("iat", json!(secs + 31), Refusal::NotYetValid),
            ("exp", json!(secs + 3601), Refusal::TooLongLived),
        ] {
            assert_eq!(
                fixture.check(&with(name, value.clone())).await,
                Err(wanted),
                "{name} {value}"
            );
        }
        for (name, value) in [
            ("aud", json!([AUDIENCE])),
            ("exp", json!("soon")),
            ("exp", json!(-1)),
            ("jti", json!("lse_1")),
            ("sub", json!("a\nb")),
            ("authorization_details", json!([{"type": "other"}])),
            (
                "authorization_details",
                json!([{"type": "dayfly_access", "locations": [AUDIENCE], "actions": ["read"], "only": "x"}]),
            ),
        ] {
            let outcome = fixture.check(&with(name, value.clone())).await;
            assert!(
                matches!(outcome, Err(Refusal::Token(JoseError::Malformed(..)))),
                "{name} {value}"
            );
        }
    }

    #[tokio::test]
    async fn refuses_a_token_without_a_claim_that_it_needs() {
        let fixture = fixture();
        for name in [
            "iss",
            "sub",
            "aud",
            "client_id",
            "iat",
            "nbf",
            "exp",
            "jti",
            "txn",
            "authorization_details",
            "https://dayfly.dev/claims",
        ] {
            let mut claims = claims_of("support-bot", START, 1);
            claims.as_object_mut().unwrap().remove(name).unwrap();
            assert!(fixture.check(&claims).await.is_err(), "{name}");
        }
    }

    #[tokio::test]
    async fn a_detail_for_another_place_permits_nothing_here() {
        let details = json!([{"type": "dayfly_access", "locations": ["https://other.example.org"], "actions": ["read"]}]);
        let accepted = fixture()
            .check(&with("authorization_details", details))
            .await
            .unwrap();
        assert!(accepted.demand(&"read".parse().unwrap(), None).is_err());
    }

    #[tokio::test]
    async fn refuses_other_kinds_of_tokens_and_other_keys() {
        let fixture = fixture();
        let claims = claims_of("support-bot", START, 1);
        for typ in ["JWT", "dpop+jwt", "secevent+jwt", ""] {
            let token = sign(&fixture.key, typ, &claims).await.unwrap();
            assert_eq!(fixture.server.check(&token), Err(Refusal::OtherType), "{typ}");
        }
        let stranger = sign(&key(), TYP, &claims).await.unwrap();
        assert_eq!(
            fixture.server.check(&stranger),
            Err(Refusal::Token(JoseError::NoKey))
        );
        let liar = Renamed(key(), fixture.key.key_id().clone());
        let token = sign(&liar, TYP, &claims).await.unwrap();
        assert_eq!(
            fixture.server.check(&token),
            Err(Refusal::Token(JoseError::BadSignature))
        );
        assert_eq!(
            fixture.server.check("x").unwrap_err().error(),
            Some("invalid_token")
        );
    }

    /// A key that goes by the name of another.
    struct Renamed(RingSigner, KeyId);

    #[async_trait::async_trait]
    impl Signer for Renamed {
        fn key_id(&self) -> &KeyId {
            &self.1
        }
        fn algorithm(&self) -> Algorithm {
            self.0.algorithm()
        }
        fn public_key(&self) -> &crate::keys::jwk::VerifyingKey {
            self.0.public_key()
        }
        async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, crate::keys::KeyError> {
            self.0.sign(message).await
        }
    }

    #[tokio::test]
    async fn the_skew_of_clocks_delays_nothing_and_prolongs_nothing() {
        let fixture = fixture();
        let claims = claims_of("support-bot", START, 1);
        let token = sign(&fixture.key, TYP, &claims).await.unwrap();
        for (at, wanted) in [
            (START.minus(Duration::from_secs(30)), None),
            (START.minus(Duration::from_secs(31)), Some(Refusal::NotYetValid)),
            (START.plus(Duration::from_millis(299_999)), None),
            (START.plus(Duration::from_secs(300)), Some(Refusal::Expired)),
        ] {
            fixture.clock.set(at);
            fixture.server.as_of.send_replace(Some(at));
            assert_eq!(fixture.server.check(&token).err(), wanted, "{at}");
        }
    }

    #[tokio::test]
    async fn a_cutoff_refuses_a_token_at_once() {
        let fixture = fixture();
        let claims = claims_of("support-bot", START, 1);
        assert!(fixture.check(&claims).await.is_ok());
        let cutoff = Cutoff {
            selector: Selector::Agent("support-bot".parse().unwrap()),
            up_to: START,
            at: START,
            cause: Cause::Revoked,
        };
        fixture
            .server
            .denied
            .write()
            .unwrap()
            .apply(&cutoff, START)
            .unwrap();
        assert_eq!(
            fixture.check(&claims).await,
            Err(Refusal::Revoked(Cause::Revoked))
        );
        assert!(fixture.check(&claims_of("billing-bot", START, 2)).await.is_ok());
    }

    #[tokio::test]
    async fn refuses_everything_when_the_feed_was_not_read_lately() {
        let fixture = fixture();
        let token = sign(&fixture.key, TYP, &claims_of("support-bot", START, 1))
            .await
            .unwrap();
        fixture.clock.set(START.plus(Duration::from_secs(60)));
        assert!(fixture.server.check(&token).is_ok());
        fixture.clock.advance(Duration::from_millis(1));
        let refusal = fixture.server.check(&token).unwrap_err();
        assert_eq!((&refusal, refusal.status()), (&Refusal::Stale, 503));
        fixture.server.as_of.send_replace(None);
        assert_eq!(fixture.server.check(&token), Err(Refusal::Stale), "never read");
    }

    #[test]
    fn refuses_settings_that_would_weaken_it() {
        let clock = Arc::new(ManualClock::at(START));
        let good = Settings::new(ISSUER, AUDIENCE);
        for bad in [
            Settings {
                skew: Duration::from_secs(61),
                ..good.clone()
            },
            Settings {
                max_staleness: Duration::from_secs(4),
                ..good.clone()
            },
            Settings {
                audience: String::new(),
                ..good.clone()
            },
            Settings {
                feed: "not a url".into(),
                ..good.clone()
            },
        ] {
            assert!(ResourceServer::new(bad, clock.clone()).is_err());
        }
    }
}
