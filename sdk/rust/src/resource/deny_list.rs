//! Which tokens are refused before their expiry: the cutoffs of the feed, by what they select.
//!
//! Looking is a handful of hash lookups, however many cutoffs there are. A cutoff is forgotten once every token that it
//! could match is over, so the list is as long as what was ended lately.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::claims::Claims;
use super::cutoff::{Cutoff, Selector};

/// The cutoffs that still matter.
#[derive(Debug)]
pub struct DenyList {
    entries: HashMap<Selector, Entry>,
    /// What may be forgotten when. An entry that was prolonged is named more than once.
    due: BTreeMap<SystemTime, Vec<Selector>>,
    keep: Duration,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    up_to: SystemTime,
    cause: Arc<str>,
    until: SystemTime,
}

/// There are more cutoffs than there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the deny list is full: it holds {0} cutoffs")]
pub struct Full(pub usize);

impl DenyList {
    /// A list of at most `most` cutoffs, each kept for `keep` after it was recorded. That has to be the longest life of a
    /// token and the skew of clocks: after the record the broker issues nothing more that the cutoff matches.
    pub fn new(keep: Duration, most: usize) -> Self {
        Self {
            entries: HashMap::new(),
            due: BTreeMap::new(),
            keep,
            most,
        }
    }

    /// Takes a cutoff in. Taking it in again changes nothing, and an older one undoes nothing.
    pub fn apply(&mut self, cutoff: &Cutoff, now: SystemTime) -> Result<(), Full> {
        let until = cutoff.at.checked_add(self.keep).unwrap_or(cutoff.at);
        if until <= now {
            return Ok(());
        }
        let full = self.entries.len() >= self.most;
        let prolonged = match self.entries.get_mut(&cutoff.selector) {
            None if full => return Err(Full(self.most)),
            None => {
                let fresh = Entry {
                    up_to: cutoff.up_to,
                    cause: cutoff.cause.clone(),
                    until,
                };
                self.entries.insert(cutoff.selector.clone(), fresh);
                true
            }
            Some(entry) => {
                if cutoff.up_to > entry.up_to {
                    (entry.up_to, entry.cause) = (cutoff.up_to, cutoff.cause.clone());
                }
                let prolonged = until > entry.until;
                entry.until = entry.until.max(until);
                prolonged
            }
        };
        if prolonged {
            self.due.entry(until).or_default().push(cutoff.selector.clone());
        }
        Ok(())
    }

    /// Forgets what no living token can match.
    pub fn forget(&mut self, now: SystemTime) {
        while let Some(first) = self.due.first_entry().filter(|first| *first.key() <= now) {
            for selector in first.remove() {
                let over = self
                    .entries
                    .get(&selector)
                    .is_some_and(|entry| entry.until <= now);
                if over {
                    self.entries.remove(&selector);
                }
            }
        }
    }

    /// Why this token is refused, if it is.
    pub fn denies(&self, token: &Claims) -> Option<Arc<str>> {
        let made_at = token.marks.lease.made_at();
        token.selectors().find_map(|selector| {
            let entry = self.entries.get(&selector)?;
            (made_at <= entry.up_to).then(|| entry.cause.clone())
        })
    }

    /// How many cutoffs it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{handed_on, later, start, token_of};
    use super::*;

    const KEEP: Duration = Duration::from_secs(600);

    fn cutoff(selector: Selector, up_to: SystemTime, at: SystemTime) -> Cutoff {
        Cutoff {
            selector,
            up_to,
            at,
            cause: "task_completed".into(),
        }
    }

    #[test]
    fn every_kind_of_selector_ends_what_was_made_up_to_its_instant_and_nothing_else() {
        for (token, kinds) in [(token_of("support-bot", start(), 1), 8), (handed_on(), 11)] {
            let other = token_of("billing-bot", start(), 2);
            for selector in token.selectors() {
                let mut list = DenyList::new(KEEP, 10);
                let before = start() - Duration::from_millis(1);
                list.apply(&cutoff(selector.clone(), before, start()), start())
                    .unwrap();
                assert_eq!(list.denies(&token), None, "made after it: {selector:?}");
                let decisive = cutoff(selector.clone(), start(), start());
                list.apply(&decisive, start()).unwrap();
                assert!(
                    list.denies(&token).is_some() && token.is_cut_by(&decisive),
                    "{selector:?}"
                );
                assert_eq!(
                    list.denies(&other).is_some(),
                    other.is_cut_by(&decisive),
                    "{selector:?}"
                );
            }
            assert_eq!(token.selectors().count(), kinds);
        }
    }

    #[test]
    fn an_older_cutoff_undoes_nothing_and_a_repeated_one_costs_nothing() {
        let token = token_of("support-bot", start(), 1);
        let agent = Selector::Agent("support-bot".to_owned());
        let mut list = DenyList::new(KEEP, 10);
        let last = cutoff(agent.clone(), later(1_000_000), later(5));
        list.apply(&last, later(5)).unwrap();
        for _ in 0..100 {
            let older = cutoff(agent.clone(), SystemTime::UNIX_EPOCH, later(1));
            list.apply(&older, later(5)).unwrap();
            list.apply(&last, later(5)).unwrap();
        }
        assert!(list.denies(&token).is_some());
        assert_eq!((list.len(), list.due.len()), (1, 1));
    }

    #[test]
    fn forgets_a_cutoff_when_no_token_that_it_matches_can_live_and_not_before() {
        let token = token_of("support-bot", start(), 1);
        let mut list = DenyList::new(KEEP, 10);
        list.apply(&cutoff(Selector::All, start(), start()), start())
            .unwrap();
        list.apply(&cutoff(Selector::All, start(), later(100)), later(100))
            .unwrap();
        list.forget(later(699));
        assert!(list.denies(&token).is_some(), "it was recorded again later");
        list.forget(later(700));
        assert!(list.is_empty() && list.due.is_empty());
        list.apply(&cutoff(Selector::All, start(), start()), later(600))
            .unwrap();
        assert!(list.is_empty(), "too old to matter");
    }

    #[test]
    fn says_so_when_it_is_full_and_still_prolongs_what_it_has() {
        let mut list = DenyList::new(KEEP, 1);
        list.apply(&cutoff(Selector::All, start(), start()), start())
            .unwrap();
        let tool = Selector::Tool("crm".to_owned());
        assert_eq!(list.apply(&cutoff(tool, start(), start()), start()), Err(Full(1)));
        list.apply(&cutoff(Selector::All, later(1), later(1)), later(1))
            .unwrap();
        assert!(list.denies(&token_of("support-bot", later(1), 1)).is_some());
    }
}
