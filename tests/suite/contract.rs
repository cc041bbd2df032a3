//! What every adapter of a seam must keep, whatever technology it stands on.

mod journal;
mod ledger;
pub(crate) mod provider;
