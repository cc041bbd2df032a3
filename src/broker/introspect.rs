//! `introspect`: whether a token may be relied on at this instant. The exact answer to what the feed
//! tells a little later: one look at the ledger, and nothing is remembered from one time to the next.

use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::keys::issuer::Issuer;
use crate::ledger::{LedgerError, Refusal};
use crate::model::ids::RequestId;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::model::token::AccessToken;
use crate::registry::Caller;

use super::error::BrokerError;
use super::records::{Fill, of_caller};
use super::{Broker, measure};

/// How far the clock of the replica that signed a token may be ahead of ours, in seconds.
const SKEW: u64 = 60;

/// What came of a look at a token. Whoever asked is told of all but the first that it is not active; the
/// word is for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Active,
    /// It is no token, or none of ours.
    Foreign,
    /// It is for a tool that the caller does not serve.
    OtherTool,
    /// Its own time is up, or has not come.
    Untimely,
    /// Its lease is over, has to end, or is not known.
    LeaseEnded,
    /// Its task is over, suspended, or past its due instant.
    TaskNotOpen,
    /// A cutoff is in force that has not come to its lease yet.
    Cut,
}

impl Found {
    pub(super) const ALL: [Self; 7] = [
        Self::Active,
        Self::Foreign,
        Self::OtherTool,
        Self::Untimely,
        Self::LeaseEnded,
        Self::TaskNotOpen,
        Self::Cut,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Foreign => "foreign",
            Self::OtherTool => "other_tool",
            Self::Untimely => "untimely",
            Self::LeaseEnded => "lease_ended",
            Self::TaskNotOpen => "task_not_open",
            Self::Cut => "cut",
        }
    }
}

impl Broker {
    /// The name that tokens are issued in.
    pub fn issuer(&self) -> &Issuer {
        &self.parts.issuer
    }

    /// The claims of a token that may be relied on now: we signed it, it is for a tool that the caller
    /// serves, and the ledger says at this instant that its lease is live. `exp` is the lease's, where that
    /// is sooner. `None` for every other text, and nobody is told why. Takes a permit.
    ///
    /// Looks are recorded once in a while, denials always. Without the ledger, or in quarantine, nothing
    /// is active and nothing is not: that is an error.
    pub async fn introspect(
        &self,
        caller: &Caller,
        token: &Secret,
        request: RequestId,
    ) -> Result<Option<AccessToken>, BrokerError> {
        self.outside_quarantine()?;
        self.look(caller, "introspect", None, request).await?;
        let (found, token) = match self.parts.issuer.recognise(token.expose()) {
            None => (Found::Foreign, None),
            Some(token) if !caller.agent().serves.contains(&token.marks.tool) => {
                self.shown_elsewhere(caller, &token, request).await?;
                (Found::OtherTool, None)
            }
            Some(token) => self.hold_against_ledger(token).await?,
        };
        self.measures.introspected(found);
        Ok(token)
    }

    async fn hold_against_ledger(
        &self,
        mut token: AccessToken,
    ) -> Result<(Found, Option<AccessToken>), BrokerError> {
        let now = self.now();
        let ahead = now.as_secs().saturating_add(SKEW);
        if Timestamp::from_secs(token.exp) <= now || token.nbf > ahead {
            return Ok((Found::Untimely, None));
        }
        let found = match self.parts.ledger.live(token.marks.lease, now).await {
            Ok(lease) => {
                token.exp = token.exp.min(lease.ends_at().as_secs());
                return Ok((Found::Active, Some(token)));
            }
            Err(LedgerError::Refused(Refusal::NoTask | Refusal::TaskNotOpen(_))) => Found::TaskNotOpen,
            Err(LedgerError::Refused(Refusal::Cut(_))) => Found::Cut,
            Err(LedgerError::Refused(_)) => Found::LeaseEnded,
            Err(broken) => return Err(broken.into()),
        };
        Ok((found, None))
    }

    /// A token was shown where it is not for: a mistake in the registry, or somebody who tries it out. Told
    /// once in five minutes for each caller and tool.
    async fn shown_elsewhere(
        &self,
        caller: &Caller,
        token: &AccessToken,
        request: RequestId,
    ) -> Result<(), BrokerError> {
        let look = format!("{} serves {}", caller.agent().name, token.marks.tool);
        if self.looks.contains_key(&look) {
            return Ok(());
        }
        let record = Record {
            lease: Some(token.marks.lease),
            task: Some(token.marks.task),
            tool: Some(token.marks.tool.clone()),
            ..of_caller(Verb::Inspect, Outcome::Denied, self.now(), caller, request)
        };
        let reason = "a token for this tool was shown to the caller, whose registry entry does not name the tool in `serves`";
        self.record(record.reason(reason)).await?;
        measure::decided(Verb::Inspect, Outcome::Denied);
        self.looks.insert(look, ());
        Ok(())
    }
}
