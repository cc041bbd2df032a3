//! Signals: what somebody outside says happened to a user, a workload or a token of ours, as Security Event
//! Tokens (RFC 8417) of the Shared Signals Framework 1.0, CAEP 1.0 and RISC 1.0.
//!
//! A [`Stream`] is whom we listen to: one transmitter, its keys, and what it may speak about. It reads a
//! token in two steps. [`Stream::verify`] proves that the transmitter said this to us, now; only it makes a
//! [`set::Set`]. [`Stream::interpret`] turns that into a [`Signal`]: who is meant in our words, and what
//! follows. What a signal does depends on nothing but its text and the configuration, so that taking it
//! twice, or late, does no more than taking it once. The effects themselves are the broker's.

pub mod identifier;
pub mod mapping;
pub mod poll;
pub mod rules;
pub mod set;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ring::digest;
use serde::Serialize;
use subtle::ConstantTimeEq as _;

use crate::identity::IdentityError;
use crate::identity::claims::{Audiences, Skew};
use crate::identity::key_source::KeySource;
use crate::keys::Algorithm;
use crate::model::fact::Subject;
use crate::model::ids::LeaseId;
use crate::model::name::{
    AgentName, Environment, FactName, FactSource, FactValue, InvalidName, StreamName, UserId,
};
use crate::model::secret::Secret;
use crate::model::spiffe::SpiffeId;
use crate::model::time::Timestamp;

use identifier::Identifier;
use mapping::{Confinement, Mapping, NotHere};
use rules::Rules;
use set::Set;

/// The event that a transmitter sends to show that a stream works (SSF 1.0 §8.1.4.1).
pub const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
/// The event that says that the transmitter changed the state of a stream (SSF 1.0 §8.1.5).
pub const STREAM_UPDATED: &str = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";

/// Everything about a stream that is configured.
#[derive(Debug)]
pub struct Terms {
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// The `aud` values that are us.
    pub audiences: Audiences,
    /// What its tokens may be signed with.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may differ from ours.
    pub skew: Skew,
    /// How long ago a token may have been issued.
    pub oldest: Duration,
    /// Who is meant by a subject identifier.
    pub mapping: Mapping,
    /// Whom the stream may speak about.
    pub confinement: Confinement,
    /// What follows from which event.
    pub rules: Rules,
    /// A sign of life is expected at least this often.
    pub silence: Option<Duration>,
}

type Digest = [u8; 32];

/// What is compared in place of a secret: of one length, so that not even that shows.
fn sha256(secret: &Secret) -> Digest {
    let digest = digest::digest(&digest::SHA256, secret.expose().as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

/// A transmitter that we listen to.
pub struct Stream {
    name: StreamName,
    source: FactSource,
    terms: Terms,
    keys: Arc<KeySource>,
    /// Of what the transmitter sends along with a token that it pushes; none where it pushes nothing.
    secret: Option<Digest>,
    /// When it last said something that was verified, in milliseconds.
    heard_at: AtomicU64,
}

impl Stream {
    /// A stream that begins to listen at this instant.
    pub fn new(
        name: StreamName,
        terms: Terms,
        keys: Arc<KeySource>,
        secret: Option<Secret>,
        now: Timestamp,
    ) -> Result<Self, InvalidName> {
        Ok(Self {
            source: format!("signals/{name}").parse()?,
            name,
            terms,
            keys,
            secret: secret.as_ref().map(sha256),
            heard_at: AtomicU64::new(now.as_millis()),
        })
    }

    /// What it is called here.
    pub fn name(&self) -> &StreamName {
        &self.name
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.terms.issuer
    }

    /// Whose keys it relies on.
    pub fn keys(&self) -> &Arc<KeySource> {
        &self.keys
    }

    /// Whom it may speak about.
    pub fn confinement(&self) -> &Confinement {
        &self.terms.confinement
    }

    /// Who its facts are stated by: no agent can have this name.
    pub fn source(&self) -> &FactSource {
        &self.source
    }

    /// Whether this is what the transmitter sends along with a token that it pushes.
    pub fn admits(&self, presented: &Secret) -> bool {
        self.secret
            .is_some_and(|secret| secret.ct_eq(&sha256(presented)).into())
    }

    /// Proves that the transmitter said this to us, not long ago.
    pub async fn verify(&self, compact: &str, now: Timestamp) -> Result<Set, SignalError> {
        let set = Set::verify(compact, &self.terms, &self.keys, now).await?;
        self.heard_at.fetch_max(now.as_millis(), Ordering::AcqRel);
        Ok(set)
    }

    /// What a verified token means here.
    pub fn interpret(&self, set: &Set) -> Result<Signal, SignalError> {
        match set.event() {
            VERIFICATION => return Ok(Signal::nothing(Nothing::Verification)),
            STREAM_UPDATED => {
                let status = set.text("status").unwrap_or_default();
                return Ok(Signal::nothing(Nothing::Stream(Status::of(status))));
            }
            _ => {}
        }
        let Some(effects) = self.terms.rules.effects(set)? else {
            return Ok(Signal::nothing(Nothing::Ignored));
        };
        let identifier = Identifier::read(set.subject(), set.is_in_event())?;
        match self.terms.mapping.whom(&identifier, set.text("principal")) {
            Ok(about) => Ok(Signal {
                about,
                effects,
                nothing: None,
            }),
            Err(NotHere::Unknown(why)) => Ok(Signal::nothing(Nothing::Nobody(why))),
            Err(NotHere::Foreign(why)) => Err(SignalError::Foreign(why)),
        }
    }

    /// Until when a cutoff at the instant of this event reaches: as far as clocks may differ, and never
    /// past the present.
    pub fn reach(&self, set: &Set, now: Timestamp) -> Timestamp {
        set.at().plus(self.terms.skew.as_duration()).min(now)
    }

    /// For how long nothing was heard, where that is longer than was promised.
    pub fn silent_for(&self, now: Timestamp) -> Option<Duration> {
        let heard_at = Timestamp::from_millis(self.heard_at.load(Ordering::Acquire));
        let silent = now.since(heard_at);
        self.terms.silence.filter(|most| silent > *most).map(|_| silent)
    }

    /// Whether signs of life are expected at all.
    pub fn is_expected_to_speak(&self) -> bool {
        self.terms.silence.is_some()
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// All streams, by name.
#[derive(Debug, Default)]
pub struct Streams(BTreeMap<StreamName, Arc<Stream>>);

impl Streams {
    /// These streams.
    pub fn new(streams: impl IntoIterator<Item = Arc<Stream>>) -> Self {
        Self(
            streams
                .into_iter()
                .map(|stream| (stream.name.clone(), stream))
                .collect(),
        )
    }

    /// The stream of that name.
    pub fn get(&self, name: &StreamName) -> Option<&Arc<Stream>> {
        self.0.get(name)
    }

    /// Every stream.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.0.values()
    }
}

/// Who is meant, in our words.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Whom {
    /// Somebody on whose behalf tasks run.
    User(UserId),
    /// Whichever agent this workload is.
    Workload(SpiffeId),
    /// An agent.
    Agent(AgentName),
    /// One lease: the token was named by its `jti`.
    Lease(LeaseId),
    /// An environment: the transmitter calls it a tenant.
    Environment(Environment),
}

impl Whom {
    /// Whom facts about it are about, where no registry and no ledger has to be asked.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::User(id) => Some(Subject::User(id.clone())),
            Self::Agent(name) => Some(Subject::Agent(name.clone())),
            Self::Environment(name) => Some(Subject::Environment(name.clone())),
            Self::Workload(_) | Self::Lease(_) => None,
        }
    }
}

/// What follows from a signal, for everybody that it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Something is so, or, without a value, not any more.
    State {
        /// What it is about.
        name: FactName,
        /// What is so.
        value: Option<FactValue>,
        /// Since when: the instant of the event, or a little before it where something graver may have
        /// happened in the same second.
        at: Timestamp,
        /// Until when at most.
        expires_at: Option<Timestamp>,
    },
    /// Every lease that was issued until the event has to end.
    Cut,
}

/// How records tell of an effect: `risk=high`, `account taken back`, `cutoff`.
impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State {
                name,
                value: Some(value),
                ..
            } => write!(f, "{name}={value}"),
            Self::State {
                name, value: None, ..
            } => write!(f, "{name} taken back"),
            Self::Cut => f.write_str("cutoff"),
        }
    }
}

/// What a verified token means here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signal {
    /// Who is meant. More than one where the transmitter knows somebody by several names.
    pub about: Vec<Whom>,
    /// What follows.
    pub effects: Vec<Effect>,
    /// Why nothing follows, where nothing does.
    pub nothing: Option<Nothing>,
}

impl Signal {
    fn nothing(why: Nothing) -> Self {
        Self {
            about: Vec::new(),
            effects: Vec::new(),
            nothing: Some(why),
        }
    }
}

/// Why nothing follows from a signal that is as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nothing {
    /// A sign of life.
    Verification,
    /// The transmitter says how the stream is.
    Stream(Status),
    /// No rule says what follows from events of this type, or from this one.
    Ignored,
    /// It is about nobody that there could be here.
    Nobody(&'static str),
}

/// How a stream is, as its transmitter says (SSF 1.0 §8.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// It sends.
    Enabled,
    /// It keeps what there is to say, for a while.
    Paused,
    /// It sends nothing and keeps nothing.
    Disabled,
    /// A word that the framework does not know.
    Unknown,
}

impl Status {
    fn of(word: &str) -> Self {
        match word {
            "enabled" => Self::Enabled,
            "paused" => Self::Paused,
            "disabled" => Self::Disabled,
            _ => Self::Unknown,
        }
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a token is not taken. The texts quote nothing of it but names of its members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignalError {
    /// It is no token of this kind, or its event is not as its definition says.
    #[error("{0}")]
    Malformed(String),
    /// The key or the algorithm is not one that is accepted of this transmitter.
    #[error("{0}")]
    Key(String),
    /// It is from somebody else.
    #[error("its `iss` is not the issuer of this stream")]
    Issuer,
    /// It is for somebody else.
    #[error("its `aud` is not this receiver")]
    Audience,
    /// The transmitter may not speak about this subject.
    #[error("{0}")]
    Foreign(String),
    /// The keys to check it cannot be had now. It may be sent again.
    #[error("{0}")]
    Unavailable(String),
}

impl SignalError {
    /// What transmitters are told (RFC 8935 §2.4). None where the token may be good and has to come again.
    pub const fn code(&self) -> Option<&'static str> {
        match self {
            Self::Malformed(_) => Some("invalid_request"),
            Self::Key(_) => Some("invalid_key"),
            Self::Issuer => Some("invalid_issuer"),
            Self::Audience => Some("invalid_audience"),
            Self::Foreign(_) => Some("access_denied"),
            Self::Unavailable(_) => None,
        }
    }
}

impl From<IdentityError> for SignalError {
    fn from(error: IdentityError) -> Self {
        match error {
            IdentityError::Malformed(reason) => Self::Malformed(reason),
            IdentityError::Unavailable(_) => Self::Unavailable(error.to_string()),
            IdentityError::Refused(reason) | IdentityError::Untimely(reason) => Self::Key(reason),
            IdentityError::Missing | IdentityError::Unrecognised => Self::Malformed(error.to_string()),
        }
    }
}

/// What a transmitter is told of a token that is not taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Told {
    /// A registered word (RFC 8935 §2.4).
    pub err: &'static str,
    /// Why, for a person.
    pub description: String,
}

impl Told {
    /// What is said of this error; nothing where the token may be good and has to come again.
    pub fn of(error: &SignalError) -> Option<Self> {
        Some(Self {
            err: error.code()?,
            description: error.to_string(),
        })
    }
}

/// What became of the tokens that were fetched before.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcomes {
    /// Those that were taken, by their names.
    pub taken: Vec<String>,
    /// Those that were not, and what the transmitter is told.
    pub refused: BTreeMap<String, Told>,
}

impl Outcomes {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.refused.is_empty()
    }
}

/// What a transmitter had to say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// The tokens, each with the name that the transmitter gave it.
    pub sets: Vec<(String, String)>,
    /// Whether there are more already.
    pub more: bool,
}

/// A transmitter that keeps tokens until they are fetched (RFC 8936).
#[async_trait]
pub trait Transmitter: Send + Sync + 'static {
    /// Says what became of earlier tokens, and fetches more. Waits for some, as long as it was told to.
    async fn poll(&self, earlier: &Outcomes) -> Result<Batch, PollError>;
    /// How long to wait between two polls that brought nothing.
    fn interval(&self) -> Duration;
}

/// Why tokens could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PollError(pub String);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::{Idp, NOW, SESSION_REVOKED, at, claims, with};
    use super::*;

    #[tokio::test]
    async fn a_stream_is_silent_until_something_is_verified() {
        let idp = Idp::new();
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert_eq!(idp.stream.silent_for(later(600)), None);
        assert_eq!(idp.stream.silent_for(later(601)), Some(Duration::from_secs(601)));
        assert!(idp.stream.verify("x.y.z", later(300)).await.is_err());
        assert!(idp.stream.silent_for(later(601)).is_some());
        let alive = with(
            &claims(VERIFICATION, json!({"state": "abc"})),
            json!({"iat": at(300)}),
        );
        let set = idp
            .stream
            .verify(&idp.sign(&alive).await, later(300))
            .await
            .unwrap();
        assert_eq!(
            idp.stream.interpret(&set).unwrap().nothing,
            Some(Nothing::Verification)
        );
        assert_eq!(idp.stream.silent_for(later(900)), None);
        assert!(idp.stream.silent_for(later(901)).is_some());
    }

    #[tokio::test]
    async fn a_transmitter_says_how_its_stream_is() {
        let idp = Idp::new();
        for (status, meant) in [
            (
                json!({"status": "paused", "reason": "License is not valid"}),
                Status::Paused,
            ),
            (json!({"status": "enabled"}), Status::Enabled),
            (json!({"status": "disabled"}), Status::Disabled),
            (json!({}), Status::Unknown),
        ] {
            let token = idp.sign(&claims(STREAM_UPDATED, status)).await;
            let set = idp.stream.verify(&token, NOW).await.unwrap();
            assert_eq!(
                idp.stream.interpret(&set).unwrap().nothing,
                Some(Nothing::Stream(meant))
            );
        }
    }

    #[tokio::test]
    async fn a_cutoff_reaches_as_far_as_clocks_may_differ_and_not_into_the_future() {
        let idp = Idp::new();
        for (event, reaches) in [(-100, -70), (-10, 0), (20, 0)] {
            let claims = claims(SESSION_REVOKED, json!({"event_timestamp": at(event)}));
            let set = idp.stream.verify(&idp.sign(&claims).await, NOW).await.unwrap();
            let reach = idp.stream.reach(&set, NOW).as_secs();
            assert_eq!(i64::try_from(reach).unwrap(), at(reaches), "{event}");
        }
    }

    #[test]
    fn only_the_transmitter_of_a_stream_is_admitted() {
        let idp = Idp::new();
        assert!(idp.stream.admits(&Secret::new("hunter2")));
        assert!(!idp.stream.admits(&Secret::new("hunter3")));
        assert!(!idp.stream.admits(&Secret::new("")));
        assert_eq!(idp.stream.source().as_str(), "signals/idp");
        assert!(!format!("{:?}", idp.stream).contains("hunter2"));
    }
}
