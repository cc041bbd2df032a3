//! Status lists for those who read them (draft-ietf-oauth-status-list §8.3): verified once, and then asked about any
//! number of tokens, without a call to anybody.
//!
//! For tools that know no feed. A list answers as of when it was signed; [`ResourceServer`](super::ResourceServer)
//! follows the feed, which is faster, and needs no list.

use crate::keys::jose::{JoseError, Unverified};
use crate::keys::jwk::KeySet;
use crate::model::status_list::{ListClaims, Reference, StatusList, TYP, TokenStatus, UnreadableList};
use crate::model::time::Timestamp;

use super::ALGORITHMS;

/// The longest list that is looked at, in bytes.
pub const LONGEST_LIST: usize = 1 << 20;
/// The most bytes of entries that it may have.
const MOST_ENTRIES: usize = 1 << 20;
/// How far the clock here may be behind the broker's, in seconds.
const SKEW: u64 = 60;

/// Why a list says nothing about a token: no leave to rely on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// It is no token, or nobody we know signed it.
    #[error(transparent)]
    Token(#[from] JoseError),
    /// It is another kind of token, or signed in a way that Dayfly does not use.
    #[error("the token is no status list: its `typ` is not `{TYP}`, or its algorithm not accepted here")]
    OtherType,
    /// It is not the list that was asked for.
    #[error("the token is another status list: its `sub` is not the address")]
    OtherList,
    /// It is too old, or from the future.
    #[error("the status list is not for now")]
    Untimely,
    /// Its entries cannot be read.
    #[error("the status list cannot be read: {0}")]
    Unreadable(#[from] UnreadableList),
    /// It has no such entry.
    #[error("the status list has no entry {0}")]
    OutOfRange(u64),
}

/// A list that was signed by somebody whose keys we have, and is for now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedList {
    uri: String,
    list: StatusList,
    refresh_at: Timestamp,
    expires_at: Timestamp,
}

impl VerifiedList {
    /// Verifies what was found at `uri`, with the keys of the issuer of the tokens.
    pub fn verify(token: &str, uri: &str, keys: &KeySet, now: Timestamp) -> Result<Self, ListError> {
        let unverified = Unverified::parse(token.trim(), LONGEST_LIST)?;
        let header = unverified.header();
        if !header.is_typ(TYP) || !ALGORITHMS.contains(&header.algorithm) {
            return Err(ListError::OtherType);
        }
        unverified.verify_with(keys)?;
        let claims: ListClaims = unverified.claims()?;
        if claims.sub != uri {
            return Err(ListError::OtherList);
        }
        let ttl = claims.ttl.unwrap_or_default();
        let list = Self {
            uri: claims.sub,
            list: StatusList::unpack(&claims.status_list, MOST_ENTRIES)?,
            refresh_at: Timestamp::from_secs(claims.iat.saturating_add(ttl)),
            expires_at: claims.exp.map_or(Timestamp::MAX, Timestamp::from_secs),
        };
        match claims.iat > now.as_secs().saturating_add(SKEW) || !list.is_good(now) {
            true => Err(ListError::Untimely),
            false => Ok(list),
        }
    }

    /// What it says of the token that bears this reference. The token is to be verified first, by itself.
    pub fn status(&self, reference: &Reference, now: Timestamp) -> Result<TokenStatus, ListError> {
        if reference.uri != self.uri {
            return Err(ListError::OtherList);
        }
        if !self.is_good(now) {
            return Err(ListError::Untimely);
        }
        let status = self.list.get(reference.idx);
        status.ok_or(ListError::OutOfRange(reference.idx))
    }

    /// From when on a newer one is to be read.
    pub fn refresh_at(&self) -> Timestamp {
        self.refresh_at
    }

    /// Whether it says anything still.
    pub fn is_good(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::entropy::OsEntropy;
    use crate::keys::Algorithm;
    use crate::keys::jose;
    use crate::keys::key_ring::KeyRing;
    use crate::keys::ring_keys::RingSigner;

    const URI: &str = "https://dayfly.example.org/v1/status-lists/00000000000000ab-498702-0";
    const AT: Timestamp = Timestamp::from_secs(1_795_329_000);

    fn ring() -> KeyRing {
        let key = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        KeyRing::of(std::sync::Arc::new(key))
    }

    /// The list `b9 a3` of the draft (§4.2).
    fn claims() -> Value {
        json!({
            "sub": URI, "iat": AT.as_secs(), "exp": AT.as_secs() + 60, "ttl": 15,
            "status_list": {"bits": 1, "lst": "eNrbuRgAAhcBXQ", "aggregation_uri": "https://dayfly.example.org/v1/status-lists"},
            "new": "claims are ignored",
        })
    }

    fn reference(idx: u64) -> Reference {
        Reference {
            idx,
            uri: URI.to_owned(),
        }
    }

    async fn verified(typ: &str, claims: Value, now: Timestamp) -> Result<VerifiedList, ListError> {
        let ring = ring();
        let token = jose::sign(&*ring.current(), typ, &claims).await.unwrap();
        VerifiedList::verify(&token, URI, &ring.key_set(), now)
    }

    #[tokio::test]
    async fn a_list_answers_for_each_of_its_entries_as_long_as_it_is_good() {
        let list = verified(TYP, claims(), AT).await.unwrap();
        let statuses = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1];
        for (idx, revoked) in (0..).zip(statuses) {
            let wanted = [TokenStatus::Valid, TokenStatus::Invalid][revoked];
            assert_eq!(list.status(&reference(idx), AT), Ok(wanted), "{idx}");
        }
        assert_eq!(
            list.status(&reference(16), AT),
            Err(ListError::OutOfRange(16)),
            "and not valid"
        );
        let elsewhere = Reference {
            uri: "https://dayfly.example.org/v1/status-lists/00000000000000ab-498702-1".to_owned(),
            idx: 1,
        };
        assert_eq!(list.status(&elsewhere, AT), Err(ListError::OtherList));
        assert_eq!(list.refresh_at(), Timestamp::from_secs(AT.as_secs() + 15));
        let over = Timestamp::from_secs(AT.as_secs() + 60);
        assert_eq!(list.status(&reference(1), over), Err(ListError::Untimely));
    }

    #[tokio::test]
    async fn what_is_not_this_list_now_says_nothing() {
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            claims
        };
        let bits = |bits: u8| with("status_list", json!({"bits": bits, "lst": "eNrbuRgAAhcBXQ"}));
        let lst = |lst: &str| with("status_list", json!({"bits": 1, "lst": lst}));
        for (typ, claims, error) in [
            ("at+jwt", claims(), ListError::OtherType),
            (
                TYP,
                with("sub", "https://other.example".into()),
                ListError::OtherList,
            ),
            (TYP, with("exp", AT.as_secs().into()), ListError::Untimely),
            (TYP, with("iat", (AT.as_secs() + 61).into()), ListError::Untimely),
            (TYP, bits(3), UnreadableList::Bits(3).into()),
            (TYP, lst("eNrbuRgAAhcBXA"), UnreadableList::Encoding.into()),
            (TYP, lst("not base64url!"), UnreadableList::Encoding.into()),
        ] {
            assert_eq!(verified(typ, claims, AT).await, Err(error));
        }
        let token = jose::sign(&*ring().current(), TYP, &claims()).await.unwrap();
        assert!(matches!(
            VerifiedList::verify(&token, URI, &ring().key_set(), AT),
            Err(ListError::Token(_))
        ));
    }

    #[tokio::test]
    async fn a_list_that_swells_is_refused() {
        let swelling = StatusList::of_bits(vec![0; MOST_ENTRIES + 1]).pack(None).unwrap();
        assert!(swelling.lst.len() < 3000);
        let mut claims = claims();
        claims["status_list"] = serde_json::to_value(swelling).unwrap();
        let error = UnreadableList::TooLong(MOST_ENTRIES).into();
        assert_eq!(verified(TYP, claims, AT).await, Err(error));
    }
}
