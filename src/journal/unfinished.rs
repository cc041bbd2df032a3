//! Which leases the records tell of that have no end on record: what a lost ledger has to be rebuilt of.

use std::collections::{HashMap, HashSet};

use super::record::{Record, Result, Verb};
use crate::model::ids::LeaseId;
use crate::model::lease::{Cause, Effort, Ending, Lease, LeaseState};
use crate::model::time::Timestamp;

/// Takes the records of one journal or of several, one journal after the other.
#[derive(Debug, Default)]
pub struct Unfinished {
    issued: HashMap<LeaseId, Lease>,
    /// Ends whose beginning is in a journal that comes later.
    ended: HashSet<LeaseId>,
    /// Longer lives whose beginning is in a journal that comes later.
    renewed: HashMap<LeaseId, Timestamp>,
    unclear: HashSet<LeaseId>,
    latest: Timestamp,
}

impl Unfinished {
    /// What one record changes.
    pub fn take(&mut self, record: &Record) {
        self.latest = self.latest.max(record.at);
        let Some(id) = record.lease else { return };
        match (record.verb, record.result) {
            (Verb::Issue, Result::Permitted) => {
                if self.ended.remove(&id) {
                    return;
                }
                match lease_of(id, record) {
                    Some(mut lease) => {
                        let renewed = self.renewed.remove(&id).unwrap_or_default();
                        lease.expires_at = lease.expires_at.max(renewed);
                        self.issued.insert(id, lease);
                    }
                    None => {
                        self.unclear.insert(id);
                    }
                }
            }
            // What is handed out as a token was not: it is made last. What exists outside may.
            (Verb::Issue, Result::Failed) => {
                let token = |lease: &Lease| lease.ending == Ending::DenyListed;
                if self.issued.get(&id).is_some_and(token) {
                    self.issued.remove(&id);
                }
            }
            (Verb::Renew, Result::Permitted) => {
                let Some(granted) = record.granted else { return };
                let until = record.at.plus(granted.as_duration());
                match self.issued.get_mut(&id) {
                    Some(lease) => lease.expires_at = lease.expires_at.max(until),
                    None => {
                        let known = self.renewed.entry(id).or_default();
                        *known = until.max(*known);
                    }
                }
            }
            // Not what somebody gave up: nobody said that it is gone, and the order may have failed.
            (Verb::End, Result::Permitted) => {
                self.renewed.remove(&id);
                if self.issued.remove(&id).is_none() && !self.unclear.remove(&id) {
                    self.ended.insert(id);
                }
            }
            _ => {}
        }
    }

    /// The instant of the latest record.
    pub fn latest(&self) -> Timestamp {
        self.latest
    }

    /// How many leases without an end are known from records that do not say enough to end them.
    pub fn unclear(&self) -> usize {
        self.unclear.len()
    }

    /// The leases without an end, oldest first, each as one that has to end from `now` on. What ends by
    /// itself and did is not among them.
    pub fn leases(self, now: Timestamp) -> Vec<Lease> {
        let alive = |lease: &Lease| lease.expires_at > now || lease.ending == Ending::Immediate;
        let mut leases: Vec<Lease> = self.issued.into_values().filter(alive).collect();
        for lease in &mut leases {
            lease.state = LeaseState::Revoking(Effort {
                cause: Cause::Recovered,
                since: now,
                attempts: 0,
                last_error: None,
                next_at: now,
            });
        }
        leases.sort_by_key(|lease| lease.id);
        leases
    }
}

/// The lease that a record of its issue tells of.
fn lease_of(id: LeaseId, record: &Record) -> Option<Lease> {
    Some(Lease {
        id,
        task: record.task?,
        agent: record.agent.clone()?,
        environment: record.environment.clone()?,
        trust_domain: None, // tells which cutoffs end a lease, and this one has to end already
        on_behalf_of: record.on_behalf_of.clone(),
        delegators: Vec::new(),
        tool: record.tool.clone()?,
        actions: record.actions.clone(),
        resources: record.resources.clone(),
        provider: record.provider.clone()?,
        handle: record.handle.clone(),
        ending: record.ending?,
        decision: record.decision?,
        issued_at: record.at,
        expires_at: record.at.plus(record.granted?.as_duration()),
        bounded_by: record.bounded_by?,
        requested: record.requested,
        vouched: None,
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Active,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{DecisionId, TaskId};
    use crate::model::ttl::{Bound, Ttl};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_795_329_000 + seconds)
    }

    fn id(number: u8) -> LeaseId {
        LeaseId::new(TaskId::new(at(0), [1; 10]), at(0), [number; 10])
    }

    fn record(verb: Verb, result: Result, number: u8, second: u64) -> Record {
        Record {
            lease: Some(id(number)),
            granted: Ttl::from_secs(300),
            ..Record::new(verb, result, at(second))
        }
    }

    fn issue(number: u8, ending: Ending) -> Record {
        Record {
            task: Some(TaskId::new(at(0), [1; 10])),
            agent: Some("support-bot".parse().unwrap()),
            environment: Some("production".parse().unwrap()),
            tool: Some("crm".parse().unwrap()),
            provider: Some("jwt".parse().unwrap()),
            ending: Some(ending),
            decision: Some(DecisionId::new(at(0), [2; 10])),
            bounded_by: Some(Bound::Policy),
            ..record(Verb::Issue, Result::Permitted, number, 0)
        }
    }

    fn left(records: &[Record], now: u64) -> Vec<LeaseId> {
        let mut unfinished = Unfinished::default();
        records.iter().for_each(|record| unfinished.take(record));
        let leases = unfinished.leases(at(now));
        leases.iter().map(|lease| lease.id).collect()
    }

    #[test]
    fn what_has_no_end_on_record_is_left() {
        let end = record(Verb::End, Result::Permitted, 1, 9);
        let token = |number| issue(number, Ending::DenyListed);
        assert_eq!(left(&[token(1), token(2), end.clone()], 10), [id(2)]);
        // The other way round, as from the journals of two brokers.
        assert_eq!(left(&[end, token(1), token(2)], 10), [id(2)]);
        let stuck = record(Verb::End, Result::Failed, 1, 9);
        assert_eq!(left(&[token(1), stuck.clone()], 10), [id(1)]);
        let given_up = record(Verb::Abandon, Result::Permitted, 1, 10);
        assert_eq!(
            left(&[token(1), stuck, given_up], 11),
            [id(1)],
            "nobody said that it is gone"
        );
    }

    #[test]
    fn what_ends_by_itself_is_left_as_long_as_it_lives() {
        let token = issue(1, Ending::DenyListed);
        assert_eq!(left(std::slice::from_ref(&token), 299), [id(1)]);
        assert!(left(std::slice::from_ref(&token), 300).is_empty());
        let longer = record(Verb::Renew, Result::Permitted, 1, 200);
        assert_eq!(left(&[token.clone(), longer.clone()], 499), [id(1)]);
        assert_eq!(left(&[longer, token], 499), [id(1)]);
        assert_eq!(
            left(&[issue(2, Ending::Immediate)], 9999),
            [id(2)],
            "somebody has to remove it"
        );
    }

    #[test]
    fn a_permit_without_effect_left_no_token_and_may_have_left_something_outside() {
        let failed = record(Verb::Issue, Result::Failed, 1, 1);
        assert!(left(&[issue(1, Ending::DenyListed), failed.clone()], 2).is_empty());
        assert_eq!(left(&[issue(1, Ending::Immediate), failed], 2), [id(1)]);
    }

    #[test]
    fn a_record_that_says_too_little_is_counted() {
        let mut unfinished = Unfinished::default();
        let mut old = issue(1, Ending::Immediate);
        old.provider = None;
        unfinished.take(&old);
        assert_eq!(unfinished.unclear(), 1);
        unfinished.take(&record(Verb::End, Result::Permitted, 1, 5));
        assert_eq!((unfinished.unclear(), unfinished.latest()), (0, at(5)));
    }
}
