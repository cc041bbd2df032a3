//! The text of a [`Cursor`]: base64url (RFC 4648 §5) of its numbers as varints (LEB128). The start of
//! the feed is the empty text.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Cursor;
use crate::model::ids::Slot;
use crate::model::name::InvalidName;

impl Cursor {
    /// The most numbers that a cursor holds: one for each shard and one for the ledger as a whole.
    pub const MOST: usize = Slot::COUNT as usize + 1;
}

/// A `u64` takes at most ten bytes of seven bits.
const LONGEST: usize = Cursor::MOST * 10;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(self.0.len() * 2);
        for &number in &self.0 {
            let mut rest = number;
            loop {
                let [low, ..] = rest.to_le_bytes();
                rest >>= 7;
                if rest == 0 {
                    bytes.push(low & 0x7f);
                    break;
                }
                bytes.push(low | 0x80);
            }
        }
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidName::new("cursor", text, "it is the `next` of an earlier answer, or empty");
        if text.len() > LONGEST.div_ceil(3) * 4 {
            return Err(invalid());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| invalid())?;
        numbers(&bytes).map(Self).ok_or_else(invalid)
    }
}

/// The shortest spelling of each number is the only one, so that a cursor has one text.
fn numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    let (mut number, mut shift) = (0u64, 0u32);
    for &byte in bytes {
        let seven = u64::from(byte & 0x7f);
        let placed = seven
            .checked_shl(shift)
            .filter(|placed| placed >> shift == seven)?;
        number |= placed;
        if byte & 0x80 != 0 {
            shift += 7;
            continue;
        }
        if (shift > 0 && seven == 0) || numbers.len() == Cursor::MOST {
            return None;
        }
        numbers.push(number);
        (number, shift) = (0, 0);
    }
    (shift == 0).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_start_is_the_empty_text() {
        assert_eq!(Cursor::default().to_string(), "");
        assert_eq!("".parse(), Ok(Cursor::default()));
    }

    #[test]
    fn refuses_what_it_did_not_print() {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let bad = [
            "=".to_owned(),
            "AA==".to_owned(),
            "ä".to_owned(),
            encode(&[0x80]),                                                       // breaks off
            encode(&[0x80, 0x00]),                                                 // zero in two bytes
            encode(&[0xff; 10]),                                                   // breaks off after ten
            encode(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), // 65 bits
            encode(&vec![0; Cursor::MOST + 1]),
            "A".repeat(1 << 20),
        ];
        for text in bad {
            assert!(text.parse::<Cursor>().is_err(), "{text:.80}");
        }
        assert!(encode(&vec![0; Cursor::MOST]).parse::<Cursor>().is_ok());
    }

    proptest! {
        #[test]
        fn prints_and_reads_any_numbers(numbers in prop::collection::vec(any::<u64>(), 0..80)) {
            let cursor = Cursor(numbers);
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }

        #[test]
        fn has_one_text(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = URL_SAFE_NO_PAD.encode(bytes);
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
