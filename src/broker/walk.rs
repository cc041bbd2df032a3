//! A walk over the live leases that a selector fits, a page at a time, found through the indexes.

use std::num::NonZeroUsize;

use crate::ledger::{Filter, Ledger, LedgerError, Page};
use crate::model::cutoff::Selector;
use crate::model::lease::Lease;

/// Where a walk is.
pub(super) struct Walk<'a> {
    ledger: &'a dyn Ledger,
    selector: &'a Selector,
    filter: Filter,
    /// The next page, unless that was all.
    page: Option<Page>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ledger: &'a dyn Ledger, selector: &'a Selector) -> Self {
        Self {
            ledger,
            selector,
            filter: Filter::of(selector),
            page: Some(Page {
                after: None,
                limit: NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN),
            }),
        }
    }

    /// The leases of the next page; `None` when there are no more pages.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Lease>>, LedgerError> {
        let Some(page) = self.page.take() else {
            return Ok(None);
        };
        let mut leases = self.ledger.find(&self.filter, &page).await?;
        if leases.len() == page.limit.get() {
            let after = leases.last().map(|lease| lease.id);
            self.page = Some(Page { after, ..page });
        }
        leases.retain(|lease| lease.fits(self.selector));
        Ok(Some(leases))
    }
}
