//! `[reconciler]`: how often providers are compared with the ledger.

use std::time::Duration;

use crate::model::document::Section;

use super::read::duration_within;

/// How often providers are compared with the ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReconcilerConfig {
    /// How long from one pass to the next, give or take a tenth.
    pub interval: Duration,
}

pub(super) fn read(section: &mut Section<'_>) -> ReconcilerConfig {
    ReconcilerConfig {
        interval: duration_within(section, "interval", 600, 86_400),
    }
}
