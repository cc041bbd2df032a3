//! `[provider.webhook]`: where the receiver is, and what it can do.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::read::{Base, address, ordered, seconds};
use crate::model::document::Section;
use crate::model::lease::Ending;
use crate::model::ttl::Ttl;

/// A receiver that mints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WebhookConfig {
    /// Where it is: `https`, or `http` on this machine; no query.
    pub url: String,
    /// The only authorities that may vouch for it; none means the system's.
    pub ca_file: Option<PathBuf>,
    /// How its credentials can end: [`Ending::Immediate`] or [`Ending::AtExpiry`].
    pub ending: Ending,
    /// The shortest life that it can give.
    pub min_ttl: Ttl,
    /// The longest life that it can give.
    pub max_ttl: Ttl,
    /// Whether its credentials can live on; only those that end at once.
    pub renewable: bool,
}

/// The words for the ends that a receiver can bring about.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum End {
    Immediate,
    AtExpiry,
}

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> Option<WebhookConfig> {
    if !section.has("url") {
        section.blame(
            "url",
            "it is missing",
            "write where the receiver is: `url = \"https://…\"`",
        );
    }
    let url = address(section, "url");
    if url.as_ref().is_some_and(|url| url.contains('?')) {
        section.blame(
            "url",
            "it has a query",
            "leave it out: each step is a path below the address",
        );
    }
    let ca_file = base.optional_path(section, "ca_file");
    let end: Option<End> = section.required(
        "ending",
        "write `ending = \"immediate\"`, or \"at_expiry\" where nothing can recall them",
    );
    let (min_ttl, max_ttl) = (
        section.or("min_ttl", Ttl::MIN),
        section.or("max_ttl", seconds(3600)),
    );
    ordered(section, ("min_ttl", min_ttl), ("max_ttl", max_ttl));
    let renewable = section.or("renewable", false);
    if renewable && matches!(end, Some(End::AtExpiry)) {
        section.blame(
            "renewable",
            "what cannot be ended at once cannot be renewed",
            "leave it out, or write `ending = \"immediate\"` if that is so",
        );
    }
    Some(WebhookConfig {
        url: url?,
        ca_file,
        ending: match end? {
            End::Immediate => Ending::Immediate,
            End::AtExpiry => Ending::AtExpiry,
        },
        min_ttl,
        max_ttl,
        renewable,
    })
}
