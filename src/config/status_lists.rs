//! `[status_lists]`: whether tokens are on lists by which tools learn that they were revoked.

use crate::model::document::Section;
use crate::model::ttl::Ttl;

use super::read::duration_within;

/// Whether there are status lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusListsConfig {
    /// After how long whoever read a list reads it anew; none where there are no lists.
    pub ttl: Option<Ttl>,
}

pub(super) fn read(section: &mut Section<'_>) -> StatusListsConfig {
    let enabled = section.or("enabled", true);
    let ttl = Ttl::from_duration(duration_within(section, "ttl", 15, 3600));
    StatusListsConfig {
        ttl: ttl.filter(|_| enabled),
    }
}
