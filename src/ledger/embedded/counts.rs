//! The counts that budgets ask for, in one write transaction.
//!
//! The steps of a group mostly count the same few agents, tools and tasks. What they change is kept
//! until the group ends, and written once.

use std::collections::BTreeMap;

use redb::{ReadableTable as _, Table};

use super::layout::Property;
use crate::ledger::LedgerError;

/// A property → how many live leases, or open tasks, have it.
pub(super) struct Counts<'t> {
    stored: Table<'t, &'static [u8], u32>,
    changed: BTreeMap<Vec<u8>, u32>,
}

impl<'t> Counts<'t> {
    pub(super) fn of(stored: Table<'t, &'static [u8], u32>) -> Self {
        let changed = BTreeMap::new();
        Self { stored, changed }
    }

    pub(super) fn get(&self, property: &Property) -> Result<u32, LedgerError> {
        if let Some(count) = self.changed.get(&property.0) {
            return Ok(*count);
        }
        let stored = self.stored.get(property.0.as_slice())?;
        Ok(stored.map_or(0, |count| count.value()))
    }

    pub(super) fn up(&mut self, property: Property) -> Result<(), LedgerError> {
        let count = self.get(&property)?.saturating_add(1);
        self.changed.insert(property.0, count);
        Ok(())
    }

    pub(super) fn down(&mut self, property: Property) -> Result<(), LedgerError> {
        let count = self.get(&property)?.saturating_sub(1);
        self.changed.insert(property.0, count);
        Ok(())
    }

    /// Writes what was changed. Nothing is kept of what has come to none.
    pub(super) fn write(mut self) -> Result<(), LedgerError> {
        for (property, count) in self.changed {
            match count {
                0 => drop(self.stored.remove(property.as_slice())?),
                count => drop(self.stored.insert(property.as_slice(), count)?),
            }
        }
        Ok(())
    }
}
