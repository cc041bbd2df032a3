//! One record: who, for whom, why, what, which policies, what came of it, and how it ended.
//!
//! Keys are sorted and numbers are integers, so that serde's output is the canonical form of
//! RFC 8785. No field can hold a secret: evidence appears as its digest, credentials not at all.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::JournalError;
use crate::model::access::ResourcePath;
use crate::model::decision::{FactUsed, PolicyId, Revision};
use crate::model::ids::{DecisionId, LeaseId, RequestId, TaskId};
use crate::model::lease::{Ending, Handle};
use crate::model::name::{AgentName, Environment, Operation, ProviderName, StreamName, ToolName, UserId};
use crate::model::time::Timestamp;
use crate::model::ttl::{Bound, Ttl};

/// What happened. The same words as the broker's methods, the metric labels and the command line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Evidence was refused, or a workload that is no agent was seen.
    Attest,
    /// A task was opened.
    Open,
    /// Work was handed on: a sub-task was opened.
    Delegate,
    /// A task was suspended.
    Suspend,
    /// A task was resumed.
    Resume,
    /// A task ended.
    Complete,
    /// A credential was asked for.
    Issue,
    /// A longer life was asked for.
    Renew,
    /// An end was asked for.
    Revoke,
    /// A lease ended, with its receipt; or ending it failed.
    End,
    /// A lease that has to end was to be tried again at once.
    Retry,
    /// A stuck lease was given up.
    Abandon,
    /// A live lease was decided anew, and something about it changed.
    Recheck,
    /// A fact was stated or taken back.
    Fact,
    /// A decision was asked for without effect.
    Decide,
    /// Something was looked at.
    Inspect,
    /// What providers hold was compared with the ledger.
    Reconcile,
    /// Policies, agents and tools were loaded.
    Load,
    /// The broker started or stopped.
    Serve,
    /// The ledger was found lost, or was taken into use again after its recovery.
    Recover,
    /// Somebody outside told of an event.
    Signal,
}

impl Verb {
    /// The word that records, metrics and the command line use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attest => "attest",
            Self::Open => "open",
            Self::Delegate => "delegate",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Complete => "complete",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Revoke => "revoke",
            Self::End => "end",
            Self::Retry => "retry",
            Self::Abandon => "abandon",
            Self::Recheck => "recheck",
            Self::Fact => "fact",
            Self::Decide => "decide",
            Self::Inspect => "inspect",
            Self::Reconcile => "reconcile",
            Self::Load => "load",
            Self::Serve => "serve",
            Self::Recover => "recover",
            Self::Signal => "signal",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Result {
    /// Permitted, and about to be done or done.
    Permitted,
    /// Denied: by policy, by the registry, or because the evidence proves nothing.
    Denied,
    /// Permitted and then not done.
    Failed,
}

impl Result {
    /// The word that records, metrics and logs use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "permitted",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// One line of the journal. Fields in the order of their names; absent ones are left out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What was to be done with the tool.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub actions: BTreeSet<Operation>,
    /// The agent that acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentName>,
    /// When, by the broker's clock.
    pub at: Timestamp,
    /// How the workload was attested: kind, authority, and digest of the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
    /// What bounded the life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounded_by: Option<Bound>,
    /// Why something ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<DecisionId>,
    /// Of a sub-task: who handed it on, and what was handed on where that is recorded first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation: Option<Box<Delegation>>,
    /// How the credential can end before its expiry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// The environment of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// The facts in force that the policies which decided look at, as `agent/support-bot risk=high`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<FactUsed>,
    /// The policies that could not be evaluated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<PolicyId>,
    /// The life that was granted, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Ttl>,
    /// The provider's name for the credential, where it was known before it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<Handle>,
    /// The lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// On whose behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<UserId>,
    /// The policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyId>,
    /// What proves the end, as `kind instant`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Who makes the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderName>,
    /// Why, in the words of the agent that opened the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Why, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The signed receipt of an end, a compact JWS ([`super::receipt`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<String>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The life that was asked for, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<Ttl>,
    /// The resources.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resources: BTreeSet<ResourcePath>,
    /// What came of it.
    pub result: Result,
    /// Which policies, agents and tools were in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<Revision>,
    /// What policies in the shadow would have said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Box<String>>,
    /// What was told, by whom, about whom, and what followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Box<Signalled>>,
    /// The task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    /// What happened.
    pub verb: Verb,
}

/// How a workload was attested.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attested {
    /// Who vouched.
    pub authority: Arc<str>,
    /// SHA-256 of the evidence, in hex.
    pub digest: Arc<str>,
    /// Which kind of evidence.
    pub kind: Cow<'static, str>,
    /// Who the workload is.
    pub subject: Arc<str>,
}

/// How a sub-task came about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// The agents of the tasks above, nearest first.
    pub by: Vec<AgentName>,
    /// The task that it is part of.
    pub parent: TaskId,
    /// What may be asked for in it at most. Said once, when it is handed on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scope: Vec<Scoped>,
    /// Whose task it is to be. Said once, when it is handed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<AgentName>,
}

/// One access of a scope.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scoped {
    /// What may be done.
    pub actions: BTreeSet<Operation>,
    /// With what; none means the tool as a whole.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub resources: BTreeSet<ResourcePath>,
    /// With which tool.
    pub tool: ToolName,
}

/// What somebody outside told of. Of what could not be verified there is nothing but the stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signalled {
    /// What followed, in words: `user/idp|ann risk=high`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<String>,
    /// The type of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// When it happened, as the transmitter says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub happened_at: Option<Timestamp>,
    /// The name of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The stream that it came by.
    pub stream: StreamName,
}

impl Record {
    /// A record with nothing but what happened, what came of it and when.
    pub fn new(verb: Verb, result: Result, at: Timestamp) -> Self {
        Self {
            actions: BTreeSet::new(),
            agent: None,
            at,
            attested: None,
            bounded_by: None,
            cause: None,
            decision: None,
            delegation: None,
            ending: None,
            environment: None,
            facts: Vec::new(),
            faults: Vec::new(),
            granted: None,
            handle: None,
            lease: None,
            on_behalf_of: None,
            policies: Vec::new(),
            proof: None,
            provider: None,
            purpose: None,
            reason: None,
            receipt: None,
            request: None,
            requested: None,
            resources: BTreeSet::new(),
            result,
            revision: None,
            shadow: None,
            signal: None,
            task: None,
            tool: None,
            verb,
        }
    }

    /// The most bytes that a record may take, as many as an entry of C2SP tlog-tiles can hold.
    pub const MOST_BYTES: usize = 65_535;

    /// Room that most lines fit into, in bytes.
    const ROOM: usize = 1024;

    /// The record as the canonical line that is written and hashed, without a newline.
    pub fn to_line(&self) -> std::result::Result<String, JournalError> {
        let unwritable = |why: &dyn std::error::Error| {
            JournalError::Unavailable(format!("the record cannot be written: {why}"))
        };
        let mut line = Vec::with_capacity(Self::ROOM);
        serde_json::to_writer(&mut line, self).map_err(|error| unwritable(&error))?;
        let line = String::from_utf8(line).map_err(|error| unwritable(&error))?;
        if line.len() > Self::MOST_BYTES {
            return Err(JournalError::TooLarge);
        }
        Ok(line)
    }

    /// Reads a line that was written by [`Self::to_line`].
    pub fn from_line(line: &str) -> std::result::Result<Self, JournalError> {
        serde_json::from_str(line).map_err(|error| JournalError::Damaged(format!("not a record: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::secret::Secret;

    const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);

    /// Every field set. A new field has to be added here, or this does not compile.
    fn full() -> Record {
        let ids = |n: u8| [n; 10];
        let task = TaskId::new(AT, ids(1));
        let awkward =
            "quote \" backslash \\ tab \t newline \n bell \u{7} delete \u{7f} \u{2028} é € 😀 </script>";
        Record {
            actions: ["read", "list"].map(|a| a.parse().unwrap()).into(),
            agent: Some("support-bot".parse().unwrap()),
            at: AT,
            attested: Some(Attested {
                authority: "https://issuer.example".into(),
                digest: "00ff".into(),
                kind: "jwt_svid".into(),
                subject: "spiffe://example.org/support".into(),
            }),
            bounded_by: Some(Bound::Policy),
            cause: Some(awkward.into()),
            decision: Some(DecisionId::new(AT, ids(2))),
            delegation: Some(Box::new(Delegation {
                by: vec!["planner".parse().unwrap(), "chief".parse().unwrap()],
                parent: task,
                scope: vec![Scoped {
                    actions: ["read".parse().unwrap()].into(),
                    resources: ["customers".parse().unwrap()].into(),
                    tool: "crm".parse().unwrap(),
                }],
                to: Some("support-bot".parse().unwrap()),
            })),
            ending: Some(Ending::DenyListed),
            environment: Some("production".parse().unwrap()),
            facts: vec![FactUsed::new(
                &"user/user 42".parse().unwrap(),
                &"risk".parse().unwrap(),
                &"high, \"says\" the IdP".parse().unwrap(),
            )],
            faults: vec![PolicyId("b".into()), PolicyId("a".into())],
            granted: Ttl::from_secs(300),
            handle: Some(Handle(awkward.into())),
            lease: Some(LeaseId::new(task, AT, ids(3))),
            on_behalf_of: Some("user 42".parse().unwrap()),
            policies: vec![PolicyId(awkward.into())],
            proof: Some("verified_absent 2026-11-22T06:30:00Z".into()),
            provider: Some("jwt".parse().unwrap()),
            purpose: Some(awkward.into()),
            reason: Some(awkward.into()),
            receipt: Some("e30.e30.AA".into()),
            request: Some(RequestId::new(AT, ids(4))),
            requested: Some(Ttl::MAX),
            resources: ["customers/42", "customers"].map(|r| r.parse().unwrap()).into(),
            result: Result::Permitted,
            revision: Some(Revision("r1".into())),
            shadow: Some(Box::new(awkward.into())),
            signal: Some(Box::new(Signalled {
                effects: vec![awkward.into(), "cutoff".into()],
                event: Some(awkward.into()),
                happened_at: Some(AT),
                jti: Some(awkward.into()),
                stream: "idp".parse().unwrap(),
            })),
            task: Some(task),
            tool: Some("crm".parse().unwrap()),
            verb: Verb::Issue,
        }
    }

    /// RFC 8785, written down a second time: members sorted by UTF-16 code units, only the escapes of
    /// §3.2.2.2, integers only.
    fn canonical(value: &Value, out: &mut String) {
        match value {
            Value::Object(members) => {
                let mut sorted: Vec<_> = members.iter().collect();
                sorted.sort_by_key(|(key, _)| key.encode_utf16().collect::<Vec<_>>());
                out.push('{');
                for (place, (key, value)) in sorted.into_iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    canonical(&Value::String(key.clone()), out);
                    out.push(':');
                    canonical(value, out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push('[');
                for (place, item) in items.iter().enumerate() {
                    out.push_str(if place > 0 { "," } else { "" });
                    canonical(item, out);
                }
                out.push(']');
            }
            Value::String(text) => {
                out.push('"');
                for c in text.chars() {
                    match c {
                        '"' => out.push_str("\\\""),
                        '\\' => out.push_str("\\\\"),
                        '\u{8}' => out.push_str("\\b"),
                        '\t' => out.push_str("\\t"),
                        '\n' => out.push_str("\\n"),
                        '\u{c}' => out.push_str("\\f"),
                        '\r' => out.push_str("\\r"),
                        '\0'..' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                        _ => out.push(c),
                    }
                }
                out.push('"');
            }
            Value::Number(number) => {
                let number = number.as_u64().expect("an unsigned integer, never a float");
                assert!(number < 1 << 53, "exact in every JSON reader");
                out.push_str(&number.to_string());
            }
            Value::Bool(_) | Value::Null => panic!("no field is {value}: absent ones are left out"),
        }
    }

    #[test]
    fn a_line_is_the_canonical_form_and_reads_back() {
        for record in [full(), Record::new(Verb::Serve, Result::Permitted, AT)] {
            let line = record.to_line().unwrap();
            let mut expected = String::new();
            canonical(&serde_json::from_str(&line).unwrap(), &mut expected);
            assert_eq!(line, expected);
            assert_eq!(Record::from_line(&line).unwrap(), record);
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn every_control_character_is_escaped_canonically() {
        let mut record = Record::new(Verb::Issue, Result::Denied, AT);
        record.reason = Some((0..0x120_u32).filter_map(char::from_u32).collect());
        let line = record.to_line().unwrap();
        let mut expected = String::new();
        canonical(&serde_json::from_str(&line).unwrap(), &mut expected);
        assert_eq!(line, expected);
    }

    #[test]
    fn a_record_has_an_upper_bound() {
        let mut record = Record::new(Verb::Issue, Result::Denied, AT);
        record.reason = Some(String::new());
        let room = Record::MOST_BYTES - record.to_line().unwrap().len();
        record.reason = Some("a".repeat(room));
        assert_eq!(record.to_line().unwrap().len(), Record::MOST_BYTES);
        record.reason = Some("a".repeat(room + 1));
        assert!(matches!(record.to_line(), Err(JournalError::TooLarge)));
    }

    #[test]
    fn a_line_with_a_field_that_is_not_ours_is_no_record() {
        let line = Record::new(Verb::Issue, Result::Denied, AT).to_line().unwrap();
        assert!(Record::from_line(&line.replacen('{', r#"{"a":1,"#, 1)).is_err());
    }

    /// A record is serialised, so it holds only what can be. Were a secret ever to implement
    /// `Serialize`, both implementations below would apply to it and this would not compile.
    const _: fn() = || {
        trait HoldsNoSecret<Marker> {
            fn holds() {}
        }
        struct Serialisable;
        impl<T: ?Sized> HoldsNoSecret<()> for T {}
        impl<T: ?Sized + Serialize> HoldsNoSecret<Serialisable> for T {}
        <Secret as HoldsNoSecret<_>>::holds();
    };
}
