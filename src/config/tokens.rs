//! `[tokens]`: the keys that sign our tokens, and how long a token may live.

use std::path::PathBuf;
use std::time::Duration;

use crate::keys::Algorithm;
use crate::model::document::Section;
use crate::model::ttl::Ttl;

use super::read::{Base, ordered, seconds};

/// How tokens are signed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokensConfig {
    /// The directory with the signing keys; Dayfly makes new ones there.
    pub keys: PathBuf,
    /// The algorithm of new keys: ES256, RS256 or EdDSA.
    pub algorithm: Algorithm,
    /// How long a key signs.
    pub rotate_every: Duration,
    /// The longest life of any credential; never longer than the ledger remembers its end.
    pub max_ttl: Ttl,
}

pub(super) fn read(section: &mut Section<'_>, retention: Duration, base: Base<'_>) -> TokensConfig {
    let keys = base.path(section, "keys", "data/keys");
    let algorithm = section.parsed("algorithm").unwrap_or(Algorithm::Es256);
    if !matches!(algorithm, Algorithm::Es256 | Algorithm::Rs256 | Algorithm::EdDsa) {
        section.blame(
            "algorithm",
            format!("tokens are not signed with {}", algorithm.as_str()),
            "write `ES256`, `EdDSA` or `RS256`",
        );
    }
    let rotate_every: Ttl = section.or("rotate_every", seconds(30 * 24 * 3600));
    let max_ttl: Ttl = section.or("max_ttl", seconds(3600));
    ordered(section, ("max_ttl", max_ttl), ("rotate_every", rotate_every));
    if max_ttl.as_duration() > retention {
        section.blame(
            "max_ttl",
            "a token could live longer than the ledger remembers that it was revoked",
            "lower `max_ttl` or raise `retention` in [ledger]",
        );
    }
    TokensConfig {
        keys,
        algorithm,
        rotate_every: rotate_every.as_duration(),
        max_ttl,
    }
}
