//! Token Status Lists (draft-ietf-oauth-status-list, "Token Status List"): a bit, or a few, for each of many
//! tokens, so that whoever holds the list knows of each of them whether it was revoked, without asking about any.
//!
//! Here are the words that tokens and lists are made of, for those who write them and those who read them.
//! Which token has which place is the ledger's to say ([`crate::ledger::status_lists`]).

use std::fmt;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};
use serde::{Deserialize, Serialize};

use super::time::Timestamp;

/// The `typ` of a list that is a JWT (§5.1).
pub const TYP: &str = "statuslist+jwt";
/// Its media type.
pub const MEDIA_TYPE: &str = "application/statuslist+jwt";

/// The hour by the end of which every token of a list is over, counted from 1970.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Hour(pub u32);

impl Hour {
    /// The hour in which this instant falls.
    pub fn of(at: Timestamp) -> Self {
        Self(u32::try_from(at.as_secs() / 3600).unwrap_or(u32::MAX))
    }

    /// The first instant after it.
    pub const fn end(self) -> Timestamp {
        Timestamp::from_secs((self.0 as u64 + 1) * 3600)
    }
}

/// The place of one credential among the status lists. No two credentials ever have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// The hour by the end of which its task is over.
    pub hour: Hour,
    /// Its number in that hour and its shard of the ledger.
    pub number: u32,
}

/// Whether a credential is to be found on a status list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Listing {
    /// It is not, or not any more: its lease has to end.
    #[default]
    Unlisted,
    /// It is to have a place from the step on that writes its lease down.
    Wanted,
    /// It is, here.
    At(Place),
}

/// The `status` of a token: where to look it up (§6.1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// On which list, and where in it.
    pub status_list: Reference,
}

/// One entry of one list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reference {
    /// Which entry, from 0 on.
    pub idx: u64,
    /// Where the list is, and its name: its `sub`.
    pub uri: String,
}

/// The claims of a list (§5.1). Instants are whole seconds (`NumericDate`).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListClaims {
    /// The URI of the list, the same as in the tokens on it.
    pub sub: String,
    /// As of when it is.
    pub iat: u64,
    /// From when on it says nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// After how many seconds a newer one is to be got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    /// The entries.
    pub status_list: Packed,
}

/// The entries of a list as they are sent (§4.2).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Packed {
    /// Bits in an entry: 1, 2, 4 or 8.
    pub bits: u8,
    /// The entries, compressed by DEFLATE in the ZLIB format, as base64url.
    pub lst: String,
    /// Where the addresses of all lists of the issuer are (§9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation_uri: Option<String>,
}

/// What an entry says (§7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenStatus {
    /// 0: the token was not revoked.
    Valid,
    /// 1: it was, for good.
    Invalid,
    /// 2: it must not be relied on for now. Dayfly does not use it: what is ended here does not come back.
    Suspended,
    /// Something else, which is no leave to rely on it.
    Other(u8),
}

impl TokenStatus {
    const fn of(value: u8) -> Self {
        match value {
            0 => Self::Valid,
            1 => Self::Invalid,
            2 => Self::Suspended,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for TokenStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::Invalid => f.write_str("invalid"),
            Self::Suspended => f.write_str("suspended"),
            Self::Other(value) => write!(f, "{value:#04x}"),
        }
    }
}

/// A list that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
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

/// The entries of a list.
#[derive(Clone, PartialEq, Eq)]
pub struct StatusList {
    bits: u8,
    bytes: Vec<u8>,
}

impl StatusList {
    /// Of one bit an entry: the first is the lowest bit of the first byte (§4.1).
    pub const fn of_bits(bytes: Vec<u8>) -> Self {
        Self { bits: 1, bytes }
    }

    /// The entry of this index; `None` past the end.
    pub fn get(&self, index: u64) -> Option<TokenStatus> {
        let in_a_byte = u64::from(8 / self.bits);
        let byte = self.bytes.get(usize::try_from(index / in_a_byte).ok()?)?;
        let shift = u32::try_from(index % in_a_byte).ok()? * u32::from(self.bits);
        let mask = 0xff_u8 >> (8 - self.bits);
        Some(TokenStatus::of((byte >> shift) & mask))
    }

    /// How many entries there are room for.
    pub fn len(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX) * u64::from(8 / self.bits)
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// As it is sent, compressed as far as it goes.
    pub fn pack(&self, aggregation_uri: Option<String>) -> Result<Packed, UnreadableList> {
        let mut compressed = Vec::new();
        ZlibEncoder::new(self.bytes.as_slice(), Compression::best())
            .read_to_end(&mut compressed)
            .map_err(|_| UnreadableList::Encoding)?;
        Ok(Packed {
            bits: self.bits,
            lst: BASE64URL.encode(compressed),
            aggregation_uri,
        })
    }

    /// From what was sent. Refuses more than `most` bytes of entries: a short text can be made to grow
    /// without end.
    pub fn unpack(packed: &Packed, most: usize) -> Result<Self, UnreadableList> {
        if !matches!(packed.bits, 1 | 2 | 4 | 8) {
            return Err(UnreadableList::Bits(packed.bits));
        }
        let compressed = BASE64URL.decode(&packed.lst);
        let compressed = compressed.map_err(|_| UnreadableList::Encoding)?;
        let mut bytes = Vec::new();
        let room = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
        ZlibDecoder::new(compressed.as_slice())
            .take(room)
            .read_to_end(&mut bytes)
            .map_err(|_| UnreadableList::Encoding)?;
        if bytes.len() > most {
            return Err(UnreadableList::TooLong(most));
        }
        Ok(Self {
            bits: packed.bits,
            bytes,
        })
    }
}

impl fmt::Debug for StatusList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StatusList")
            .field("bits", &self.bits)
            .field("entries", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
