//! Records of what rechecks did while the journal did not take them: kept in memory, and recorded as soon as it
//! does. Ends are never held back by it; should this broker die before, the record of the end itself, with its
//! cause and receipt, is what tells of the lease.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::journal::record::Record;

use super::super::Broker;

/// The most that are kept: some 10 MB.
const MOST: usize = 20_000;

/// Records that are owed, the oldest first.
#[derive(Debug, Default)]
pub(in super::super) struct Untold(Mutex<VecDeque<Record>>);

impl Untold {
    /// Keeps a record, while there is room.
    pub(super) fn keep(&self, record: Record) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < MOST {
            kept.push_back(record);
        }
    }

    fn take(&self) -> VecDeque<Record> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Broker {
    /// Records what is owed, as far as the journal takes it.
    pub(super) async fn tell_untold(&self) {
        let mut kept = self.untold.take();
        while let Some(record) = kept.pop_front() {
            if self.record(record.clone()).await.is_err() {
                self.untold.keep(record);
                kept.drain(..).for_each(|record| self.untold.keep(record));
            }
        }
    }
}
