//! Context: the facts that decisions see, the orders to look again at what was decided before, and what
//! all replicas have to agree on.
//!
//! Statements are numbered as the ledger takes them. Whoever decides says with the lease, or the renewal, as
//! of which number it knew the facts, so a decision that missed a statement is never used. Each statement
//! that changes what is so orders a recheck, in the same step: who dies after it leaves no lease behind
//! that nobody looks at again.

use std::time::Duration;

use async_trait::async_trait;

use super::LedgerError;
use crate::model::cutoff::{Cutoff, Selector};
use crate::model::decision::Revision;
use crate::model::fact::{Fact, FactsVersion};
use crate::model::ids::LeaseId;
use crate::model::lease::{Curtailed, Lease};
use crate::model::recheck::{Progress, Recheck, Work};
use crate::model::time::Timestamp;

/// The most facts that may be in force.
pub const MOST_FACTS: usize = 100_000;
/// The most statements that are kept, those that are over included.
pub const MOST_STATEMENTS: usize = 2 * MOST_FACTS;
/// The most rechecks that wait, but for two: decisions beyond it become one about everything, by a revision and
/// by none.
pub const MOST_RECHECKS: usize = 10_000;
/// The most bytes that a mark holds.
pub const LARGEST_MARK: usize = 64 * 1024;

/// What a ledger knows of the circumstances. All of it works in a ledger that was lost, too.
#[async_trait]
pub trait Context: Send + Sync + 'static {
    /// Takes a statement, unless a later one about the same name of the same subject stands. Where it
    /// changes what is so, whatever its subject concerns is decided anew: that is ordered in the same step,
    /// with these words of why.
    ///
    /// From the answer on, also from [`Stated::Unchanged`] and [`Stated::Superseded`], nothing is reserved or
    /// renewed that was decided on facts of before. After an error the statement may stand already; it can be
    /// repeated. Refuses with [`Refusal::TooManyFacts`](super::Refusal::TooManyFacts).
    ///
    /// What was taken back, or has expired, still holds against what is said to be older, for the retention.
    async fn state(&self, fact: &Fact, why: &str, now: Timestamp) -> Result<Stated, LedgerError>;

    /// What was stated after a version; waits up to `wait` when there is nothing yet.
    async fn facts(&self, since: FactsVersion, wait: Duration) -> Result<Statements, LedgerError>;

    /// Orders a recheck. One that waits for the same leases and the same kind of work, and that nobody began, is
    /// replaced in the place that it has. One that somebody began comes to its end first; then it begins
    /// again, once, however often it was ordered meanwhile. So no flood of orders keeps a lease waiting that is
    /// late in the walk. Of two cutoffs the one that reaches further holds.
    ///
    /// Decisions by a revision and by whichever is in force are of two kinds, which never replace each other.
    /// Under another revision a decision begins again at once. One about everything takes the place of all
    /// narrower ones of its kind.
    ///
    /// At most [`MOST_RECHECKS`] wait: beyond it the decisions of a kind become one about everything, which
    /// always finds a place. Where there are not enough of them, an end is refused with
    /// [`Refusal::TooManyRechecks`](super::Refusal::TooManyRechecks).
    async fn order_recheck(&self, recheck: &Recheck) -> Result<(), LedgerError>;

    /// Claims a recheck, for `hold`: nobody else is given it until then. Ends come before decisions, and
    /// then whichever has waited longest. A decision by a revision is only for who has that one in force.
    ///
    /// Whoever gets one knows that nothing is reserved or renewed any more on facts of before it was ordered.
    /// Orders a recheck of what a fact concerned that has expired by `now`, and forgets, a part at a time,
    /// what is over for longer than the retention.
    async fn claim_recheck(
        &self,
        now: Timestamp,
        hold: Duration,
        revision: &Revision,
    ) -> Result<Option<RecheckClaim>, LedgerError>;

    /// Says how far a claimed recheck has come; then it waits again, behind the others, or it is `done`, unless
    /// it was ordered again meanwhile: then it begins again, behind the others.
    /// Refuses with [`Refusal::ClaimLost`](super::Refusal::ClaimLost) when it was replaced, or somebody else
    /// has it by now or was done with it. A hold that ran out while nobody else came still settles.
    async fn settle_recheck(
        &self,
        claim: &RecheckClaim,
        progress: Progress,
        done: bool,
    ) -> Result<(), LedgerError>;

    /// The rechecks that wait or that somebody is at, in the order in which they are claimed. What was ordered
    /// again is there once.
    async fn rechecks(&self) -> Result<Vec<Recheck>, LedgerError>;

    /// Gives a live lease an end before that of its credential, not before `now`. One that ends as early
    /// already, or is not reserved or active, stays as it is. An active lease falls due then; a reserved one
    /// once it is active. Refuses with [`Refusal::NoLease`](super::Refusal::NoLease) when there is none.
    /// Answers the lease as it then stands.
    async fn curtail(&self, id: LeaseId, curtailed: Curtailed, now: Timestamp) -> Result<Lease, LedgerError>;

    /// What all replicas agree on under this name.
    async fn mark(&self, name: &str) -> Result<Option<Vec<u8>>, LedgerError>;

    /// Writes a mark of at most [`LARGEST_MARK`] bytes, where it is still as `expected`: whether it was.
    async fn set_mark(&self, name: &str, value: &[u8], expected: Option<&[u8]>) -> Result<bool, LedgerError>;
}

/// What came of a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stated {
    /// It is news, under this number.
    New(FactsVersion),
    /// It was so already.
    Unchanged,
    /// A later statement stands.
    Superseded,
}

/// What was stated.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Statements {
    /// In the order in which it was taken. Of several statements about the same, the one that stands.
    pub stated: Vec<Fact>,
    /// What the ledger had taken when it was asked.
    pub version: FactsVersion,
    /// These are all statements that stand. What was known before is void: the ledger does not know that
    /// version, or does not know any more what came after it.
    pub afresh: bool,
}

/// A recheck that the holder, and for now nobody else, works at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecheckClaim {
    /// The order, and how far it has come.
    pub recheck: Recheck,
    /// Tells this hold from every other.
    pub hold: u64,
}

/// The letters that the keys of orders to decide begin with: by whichever revision is in force, and by one that
/// they name.
pub(super) const DECIDES: [u8; 2] = [b'd', b'r'];

/// How many ends at most are claimed in a row while a decision waits: ends go first, and no stream of them keeps
/// decisions out.
pub(super) const MOST_ENDS: u64 = 7;

/// The order to decide everything anew that takes the place of too many narrower ones, the last of which this is.
pub(super) fn decide_everything(recheck: &Recheck) -> Recheck {
    Recheck {
        whom: Selector::All,
        work: Work::Decide {
            revision: recheck.work.revision().cloned(),
        },
        progress: Progress::default(),
        ..recheck.clone()
    }
}

/// The order to decide anew because something was stated or taken back.
pub(super) fn decide(fact: &Fact, why: &str, now: Timestamp) -> Recheck {
    Recheck {
        whom: fact.about.selector(),
        work: Work::Decide { revision: None },
        why: crop(why),
        ordered_at: now,
        progress: Progress::default(),
    }
}

/// The order to decide anew because a fact has expired.
pub(super) fn decide_expired(fact: &Fact) -> Recheck {
    let at = fact.expires_at.unwrap_or(fact.at);
    let why = match &fact.value {
        Some(value) => format!("{} {}={value} expired", fact.about, fact.name),
        None => format!("{} {} expired", fact.about, fact.name),
    };
    decide(fact, &why, at)
}

/// The longest `why` of a recheck, in bytes.
const LONGEST_WHY: usize = 256;

fn crop(why: &str) -> String {
    let mut end = why.len().min(LONGEST_WHY);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.get(..end).unwrap_or_default().to_owned()
}

/// The recheck as it is kept: no longer than it may be.
pub(super) fn kept(recheck: &Recheck) -> Recheck {
    Recheck {
        why: crop(&recheck.why),
        ..recheck.clone()
    }
}

/// How far the cutoff of an order reaches; an order that reaches less far than one that stands adds nothing.
pub(super) fn reach(work: &Work) -> Timestamp {
    match work {
        Work::Cut {
            cutoff: Cutoff { up_to, .. },
        } => *up_to,
        Work::Distrust { .. } | Work::Decide { .. } => Timestamp::EPOCH,
    }
}

/// Whether a statement that stands is over at this instant, as far as the ledger counts.
pub(super) fn lapses_at(fact: &Fact, now: Timestamp, retention: Duration) -> (bool, Option<Timestamp>) {
    match fact.value_at(now) {
        Some(_) => (true, fact.expires_at),
        None => (false, Some(now.plus(retention))),
    }
}

/// Refuses a mark that is too large.
pub(super) fn fits(value: &[u8]) -> Result<(), LedgerError> {
    match value.len() {
        0..=LARGEST_MARK => Ok(()),
        size => Err(LedgerError::Corrupt(format!(
            "a mark of {size} bytes: at most {LARGEST_MARK} are kept"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_why_are_cut_between_characters() {
        let long = "ä".repeat(200);
        assert_eq!(crop(&long).len(), 256);
        let odd = format!("x{long}");
        assert_eq!(crop(&odd).len(), 255);
        assert_eq!(crop("risk"), "risk");
    }
}
