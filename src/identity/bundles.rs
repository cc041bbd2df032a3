//! The documents that hold the keys of an authority: SPIFFE trust bundles and JWK Sets.
//!
//! A SPIFFE bundle (SPIFFE Trust Domain and Bundle §4) is a JWK Set that also says which of two
//! documents is the newer one and how often to look again. One trust domain has one bundle; bundles
//! are never merged.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

use super::certificates::Authority;
use crate::keys::jwk::{Jwk, KeySet, KeyUse, VerifyingKey};
use crate::model::lease::VouchingKey;

/// A document, parsed once.
#[derive(Debug)]
pub(super) struct Document {
    /// The keys that count. None at all means that trust was withdrawn.
    pub(super) keys: KeySet,
    /// In place of keys, where X.509-SVIDs are what they are for.
    pub(super) authorities: Vec<Authority>,
    passed_over: usize,
    /// The same keys, to see which ones a later document no longer has.
    entries: Vec<Jwk>,
    /// `spiffe_sequence`: grows with each change of a bundle.
    sequence: Option<u64>,
    /// `spiffe_refresh_hint`: how often the publisher of a bundle wants to be asked.
    pub(super) refresh_hint: Option<Duration>,
}

impl Document {
    /// Parses the document of `authority`, or says what is wrong with it. [`KeyUse::JwtSvid`] and
    /// [`KeyUse::X509Svid`] ask for a SPIFFE bundle, anything else for a plain JWK Set.
    ///
    /// Entries that are for something else or are not understood are passed over, as both standards
    /// ask; a document without `keys` is no document.
    pub(super) fn parse(json: &[u8], purpose: KeyUse, authority: &str) -> Result<Self, String> {
        #[derive(Default, Deserialize)]
        struct Extension {
            spiffe_sequence: Option<u64>,
            spiffe_refresh_hint: Option<u64>,
        }
        let keys = KeySet::parse(json, purpose).map_err(|e| e.to_string())?;
        let extension: Extension = match purpose {
            KeyUse::JwtSvid | KeyUse::X509Svid => serde_json::from_slice(json)
                .map_err(|_| "spiffe_sequence and spiffe_refresh_hint have to be whole numbers")?,
            KeyUse::Signature => Extension::default(),
        };
        let (authorities, passed_over) = match purpose {
            KeyUse::X509Svid => Authority::all(json, authority)?,
            KeyUse::JwtSvid | KeyUse::Signature => (Vec::new(), keys.ignored()),
        };
        Ok(Self {
            authorities,
            passed_over,
            entries: keys.keys().iter().map(VerifyingKey::to_jwk).collect(),
            keys,
            sequence: extension.spiffe_sequence,
            refresh_hint: extension.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }

    /// How many entries were passed over, where none count.
    pub(super) fn useless(&self) -> Option<usize> {
        (self.keys.keys().is_empty() && self.authorities.is_empty()).then_some(self.passed_over)
    }

    /// How many authorities are not among those that count: they cannot be read, or there are too many.
    pub(super) fn overlooked(&self) -> usize {
        match self.authorities.is_empty() {
            true => 0,
            false => self.passed_over,
        }
    }

    /// Its keys, as what they vouched for remembers them. One without a name signs nothing that is accepted.
    pub(super) fn vouching(&self, authority: &str) -> BTreeSet<VouchingKey> {
        let keys = self.keys.keys().iter();
        let keys = keys.filter_map(|key| Some(VouchingKey::of(authority, &key.id()?.0, &key.thumbprint())));
        let authorities = self.authorities.iter();
        keys.chain(authorities.map(|one| one.vouching(authority)))
            .collect()
    }

    /// Whether this one is older than `held`: a lower sequence, or none where there was one.
    pub(super) fn rolls_back(&self, held: &Self) -> bool {
        self.sequence < held.sequence
    }

    /// Whether every key of `held` is still here, as it was.
    pub(super) fn keeps_all_of(&self, held: &Self) -> bool {
        let authorities = &self.authorities;
        held.entries.iter().all(|key| self.entries.contains(key))
            && held.authorities.iter().all(|one| authorities.contains(one))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn bundle(text: serde_json::Value) -> Result<Document, String> {
        Document::parse(text.to_string().as_bytes(), KeyUse::JwtSvid, "example.org")
    }

    fn ec(kid: &str, purpose: &str) -> serde_json::Value {
        json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": kid, "use": purpose})
    }

    #[test]
    fn takes_the_keys_for_jwt_svids_and_passes_over_the_rest() {
        let keys = json!([
            ec("a", "jwt-svid"),
            ec("b", "x509-svid"),
            ec("c", "new-use"),
            ec("d", "sig"),
            {"kty": "NEW", "use": "jwt-svid", "kid": "e"},
        ]);
        let document =
            bundle(json!({"keys": keys, "spiffe_sequence": 7, "spiffe_refresh_hint": 60})).unwrap();
        let names: Vec<_> = document
            .keys
            .keys()
            .iter()
            .map(|k| k.id().unwrap().to_string())
            .collect();
        assert_eq!(names, ["a"]);
        assert_eq!(document.refresh_hint, Some(Duration::from_secs(60)));
    }

    #[test]
    fn an_empty_bundle_is_a_bundle_and_one_without_keys_is_none() {
        assert!(bundle(json!({"keys": []})).unwrap().keys.keys().is_empty());
        for bad in [
            json!({}),
            json!({"keys": null}),
            json!([]),
            json!({"keys": [], "spiffe_sequence": -1}),
        ] {
            assert!(bundle(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_older_bundle_is_told_by_its_sequence() {
        let of = |sequence: Option<u64>| bundle(json!({"keys": [], "spiffe_sequence": sequence})).unwrap();
        assert!(of(Some(1)).rolls_back(&of(Some(2))));
        assert!(of(None).rolls_back(&of(Some(0))), "a sequence cannot be dropped");
        assert!(!of(Some(2)).rolls_back(&of(Some(2))));
        assert!(!of(Some(3)).rolls_back(&of(Some(2))));
        assert!(!of(Some(0)).rolls_back(&of(None)));
    }

    #[test]
    fn a_key_that_is_gone_or_changed_its_name_is_missed() {
        let of = |kids: &[&str]| {
            let keys: Vec<_> = kids.iter().map(|kid| ec(kid, "jwt-svid")).collect();
            bundle(json!({ "keys": keys })).unwrap()
        };
        assert!(of(&["b", "a"]).keeps_all_of(&of(&["a"])));
        assert!(!of(&["b"]).keeps_all_of(&of(&["a"])));
        assert!(!of(&[]).keeps_all_of(&of(&["a"])));
    }
}
