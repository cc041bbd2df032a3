//! Facts: taking statements, telling them, and seeing off what has expired.

use redb::{ReadableTable as _, ReadableTableMetadata as _};

use super::Circumstances;
use crate::ledger::context::{self, MOST_FACTS, MOST_STATEMENTS, Stated, Statements};
use crate::ledger::embedded::layout::{
    FACTS, FACTS_FROM, FACTS_VERSION, LAPSES, NEVER, Property, TOLD, damaged,
};
use crate::ledger::embedded::reads::Snapshot;
use crate::ledger::record::{decode_fact, encode_fact, fact_key};
use crate::ledger::{LedgerError, Refusal};
use crate::model::fact::{Fact, FactsVersion, MOST_OF_ONE};
use crate::model::time::Timestamp;

/// How many facts one claim sees off.
const LAPSED_AT_ONCE: usize = 100;

/// A statement that stands.
struct Standing {
    fact: Fact,
    version: u64,
    in_force: bool,
    lapse: u64,
}

impl Circumstances<'_, '_> {
    fn standing(&self, key: &[u8]) -> Result<Option<Standing>, LedgerError> {
        let Some(row) = self.facts.get(key)? else {
            return Ok(None);
        };
        let (version, in_force, lapse, record) = row.value();
        Ok(Some(Standing {
            fact: decode_fact(record)?,
            version,
            in_force,
            lapse,
        }))
    }

    pub(super) fn state(&mut self, fact: &Fact, why: &str, now: Timestamp) -> Result<Stated, LedgerError> {
        let key = fact_key(fact);
        let standing = self.standing(&key)?;
        if standing
            .as_ref()
            .is_some_and(|standing| !fact.replaces(&standing.fact))
        {
            return Ok(Stated::Superseded);
        }
        let (in_force, lapse) = context::lapses_at(fact, now, self.tables.retention);
        let was_in_force = standing.as_ref().is_some_and(|standing| standing.in_force);
        if in_force && !was_in_force {
            let counts = [
                (Property::facts_of(&fact.about), MOST_OF_ONE),
                (Property::facts(), MOST_FACTS),
            ];
            for (property, most) in counts {
                if usize::try_from(self.tables.count(&property)?).is_ok_and(|count| count >= most) {
                    return Err(Refusal::TooManyFacts.into());
                }
            }
        }
        if standing.is_none() && self.facts.len()? >= u64::try_from(MOST_STATEMENTS).unwrap_or(u64::MAX) {
            return Err(Refusal::TooManyFacts.into());
        }
        let before = standing.as_ref().and_then(|standing| {
            let value = standing.fact.value_at(now).filter(|_| standing.in_force);
            value.map(|value| (value, standing.fact.expires_at))
        });
        let after = fact.value_at(now).map(|value| (value, fact.expires_at));
        let same = before.map(|(value, _)| value) == after.map(|(value, _)| value);
        let told = before != after;
        let mut version = standing.as_ref().map_or(0, |standing| standing.version);
        self.tables.dirty = true;
        if told {
            let taken = self.tables.number(FACTS_VERSION)?.unwrap_or_default();
            let next = taken.saturating_add(1).max(now.as_millis());
            if self.tables.number(FACTS_FROM)?.is_none() {
                self.tables.set_number(FACTS_FROM, next - 1)?;
            }
            self.tables.set_number(FACTS_VERSION, next)?;
            self.told.remove(version)?;
            self.told.insert(next, key.as_slice())?;
            version = next;
        }
        // One that has expired, and that nobody saw off yet, is seen off here.
        if !same || (was_in_force && before.is_none()) {
            self.order(&context::decide(fact, why, now))?;
        }
        self.put(&key, standing.as_ref(), fact, version, in_force, lapse)?;
        Ok(match told {
            true => Stated::New(FactsVersion(version)),
            false => Stated::Unchanged,
        })
    }

    /// Writes a statement in place of the one that stands, with the schedule and the counts.
    fn put(
        &mut self,
        key: &[u8],
        standing: Option<&Standing>,
        fact: &Fact,
        version: u64,
        in_force: bool,
        lapse: Option<Timestamp>,
    ) -> Result<(), LedgerError> {
        let lapse = lapse.map_or(NEVER, Timestamp::as_millis);
        let row = (version, in_force, lapse, encode_fact(fact)?);
        self.facts.insert(key, (row.0, row.1, row.2, row.3.as_slice()))?;
        if let Some(before) = standing.filter(|before| before.lapse != NEVER) {
            self.lapses.remove(lapse_key(before.lapse, key).as_slice())?;
        }
        if lapse != NEVER {
            self.lapses.insert(lapse_key(lapse, key).as_slice(), ())?;
        }
        let counted = [Property::facts_of(&fact.about), Property::facts()];
        match (standing.is_some_and(|before| before.in_force), in_force) {
            (false, true) => counted.into_iter().try_for_each(|of| self.tables.count_up(of)),
            (true, false) => counted.into_iter().try_for_each(|of| self.tables.count_down(of)),
            _ => Ok(()),
        }
    }

    /// Sees off facts that have expired, and forgets those that are over for long.
    pub(super) fn lapse(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        let end = now.as_millis().saturating_add(1).to_be_bytes();
        let mut due = Vec::new();
        for entry in self.lapses.range::<&[u8]>(..end.as_slice())?.take(LAPSED_AT_ONCE) {
            due.push(entry?.0.value().to_vec());
        }
        for entry in due {
            let key = entry.get(8..).unwrap_or_default();
            let standing = self
                .standing(key)?
                .ok_or_else(|| damaged("the schedule of facts"))?;
            self.tables.dirty = true;
            if standing.in_force {
                self.order(&context::decide_expired(&standing.fact))?;
                let forgotten = now.plus(self.tables.retention);
                let fact = standing.fact.clone();
                self.put(
                    key,
                    Some(&standing),
                    &fact,
                    standing.version,
                    false,
                    Some(forgotten),
                )?;
            } else {
                self.facts.remove(key)?;
                self.lapses.remove(entry.as_slice())?;
                self.told.remove(standing.version)?;
                // Whoever has not come as far does not learn of it any more.
                if let Some(from) = self.tables.number(FACTS_FROM)? {
                    self.tables.set_number(FACTS_FROM, from.max(standing.version))?;
                }
            }
        }
        Ok(())
    }
}

fn lapse_key(instant: u64, key: &[u8]) -> Vec<u8> {
    [&instant.to_be_bytes(), key].concat()
}

impl Snapshot {
    pub(super) fn statements(&self, since: FactsVersion) -> Result<Statements, LedgerError> {
        let version = FactsVersion(self.number(FACTS_VERSION)?.unwrap_or_default());
        let mut statements = Statements {
            version,
            ..Statements::default()
        };
        if since == version {
            return Ok(statements);
        }
        let from = self.number(FACTS_FROM)?;
        statements.afresh = since > version || from.is_none_or(|from| since.0 < from);
        let after = if statements.afresh { 0 } else { since.0 };
        let facts = self.0.open_table(FACTS)?;
        for entry in self.0.open_table(TOLD)?.range(after.saturating_add(1)..)? {
            let row = facts.get(entry?.1.value())?;
            let row = row.ok_or_else(|| damaged("the order of facts"))?;
            statements.stated.push(decode_fact(row.value().3)?);
        }
        Ok(statements)
    }

    /// Whether there is a fact to see off or to forget.
    pub(super) fn anything_lapses(&self, now: Timestamp) -> Result<bool, LedgerError> {
        let lapses = self.0.open_table(LAPSES)?;
        let first = lapses.first()?;
        let end = now.as_millis().saturating_add(1).to_be_bytes();
        Ok(first.is_some_and(|(key, _)| key.value() < end.as_slice()))
    }
}
