//! What a tool needs to accept Dayfly's access tokens: offline verification, and the feed of cutoffs that ends tokens
//! before their expiry.
//!
//! It fails closed. A verifier that has not read the feed for longer than it may knows nothing about revocations, so it
//! says "503, later", whatever the token looks like.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dayfly_client::Evidence;
//! use dayfly_client::resource::{Settings, Verifier};
//!
//! let settings = Settings {
//!     evidence: Some(Evidence::file("/run/evidence.jwt")), // the feed takes a permit for `dayfly:follow`
//!     ..Settings::new("https://dayfly.example.org", "https://crm.example.org")
//! };
//! let verifier = Verifier::follow(settings)?;
//! verifier.ready().await;
//!
//! let claims = verifier.verify("eyJ…").await?;
//! claims.demand("read", Some("customers/42"))?;
//! # Ok(()) }
//! ```
//!
//! With the feature `tower` there is a `Layer` that does it for a whole service.

mod claims;
pub mod cutoff;
pub mod deny_list;
mod follower;
mod jws;
#[cfg(feature = "tower")]
mod layer;
pub mod status_list;
#[cfg(test)]
mod testing;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::ambient;
use crate::evidence::Evidence;
use claims::TYP;
use deny_list::DenyList;
use follower::Source;
use jws::{Parsed, Unverified};

pub use claims::{Actor, Claims, Detail, LeaseId, Marks, Profile, Reference, Status};
pub use jws::{InvalidKeys, InvalidToken, Keys};
#[cfg(feature = "tower")]
pub use layer::{Demand, Layer, Verified};

/// The longest token that is looked at. It has to fit into a header.
const LONGEST_TOKEN: usize = 8 << 10;

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
    /// What proves this workload to the feed; what [is found](Evidence) when absent.
    pub evidence: Option<Evidence>,
    /// Nothing is accepted once the feed was last read longer ago than this; 10 seconds, at least five. The feed is asked
    /// four times as often.
    pub max_staleness: Duration,
    /// How far the clock here may be behind the broker's; 30 seconds, at most 60. It never prolongs a token.
    pub skew: Duration,
    /// The longest life of a token: an hour. A token that lives longer is refused, because its cutoff could be forgotten
    /// before its expiry.
    pub longest_life: Duration,
    /// How many cutoffs are held at most: 200,000. One takes about 250 bytes.
    pub most_cutoffs: usize,
    /// The keys are fetched no more often than this, whatever keys tokens name; 10 seconds.
    pub between_key_fetches: Duration,
    /// Keys and revocations may come, and evidence go, over plain HTTP from and to other machines: whoever is on the way
    /// can give out keys of their own.
    pub allow_plain_http: bool,
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
            max_staleness: Duration::from_secs(10),
            skew: Duration::from_secs(30),
            longest_life: Duration::from_secs(3600),
            most_cutoffs: 200_000,
            between_key_fetches: Duration::from_secs(10),
            allow_plain_http: false,
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

/// The settings make no verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tokens cannot be verified by these settings: {0}")]
pub struct InvalidSettings(String);

/// Accepts or refuses access tokens. A clone is the same one; with the last of them it stops following the broker.
#[derive(Clone)]
pub struct Verifier(Arc<Running>);

struct Running {
    state: Arc<State>,
    /// Aborted with this value.
    _following: JoinSet<()>,
}

/// What is known.
struct State {
    settings: Settings,
    clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    keys: RwLock<Arc<Keys>>,
    denied: RwLock<DenyList>,
    /// The state of the broker that the deny list shows; `None` before the feed was read once.
    as_of: watch::Sender<Option<SystemTime>>,
    source: Source,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody here knows what was revoked lately.
    #[error("revocations were not read lately enough: try again later")]
    Stale,
    /// There is no token.
    #[error("send a Dayfly token")]
    NoToken,
    /// It is no token, or nobody we know signed it.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// It is another kind of token.
    #[error("the token is no access token: its `typ` is not `{TYP}`")]
    OtherType,
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
    /// A cutoff ended it, for this cause.
    #[error("the token was revoked ({0})")]
    Revoked(Arc<str>),
    /// It is valid and does not permit this action there.
    #[error("the token does not permit `{0}` there")]
    NotPermitted(String),
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

    /// The `error` of the `WWW-Authenticate: Bearer` header (RFC 6750 §3.1); none when no token is at fault.
    pub const fn error(&self) -> Option<&'static str> {
        match self {
            Self::Stale | Self::NoToken => None,
            Self::NotPermitted(_) => Some("insufficient_scope"),
            _ => Some("invalid_token"),
        }
    }
}

impl Verifier {
    /// A verifier that keeps itself up to date on the runtime in which it is made. It refuses everything as
    /// [`Refusal::Stale`] until keys and feed were read once.
    pub fn follow(settings: Settings) -> Result<Self, InvalidSettings> {
        Self::follow_by(settings, ambient::now)
    }

    /// The same by another clock, for tests.
    pub fn follow_by(
        settings: Settings,
        clock: impl Fn() -> SystemTime + Send + Sync + 'static,
    ) -> Result<Self, InvalidSettings> {
        let state = Arc::new(State::new(settings, Box::new(clock))?);
        let runtime = Handle::try_current();
        let runtime =
            runtime.map_err(|_| InvalidSettings("a verifier is made in a tokio runtime".to_owned()))?;
        let mut following = JoinSet::new();
        following.spawn_on(state.clone().follow(), &runtime);
        Ok(Self(Arc::new(Running {
            state,
            _following: following,
        })))
    }

    /// Accepts a token, or says why not. Looks for new keys when the token names one that is not known.
    pub async fn verify(&self, token: &str) -> Result<Claims, Refusal> {
        match self.check(token) {
            Err(Refusal::Token(InvalidToken::NoKey)) if self.0.state.look_for_keys().await => {
                self.check(token)
            }
            outcome => outcome,
        }
    }

    /// Accepts a token, or says why not, by what is known now. No I/O.
    pub fn check(&self, token: &str) -> Result<Claims, Refusal> {
        self.0.state.check(token)
    }

    /// Waits until keys and feed were read once.
    pub async fn ready(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.state.as_of.subscribe().wait_for(Option::is_some).await;
    }

    /// When the feed was last read to its end; `None` before the first time. For a readiness check.
    pub fn as_of(&self) -> Option<SystemTime> {
        *self.0.state.as_of.borrow()
    }

    /// How many cutoffs are held. For a gauge.
    pub fn cutoffs(&self) -> usize {
        self.0
            .state
            .denied
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }
}

impl State {
    fn new(
        settings: Settings,
        clock: Box<dyn Fn() -> SystemTime + Send + Sync>,
    ) -> Result<Self, InvalidSettings> {
        settings.check()?;
        let source = Source::new(&settings)?;
        // A cutoff is recorded by one broker's clock, a token by another's, and read by ours.
        let keep = settings.longest_life.saturating_add(2 * settings.skew);
        Ok(Self {
            denied: RwLock::new(DenyList::new(keep, settings.most_cutoffs)),
            settings,
            clock,
            keys: RwLock::default(),
            as_of: watch::Sender::new(None),
            source,
        })
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    fn check(&self, token: &str) -> Result<Claims, Refusal> {
        let now = self.now();
        let read_at = *self.as_of.borrow();
        let age = |at| now.duration_since(at).unwrap_or_default();
        if read_at.is_none_or(|at| age(at) > self.settings.max_staleness) {
            return Err(Refusal::Stale);
        }
        let Parsed::Token(token) = Unverified::parse(token, TYP, LONGEST_TOKEN)? else {
            return Err(Refusal::OtherType);
        };
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner).clone();
        let claims: Claims = token.verified(&keys)?;
        self.check_claims(&claims, now)?;
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        match denied.denies(&claims) {
            Some(cause) => Err(Refusal::Revoked(cause)),
            None => Ok(claims),
        }
    }

    fn check_claims(&self, token: &Claims, now: SystemTime) -> Result<(), Refusal> {
        let settings = &self.settings;
        let seconds = |at: SystemTime| {
            at.duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs()
        };
        let ahead = seconds(now + settings.skew);
        if token.iss != settings.issuer {
            Err(Refusal::OtherIssuer)
        } else if token.aud != settings.audience {
            Err(Refusal::OtherAudience)
        } else if token.cnf.is_some() {
            Err(Refusal::Bound)
        } else if !token.is_whole() {
            let problem = "its members contradict each other, or `sub` is no user id".to_owned();
            Err(InvalidToken::Malformed("payload", problem).into())
        } else if seconds(now) >= token.exp {
            Err(Refusal::Expired)
        } else if token.nbf > ahead || token.iat > ahead {
            Err(Refusal::NotYetValid)
        } else if token.exp.saturating_sub(token.iat) > settings.longest_life.as_secs() {
            Err(Refusal::TooLongLived)
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("settings", &self.0.state.settings)
            .field("as_of", &self.as_of())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
