//! Leases: our record that a credential is, or may be, out; until when; and how to end it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::access::ResourcePath;
use super::attestation::EvidenceKind;
use super::cutoff::{Cutoff, Selector};
use super::ids::{DecisionId, LeaseId, TaskId};
use super::name::{AgentName, Environment, InvalidName, Operation, ProviderName, ToolName, UserId};
use super::parsed::parsed;
use super::spiffe::TrustDomain;
use super::status_list::Listing;
use super::task::{Delegator, Outcome};
use super::time::Timestamp;
use super::ttl::{Bound, Ttl};

/// The provider's name for the thing to end: a `jti`, a role name, a session name. Never a secret.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub String);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a credential can end before its expiry. Said to the caller with the credential.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It is removed at the provider, at once.
    Immediate,
    /// Resource servers that follow the feed or introspect refuse it, within their staleness.
    DenyListed,
    /// It cannot be recalled; it runs to its expiry.
    AtExpiry,
    /// It does not end with the lease: it works until somebody changes it where it comes from.
    Never,
}

impl Ending {
    /// The word that the API and records use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Immediate => "immediate",
            Self::DenyListed => "deny_listed",
            Self::AtExpiry => "at_expiry",
            Self::Never => "never",
        }
    }
}

/// Why a lease ended or has to end. Written as [`Cause::as_str`] wherever it is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// Its own time was up.
    Expired,
    /// Its task ended.
    TaskEnded(Outcome),
    /// Its task was suspended.
    TaskSuspended,
    /// Somebody who may revoked it.
    Revoked,
    /// A cutoff that matches it.
    Cutoff,
    /// A repeated request got a new credential in its place.
    Superseded,
    /// The request that reserved it did not come to its end.
    Compensated,
    /// It is from before the ledger was lost.
    Recovered,
    /// Its credential was not there any more, though nobody here had ended it.
    Vanished,
    /// Decided anew: policy does not permit it any more.
    NotPermitted,
    /// Decided anew: what it may live under today's rules is up.
    Shortened,
    /// A signal about its subject.
    Signal,
    /// Its agent is not in the registry any more.
    AgentUnregistered,
    /// Its agent has no owner any more.
    AgentUnowned,
    /// Its agent was suspended.
    AgentSuspended,
    /// Its agent was retired.
    AgentRetired,
    /// The review of its agent is overdue.
    ReviewOverdue,
    /// Its tool is not in the catalogue any more.
    ToolRemoved,
    /// The evidence that its life was bound to expired.
    AttestationExpired,
    /// The key that vouched for its workload is not trusted any more.
    AttestationRevoked,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 26] = [
        Self::Expired,
        Self::TaskEnded(Outcome::Completed),
        Self::TaskEnded(Outcome::Failed),
        Self::TaskEnded(Outcome::Cancelled),
        Self::TaskEnded(Outcome::Expired),
        Self::TaskEnded(Outcome::Lost),
        Self::TaskEnded(Outcome::Revoked),
        Self::TaskEnded(Outcome::ParentEnded),
        Self::TaskSuspended,
        Self::Revoked,
        Self::Cutoff,
        Self::Superseded,
        Self::Compensated,
        Self::Recovered,
        Self::Vanished,
        Self::NotPermitted,
        Self::Shortened,
        Self::Signal,
        Self::AgentUnregistered,
        Self::AgentUnowned,
        Self::AgentSuspended,
        Self::AgentRetired,
        Self::ReviewOverdue,
        Self::ToolRemoved,
        Self::AttestationExpired,
        Self::AttestationRevoked,
    ];

    /// The word that the API, records and metrics use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::TaskEnded(Outcome::Completed) => "task_completed",
            Self::TaskEnded(Outcome::Failed) => "task_failed",
            Self::TaskEnded(Outcome::Cancelled) => "task_cancelled",
            Self::TaskEnded(Outcome::Expired) => "task_expired",
            Self::TaskEnded(Outcome::Lost) => "task_lost",
            Self::TaskEnded(Outcome::Revoked) => "task_revoked",
            Self::TaskEnded(Outcome::ParentEnded) => "task_parent_ended",
            Self::TaskSuspended => "task_suspended",
            Self::Revoked => "revoked",
            Self::Cutoff => "cutoff",
            Self::Superseded => "superseded",
            Self::Compensated => "compensated",
            Self::Recovered => "recovered",
            Self::Vanished => "vanished",
            Self::NotPermitted => "not_permitted",
            Self::Shortened => "shortened",
            Self::Signal => "signal",
            Self::AgentUnregistered => "agent_unregistered",
            Self::AgentUnowned => "agent_unowned",
            Self::AgentSuspended => "agent_suspended",
            Self::AgentRetired => "agent_retired",
            Self::ReviewOverdue => "review_overdue",
            Self::ToolRemoved => "tool_removed",
            Self::AttestationExpired => "attestation_expired",
            Self::AttestationRevoked => "attestation_revoked",
        }
    }
}

impl FromStr for Cause {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|cause| cause.as_str() == text);
        known.ok_or_else(|| InvalidName::new("cause", text, "it is one of the words that leases end by"))
    }
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// The stated proof of how a lease ended. Never more than is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "proof")]
pub enum Receipt {
    /// The provider was asked afterwards and has it no more.
    VerifiedAbsent {
        /// When it was asked.
        at: Timestamp,
    },
    /// Resource servers are told to refuse it.
    DeniedAt {
        /// From when.
        at: Timestamp,
    },
    /// Nothing can recall it; it ends by itself.
    ExpiresAt {
        /// When.
        at: Timestamp,
    },
    /// Nothing ended it, and nothing will: only the lease is over.
    Outlived {
        /// When the lease was over.
        at: Timestamp,
    },
    /// Nobody says that it is gone: somebody who may gave up ending it. Who and why is on record.
    Abandoned {
        /// When they did.
        at: Timestamp,
    },
}

impl Receipt {
    /// The word for the kind of proof.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VerifiedAbsent { .. } => "verified_absent",
            Self::DeniedAt { .. } => "denied_at",
            Self::ExpiresAt { .. } => "expires_at",
            Self::Outlived { .. } => "outlived",
            Self::Abandoned { .. } => "abandoned",
        }
    }

    /// The receipt of this word and instant.
    pub fn of(word: &str, at: Timestamp) -> Option<Self> {
        let all = [
            Self::VerifiedAbsent { at },
            Self::DeniedAt { at },
            Self::ExpiresAt { at },
            Self::Outlived { at },
            Self::Abandoned { at },
        ];
        all.into_iter().find(|receipt| receipt.as_str() == word)
    }

    /// The instant that the proof names.
    pub const fn at(self) -> Timestamp {
        match self {
            Self::VerifiedAbsent { at }
            | Self::DeniedAt { at }
            | Self::ExpiresAt { at }
            | Self::Outlived { at }
            | Self::Abandoned { at } => at,
        }
    }
}

/// A broker's signature on the receipt of an ended lease. All else that was signed is in the lease, so this
/// is all that has to be kept: the text is made again from both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceiptSignature {
    /// Who states it: the `iss` of the receipt.
    pub issuer: String,
    /// The id of the key that signed (C2SP signed-note).
    pub key: [u8; 4],
    /// The Ed25519 signature (RFC 8032 §5.1.6). Apart, because most leases have none and all are moved about.
    pub bytes: Box<[u8; 64]>,
}

/// For how long after a key vouched for something its withdrawal is about that at least: whoever has stolen it says
/// himself when the evidence ends that he signs. A key that leaves in its turn has signed nothing for longer.
pub const WITHDRAWAL_REACHES: Duration = Duration::from_secs(3600);

/// Names the key that signed the evidence for a workload, by whose it is, what it is called and what it is made of:
/// enough to compare with, and of one size. Made by [`VouchingKey::of`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VouchingKey(pub [u8; 8]);

/// What stood behind a lease when it was decided last: enough of the attestation to decide anew by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vouched {
    /// Which kind of evidence it was.
    pub kind: EvidenceKind,
    /// The key that signed it; none where the evidence named none.
    pub key: Option<VouchingKey>,
    /// When the evidence ends by itself.
    pub until: Timestamp,
}

/// An end before the credential's own, because less was permitted since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Curtailed {
    /// When.
    pub at: Timestamp,
    /// Why, once it falls due then.
    pub cause: Cause,
}

/// Where a lease stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LeaseState {
    /// Written down before anything exists outside.
    Reserved,
    /// The credential is out.
    Active,
    /// It has to end, and the reaper is at it. Nothing is renewed or seen as active any more.
    Revoking(Effort),
    /// Ending it keeps failing and a person must look. Still retried, slowly.
    Stuck(Effort),
    /// Over.
    Ended {
        /// Why.
        cause: Cause,
        /// When the end was settled.
        at: Timestamp,
        /// The proof.
        receipt: Receipt,
        /// The signature on it. Absent where the end was settled before receipts were signed.
        signed: Option<ReceiptSignature>,
    },
}

/// What was done so far to end a lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Why it has to end.
    pub cause: Cause,
    /// From when nothing is issued, renewed or seen as active for it.
    pub since: Timestamp,
    /// How often ending it failed.
    pub attempts: u32,
    /// What went wrong last, without secrets, at most 256 bytes.
    pub last_error: Option<String>,
    /// When it is due next, and never before `since`: tried as soon as the reaper comes to it. While
    /// somebody is at it, when another may try.
    pub next_at: Timestamp,
}

impl LeaseState {
    /// The word for the state alone.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Active => "active",
            Self::Revoking(_) => "revoking",
            Self::Stuck(_) => "stuck",
            Self::Ended { .. } => "ended",
        }
    }
}

/// One lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Its id; the `jti` of a token.
    pub id: LeaseId,
    /// Its task.
    pub task: TaskId,
    /// Whose it is.
    pub agent: AgentName,
    /// The environment of the agent.
    pub environment: Environment,
    /// The trust domain that vouched for the workload.
    pub trust_domain: Option<TrustDomain>,
    /// On whose behalf.
    pub on_behalf_of: Option<UserId>,
    /// The chain of its task, nearest first: what is ordered about a task, an agent or a trust domain in it is
    /// ordered about this lease too.
    pub delegators: Vec<Delegator>,
    /// What it is for.
    pub tool: ToolName,
    /// The permitted actions.
    pub actions: BTreeSet<Operation>,
    /// The permitted resources; none means the tool as a whole.
    pub resources: BTreeSet<ResourcePath>,
    /// Who minted it.
    pub provider: ProviderName,
    /// The provider's name for it, known before minting wherever the technology allows.
    pub handle: Option<Handle>,
    /// How it can end before its expiry.
    pub ending: Ending,
    /// The decision that permitted it.
    pub decision: DecisionId,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When its credential ends by itself.
    pub expires_at: Timestamp,
    /// What bounded its life.
    pub bounded_by: Bound,
    /// The life that was asked for; none where the tool's default was taken.
    pub requested: Option<Ttl>,
    /// What stood behind it. Not known of a lease from before this was kept, or from a journal: it
    /// cannot be decided anew.
    pub vouched: Option<Vouched>,
    /// Has to end before its credential does. Only while it is reserved or active.
    pub curtailed: Option<Curtailed>,
    /// Its place on the status lists. Only while it is reserved or active.
    pub listing: Listing,
    /// Where it stands.
    pub state: LeaseState,
}

/// What is held outside: the lease that it was made for, and the provider's name for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The lease that it was made for. Whatever is outside bears it as its mark.
    pub lease: LeaseId,
    /// The provider's name for it. Without one the name was never written down, and the mark is all
    /// there is to look for.
    pub handle: Option<Handle>,
    /// When it ends by itself, as far as that is known.
    pub expires_at: Option<Timestamp>,
}

impl Lease {
    /// What this lease holds outside.
    pub fn held(&self) -> Held {
        Held {
            lease: self.id,
            handle: self.handle.clone(),
            expires_at: Some(self.expires_at),
        }
    }

    /// When it has to end unless something happens: with its credential, or before.
    pub fn ends_at(&self) -> Timestamp {
        let curtailed = self.curtailed.map_or(Timestamp::MAX, |curtailed| curtailed.at);
        self.expires_at.min(curtailed)
    }

    /// Whether its credential counts as active at this instant, as far as the lease itself knows.
    pub fn is_live(&self, now: Timestamp) -> bool {
        matches!(self.state, LeaseState::Active) && now < self.ends_at()
    }

    /// Its task, and each task above, nearest first.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> {
        std::iter::once(self.task).chain(self.delegators.iter().map(|above| above.task))
    }

    /// Its agent, and each other that handed the work on, nearest first.
    pub fn agents(&self) -> impl Iterator<Item = &AgentName> {
        let above = self.delegators.iter().map(|above| &above.agent);
        let others = above.enumerate().filter(|(place, agent)| {
            let nearer = self.delegators.iter().take(*place).map(|above| &above.agent);
            std::iter::once(&self.agent)
                .chain(nearer)
                .all(|known| known != *agent)
        });
        std::iter::once(&self.agent).chain(others.map(|(_, agent)| agent))
    }

    /// The trust domain that vouched for its workload, and each other that vouched for whoever handed the work
    /// on, nearest first.
    pub fn trust_domains(&self) -> impl Iterator<Item = &TrustDomain> {
        let all = || {
            let above = self.delegators.iter().map(|above| &above.trust_domain);
            std::iter::once(&self.trust_domain).chain(above).flatten()
        };
        let first =
            move |(place, domain): &(usize, &TrustDomain)| all().take(*place).all(|known| known != *domain);
        all().enumerate().filter(first).map(|(_, domain)| domain)
    }

    /// Whether a selector is about it.
    pub fn fits(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Lease(id) => *id == self.id,
            Selector::Task(id) => self.tasks().any(|task| task == *id),
            Selector::Agent(name) => self.agents().any(|agent| agent == name),
            Selector::Tool(name) => *name == self.tool,
            Selector::User(id) => self.on_behalf_of.as_ref() == Some(id),
            Selector::Environment(name) => *name == self.environment,
            Selector::TrustDomain(name) => self.trust_domains().any(|domain| domain == name),
            Selector::All => true,
        }
    }

    /// Whether a key vouched for its workload, or for whoever handed the work on, so lately that its withdrawal
    /// is about it: with evidence that would still hold, or within [`WITHDRAWAL_REACHES`]. `whom` says whose key it
    /// is, as far as that is known.
    pub fn rests_on(&self, key: VouchingKey, whom: &Selector, now: Timestamp) -> bool {
        let own = self.vouched.filter(|vouched| vouched.key == Some(key));
        let decided_at = self.decision.made_at();
        own.is_some_and(|vouched| now < vouched.until.max(decided_at.plus(WITHDRAWAL_REACHES)))
            || self.delegators.iter().any(|above| above.rests_on(key, whom, now))
    }

    /// Whether a cutoff ends it.
    pub fn is_cut_by(&self, cutoff: &Cutoff) -> bool {
        self.id.made_at() <= cutoff.up_to && self.fits(&cutoff.selector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_one_word_both_ways() {
        for cause in Cause::ALL {
            let json = serde_json::to_value(cause).unwrap();
            assert_eq!(json, cause.as_str());
            assert_eq!(serde_json::from_value::<Cause>(json).unwrap(), cause);
        }
        assert!("task_ended".parse::<Cause>().is_err());
    }
}
