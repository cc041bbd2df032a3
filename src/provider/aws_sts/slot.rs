//! The deny slot of one role: how leases get into it, and how it is known that they are in it.
//!
//! IAM has no compare-and-set on a policy, so a write is read back: when another Dayfly overwrote it, it
//! is merged and written again. What this process wrote goes into each of its later writes too, until it
//! matters no more. Revocations that come while a write is under way wait for it and go out together.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, oneshot};
use tokio::time::{Instant, sleep};

use super::super::ProviderError;
use super::denials::{Denials, MOST_CHARACTERS};
use super::faults::{Call, copy};
use crate::clock::Clock;
use crate::entropy::{Entropy, draw};
use crate::model::aws::RoleArn;
use crate::model::ids::LeaseId;
use crate::model::time::Timestamp;

/// The name of the policy that is the slot.
pub const POLICY_NAME: &str = "dayfly-deny";

/// How often to read, merge and write before giving up.
const ROUNDS: u32 = 6;
/// The first pause before reading back; it doubles. IAM may show the past for a moment.
const PAUSE: Duration = Duration::from_millis(50);
/// The most leases in one write.
const BATCH: usize = 128;
/// How long what was read counts as looked up now.
const FRESH: Duration = Duration::from_secs(1);
/// The longest session that a role can have.
const LONGEST_SESSION: Duration = Duration::from_secs(12 * 3600);
const GRANT: &str = "grant Dayfly `iam:GetRolePolicy` and `iam:PutRolePolicy` on it";

/// The slot of one role.
pub(super) struct Slot {
    role: RoleArn,
    iam: aws_sdk_iam::Client,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    role_wide_when_full: bool,
    waiting: Mutex<Vec<Waiting>>,
    known: Turn<Known>,
}

struct Waiting {
    lease: LeaseId,
    until: Timestamp,
    done: oneshot::Sender<Result<(), ProviderError>>,
}

/// What the writer of the moment knows.
#[derive(Default)]
struct Known {
    /// What this process wrote and what still matters of it.
    own: Denials,
    /// What stood there when it was looked at last.
    seen: Option<(Instant, Denials)>,
}

impl Slot {
    pub(super) fn new(
        role: RoleArn,
        iam: aws_sdk_iam::Client,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        role_wide_when_full: bool,
    ) -> Self {
        Self {
            role,
            iam,
            clock,
            entropy,
            role_wide_when_full,
            waiting: Mutex::default(),
            known: Turn::default(),
        }
    }

    /// Denies the sessions of a lease. Returns once the entry was seen to stand there.
    pub(super) async fn deny(&self, lease: LeaseId, until: Timestamp) -> Result<(), ProviderError> {
        let (done, mut told) = oneshot::channel();
        self.queue().push(Waiting { lease, until, done });
        loop {
            tokio::select! {
                biased;
                told = &mut told => return told.unwrap_or_else(|_| {
                    Err(ProviderError::Unavailable("whoever wrote to the deny slot was stopped".into()))
                }),
                mut known = self.known.lock() => self.serve(&mut known).await,
            }
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes those that wait longest.
    async fn serve(&self, known: &mut Known) {
        let batch: Vec<Waiting> = {
            let mut queue = self.queue();
            let length = queue.len().min(BATCH);
            let rest = queue.split_off(length);
            mem::replace(&mut queue, rest)
        };
        let mut wanted = Denials::default();
        for waiting in &batch {
            wanted.add(waiting.lease, waiting.until);
        }
        let written = self.write(known, &wanted).await;
        for waiting in batch {
            // Whoever gave up waiting will ask again.
            let _gave_up = waiting.done.send(written.as_ref().copied().map_err(copy));
        }
    }

    /// Reads, merges and writes until what is wanted stands there.
    async fn write(&self, known: &mut Known, wanted: &Denials) -> Result<(), ProviderError> {
        known.own.forget(self.clock.now());
        let before = known.own.clone();
        known.own.merge(wanted);
        for round in 0..ROUNDS {
            let mut standing = self.look(known).await?;
            if standing.covers(&known.own) {
                return Ok(());
            }
            let now = self.clock.now();
            standing.forget(now);
            standing.merge(&known.own);
            let full = standing.size() > MOST_CHARACTERS || !self.put(&standing).await?;
            if full {
                if !self.role_wide_when_full {
                    known.own = before;
                    return Err(self.full(&standing));
                }
                known
                    .own
                    .widen(now.plus(Duration::from_secs(1)), now.plus(LONGEST_SESSION));
                known.own.merge(wanted);
                tracing::warn!(role = %self.role, "its deny slot is full: every session of the role is denied");
                if !self.put(&known.own).await? {
                    return Err(self.full(&known.own));
                }
            }
            sleep(self.pause(round)).await;
        }
        Err(ProviderError::Unavailable(format!(
            "others keep overwriting the deny slot of {}, or IAM still shows what was there before",
            self.role
        )))
    }

    fn full(&self, denials: &Denials) -> ProviderError {
        ProviderError::Refused(format!(
            "the deny slot of {} is full ({} leases): spread the tools over more roles, let its other inline \
             policies be smaller, or set `deny_role_wide_when_full`",
            self.role,
            denials.len()
        ))
    }

    /// Doubles, and a random part of it is left out so that two writers do not stay in step.
    fn pause(&self, round: u32) -> Duration {
        let longest = PAUSE.saturating_mul(1_u32.checked_shl(round).unwrap_or(u32::MAX));
        let part = draw::<1>(&*self.entropy).map_or(u8::MAX, |[byte]| byte);
        longest.mul_f64(0.5 + f64::from(part) / 510.0)
    }

    /// Whether the sessions of a lease are denied.
    pub(super) async fn holds(&self, lease: LeaseId) -> Result<bool, ProviderError> {
        let mut known = self.known.lock().await;
        let fresh = known.seen.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
        if fresh.is_some_and(|(_, seen)| seen.lists(lease)) {
            return Ok(true);
        }
        Ok(self.look(&mut known).await?.lists(lease))
    }

    /// Whether it can be read.
    pub(super) async fn read(&self) -> Result<(), ProviderError> {
        self.look(&mut *self.known.lock().await).await.map(drop)
    }

    /// Writes back what stands there. Not while it denies anything: somebody is at it then, whose next entry that
    /// could undo.
    pub(super) async fn prove(&self) -> Result<(), ProviderError> {
        let mut known = self.known.lock().await;
        let mut standing = self.look(&mut known).await?;
        standing.forget(self.clock.now());
        if !standing.is_empty() {
            return Ok(());
        }
        standing.merge(&known.own);
        match self.put(&standing).await? {
            true => Ok(()),
            false => Err(self.full(&standing)),
        }
    }

    async fn look(&self, known: &mut Known) -> Result<Denials, ProviderError> {
        known.seen = None;
        let call = Call {
            action: "iam:GetRolePolicy",
            on: self.role.as_str(),
            grant: GRANT,
        };
        let request = self.iam.get_role_policy();
        let request = request.role_name(self.role.name()).policy_name(POLICY_NAME);
        let denials = match request.send().await {
            Ok(answer) => Denials::parse(&decoded(&answer.policy_document)).map_err(|reason| {
                ProviderError::Refused(format!(
                    "the policy `{POLICY_NAME}` of {}: {reason}: delete it, and Dayfly writes it anew",
                    self.role
                ))
            })?,
            // Nothing was denied yet, or there is no such role; then writing will say so.
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_no_such_entity_exception()) =>
            {
                Denials::default()
            }
            Err(error) => return Err(call.failed(&error)),
        };
        known.seen = Some((Instant::now(), denials.clone()));
        Ok(denials)
    }

    /// Whether there was room for it.
    async fn put(&self, denials: &Denials) -> Result<bool, ProviderError> {
        let call = Call {
            action: "iam:PutRolePolicy",
            on: self.role.as_str(),
            grant: GRANT,
        };
        let request = self.iam.put_role_policy();
        let request = request.role_name(self.role.name()).policy_name(POLICY_NAME);
        match request.policy_document(denials.text()).send().await {
            Ok(_) => Ok(true),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_limit_exceeded_exception()) =>
            {
                Ok(false)
            }
            Err(error) => Err(call.failed(&error)),
        }
    }
}

/// IAM encodes documents as in a URL (RFC 3986 §2.1).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let hex = |byte: &u8| {
            char::from(*byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        if let (b'%', [high, low, after @ ..]) = (byte, after)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            bytes.push(high << 4 | low);
            rest = after;
        } else {
            bytes.push(*byte);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_encoded_or_not() {
        let plain = "{\"a\":\"100% b+c\"}";
        assert_eq!(decoded(plain), plain);
        assert_eq!(decoded("%7B%22a%22%3A%22100%25%20b+c%22%7D"), plain);
        assert_eq!(decoded("%"), "%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
