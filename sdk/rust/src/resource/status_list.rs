//! Status lists for those who read them (draft-ietf-oauth-status-list, "Token Status List"): verified once, and then asked
//! about any number of tokens, without a call to anybody.
//!
//! For tools that know no feed. A list answers as of when it was signed; a [`Verifier`](super::Verifier) follows the feed,
//! which is faster, and needs no list.

use std::fmt;
use std::io::Read as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use flate2::read::ZlibDecoder;
use serde::Deserialize;

use super::jws::{InvalidToken, Keys, Parsed, Unverified};

pub use super::claims::{Reference, Status};

/// The `typ` of a list that is a JWT (§5.1).
const TYP: &str = "statuslist+jwt";
/// The longest list that is looked at, in bytes.
pub const LONGEST_LIST: usize = 1 << 20;
/// The most bytes of entries that it may have.
const MOST_ENTRIES: usize = 1 << 20;
/// How far the clock here may be behind the broker's.
const SKEW: Duration = Duration::from_secs(60);

/// Why a list says nothing about a token: no leave to rely on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// It is no token, or nobody we know signed it.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// It is another kind of token.
    #[error("the token is no status list: its `typ` is not `{TYP}`")]
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

/// A list that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableList {
    /// Entries have another width than there is.
    #[error("its entries have {0} bits, and not 1, 2, 4 or 8")]
    Bits(u8),
    /// It is not what base64url and ZLIB make.
    #[error("its entries are not base64url of ZLIB")]
    Encoding,
    /// It is longer than whoever reads it will hold.
    #[error("it has more than {0} bytes of entries")]
    TooLong(usize),
}

/// What an entry says (§7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenStatus {
    /// 0: the token was not revoked.
    Valid,
    /// 1: it was, for good.
    Invalid,
    /// 2: it must not be relied on for now. Dayfly does not use it.
    Suspended,
    /// Something else, which is no leave to rely on it.
    Other(u8),
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: u64,
    exp: Option<u64>,
    ttl: Option<u64>,
    status_list: Packed,
}

#[derive(Deserialize)]
struct Packed {
    bits: u8,
    lst: String,
}

/// A list that was signed by somebody whose keys we have, and is for now.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifiedList {
    uri: String,
    bits: u8,
    bytes: Vec<u8>,
    refresh_at: SystemTime,
    /// `None`: for ever.
    expires_at: Option<SystemTime>,
}

impl VerifiedList {
    /// Verifies what was found at `uri`, with the keys of the issuer of the tokens.
    pub fn verify(token: &str, uri: &str, keys: &Keys, now: SystemTime) -> Result<Self, ListError> {
        let Parsed::Token(token) = Unverified::parse(token.trim(), TYP, LONGEST_LIST)? else {
            return Err(ListError::OtherType);
        };
        let claims: Claims = token.verified(keys)?;
        if claims.sub != uri {
            return Err(ListError::OtherList);
        }
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        let issued_at = at(claims.iat).ok_or(ListError::Untimely)?;
        let ttl = Duration::from_secs(claims.ttl.unwrap_or_default());
        let list = Self {
            uri: claims.sub,
            bits: claims.status_list.bits,
            bytes: unpack(&claims.status_list)?,
            refresh_at: issued_at.checked_add(ttl).unwrap_or(issued_at),
            // What lies beyond all calendars is for ever.
            expires_at: claims.exp.and_then(at),
        };
        match issued_at > now + SKEW || !list.is_good(now) {
            true => Err(ListError::Untimely),
            false => Ok(list),
        }
    }

    /// What it says of the token that bears this reference. The token is to be verified first, by itself.
    pub fn status(&self, reference: &Reference, now: SystemTime) -> Result<TokenStatus, ListError> {
        if reference.uri != self.uri {
            return Err(ListError::OtherList);
        }
        if !self.is_good(now) {
            return Err(ListError::Untimely);
        }
        self.get(reference.idx)
            .ok_or(ListError::OutOfRange(reference.idx))
    }

    /// From when on a newer one is to be read.
    pub fn refresh_at(&self) -> SystemTime {
        self.refresh_at
    }

    /// Whether it says anything still.
    pub fn is_good(&self, now: SystemTime) -> bool {
        self.expires_at.is_none_or(|expires_at| now < expires_at)
    }

    /// The entry of this index: the first is the lowest bits of the first byte (§4.1).
    fn get(&self, index: u64) -> Option<TokenStatus> {
        let in_a_byte = u64::from(8 / self.bits);
        let byte = self.bytes.get(usize::try_from(index / in_a_byte).ok()?)?;
        let shift = u32::try_from(index % in_a_byte).ok()? * u32::from(self.bits);
        let mask = 0xff_u8 >> (8 - self.bits);
        Some(match (byte >> shift) & mask {
            0 => TokenStatus::Valid,
            1 => TokenStatus::Invalid,
            2 => TokenStatus::Suspended,
            other => TokenStatus::Other(other),
        })
    }
}

/// A short text can be made to grow without end.
fn unpack(packed: &Packed) -> Result<Vec<u8>, UnreadableList> {
    if !matches!(packed.bits, 1 | 2 | 4 | 8) {
        return Err(UnreadableList::Bits(packed.bits));
    }
    let compressed = BASE64URL.decode(&packed.lst);
    let compressed = compressed.map_err(|_| UnreadableList::Encoding)?;
    let mut bytes = Vec::new();
    let room = u64::try_from(MOST_ENTRIES).unwrap_or(u64::MAX).saturating_add(1);
    ZlibDecoder::new(compressed.as_slice())
        .take(room)
        .read_to_end(&mut bytes)
        .map_err(|_| UnreadableList::Encoding)?;
    match bytes.len() > MOST_ENTRIES {
        true => Err(UnreadableList::TooLong(MOST_ENTRIES)),
        false => Ok(bytes),
    }
}

impl fmt::Debug for VerifiedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedList")
            .field("uri", &self.uri)
            .field("refresh_at", &self.refresh_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::read::ZlibEncoder;
    use serde_json::{Value, json};

    use super::super::testing::{SigningKey, keys, later, seconds, start};
    use super::*;

    const URI: &str = "https://dayfly.example.org/v1/status-lists/00000000000000ab-498702-0";

    /// The list `b9 a3` of the draft (§4.2).
    fn claims() -> Value {
        json!({
            "sub": URI, "iat": seconds(start()), "exp": seconds(start()) + 60, "ttl": 15,
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

    fn verified(typ: &str, claims: Value, now: SystemTime) -> Result<VerifiedList, ListError> {
        let key = SigningKey::es256();
        VerifiedList::verify(&key.sign(typ, &claims), URI, &keys(&[&key]), now)
    }

    #[test]
    fn a_list_answers_for_each_of_its_entries_as_long_as_it_is_good() {
        let list = verified(TYP, claims(), start()).unwrap();
        let statuses = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1];
        for (idx, revoked) in (0..).zip(statuses) {
            let wanted = [TokenStatus::Valid, TokenStatus::Invalid][revoked];
            assert_eq!(list.status(&reference(idx), start()), Ok(wanted), "{idx}");
        }
        let past = list.status(&reference(16), start());
        assert_eq!(past, Err(ListError::OutOfRange(16)), "and not valid");
        let elsewhere = Reference {
            uri: "https://dayfly.example.org/v1/status-lists/00000000000000ab-498702-1".to_owned(),
            idx: 1,
        };
        assert_eq!(list.status(&elsewhere, start()), Err(ListError::OtherList));
        assert_eq!(list.refresh_at(), later(15));
        assert_eq!(list.status(&reference(1), later(60)), Err(ListError::Untimely));
    }

    #[test]
    fn entries_of_two_bits_are_read_too() {
        // The second example of the draft (§4.2): c9 44 f9.
        let mut claims = claims();
        claims["status_list"] = json!({"bits": 2, "lst": "eNo76fITAAPfAgc"});
        let list = verified(TYP, claims, start()).unwrap();
        let statuses = (0..12).map(|idx| list.status(&reference(idx), start()).unwrap());
        let (valid, invalid) = (TokenStatus::Valid, TokenStatus::Invalid);
        let (suspended, other) = (TokenStatus::Suspended, TokenStatus::Other(3));
        assert_eq!(
            statuses.collect::<Vec<_>>(),
            [
                invalid, suspended, valid, other, valid, invalid, valid, invalid, invalid, suspended, other,
                other
            ]
        );
    }

    #[test]
    fn what_is_not_this_list_now_says_nothing() {
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
            (TYP, with("exp", seconds(start()).into()), ListError::Untimely),
            (
                TYP,
                with("iat", (seconds(start()) + 61).into()),
                ListError::Untimely,
            ),
            (TYP, bits(3), UnreadableList::Bits(3).into()),
            (TYP, lst("eNrbuRgAAhcBXA"), UnreadableList::Encoding.into()),
            (TYP, lst("not base64url!"), UnreadableList::Encoding.into()),
        ] {
            assert_eq!(verified(typ, claims, start()), Err(error));
        }
        let token = SigningKey::es256().sign(TYP, &claims());
        let stranger = VerifiedList::verify(&token, URI, &keys(&[&SigningKey::es256()]), start());
        assert!(matches!(stranger, Err(ListError::Token(_))));
    }

    #[test]
    fn a_list_that_swells_is_refused() {
        let mut compressed = Vec::new();
        let zeros = vec![0; MOST_ENTRIES + 1];
        ZlibEncoder::new(zeros.as_slice(), Compression::best())
            .read_to_end(&mut compressed)
            .unwrap();
        assert!(compressed.len() < 3000);
        let mut claims = claims();
        claims["status_list"] = json!({"bits": 1, "lst": BASE64URL.encode(compressed)});
        let error = UnreadableList::TooLong(MOST_ENTRIES).into();
        assert_eq!(verified(TYP, claims, start()), Err(error));
    }
}
