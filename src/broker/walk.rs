//! A walk over the live leases that a selector fits, a page at a time, found through the indexes.

use std::num::NonZeroUsize;

use crate::ledger::{Filter, Ledger, LedgerError, Page};
use crate::model::cutoff::Selector;
use crate::model::lease::{Lease, LeaseState};

/// Where a walk is.
pub(super) struct Walk<'a> {
    ledger: &'a dyn Ledger,
    selector: &'a Selector,
    /// The next page, unless that was all.
    page: Option<Page>,
    /// How many leases were looked at so far, whether they fit or not.
    pub(super) looked_at: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ledger: &'a dyn Ledger, selector: &'a Selector) -> Self {
        Self {
            ledger,
            selector,
            page: Some(Page {
                after: None,
                limit: NonZeroUsize::new(Page::MOST).unwrap_or(NonZeroUsize::MIN),
            }),
            looked_at: 0,
        }
    }

    /// Whether there are no more pages.
    pub(super) const fn is_over(&self) -> bool {
        self.page.is_none()
    }

    /// The leases of the next page; `None` when there are no more pages.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Lease>>, LedgerError> {
        let Some(page) = self.page.take() else {
            return Ok(None);
        };
        let mut leases = page_of(self.ledger, self.selector, &page).await?;
        if leases.len() == page.limit.get() {
            let after = leases.last().map(|lease| lease.id);
            self.page = Some(Page { after, ..page });
        }
        self.looked_at += leases.len();
        leases.retain(|lease| lease.fits(self.selector));
        Ok(Some(leases))
    }
}

/// A page of the live leases that a selector can match. One lease is looked up: there is nothing to look for.
pub(super) async fn page_of(
    ledger: &dyn Ledger,
    selector: &Selector,
    page: &Page,
) -> Result<Vec<Lease>, LedgerError> {
    let Selector::Lease(id) = selector else {
        return ledger.find(&Filter::of(selector), page).await;
    };
    if page.after.is_some_and(|after| *id <= after) {
        return Ok(Vec::new());
    }
    let lease = ledger.lease(*id).await?;
    let live = |lease: &Lease| matches!(lease.state, LeaseState::Reserved | LeaseState::Active);
    Ok(lease.into_iter().filter(live).collect())
}
