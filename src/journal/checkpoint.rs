//! Signed checkpoints: C2SP tlog-checkpoint, the signed statement that a log of so many records has
//! this root.
//!
//! ```text
//! dayfly.example/journal
//! 20852163
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=
//!
//! — dayfly.example/journal Uw2QOkn8srV1…
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::merkle::Hash;
use super::note::{InvalidNote, Note, NoteSigner, NoteVerifier};

/// What a checkpoint says: which log, how many records, and the root over them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The log, by the name of the key that signs for it.
    pub origin: String,
    /// How many records the log had.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The checkpoint with its signature, as it is published.
    pub fn sign(size: u64, root: Hash, signer: &NoteSigner) -> Result<String, InvalidNote> {
        let checkpoint = Self {
            origin: signer.name().to_owned(),
            size,
            root,
        };
        signer.sign(&checkpoint.to_string())
    }

    /// Reads a signed checkpoint. With a key, the signature and the origin must be those of the key;
    /// without one, nothing says who wrote it.
    pub fn open(note: &str, key: Option<&NoteVerifier>) -> Result<Self, InvalidNote> {
        let note: Note = note.parse()?;
        let checkpoint: Self = note.text().parse()?;
        if let Some(key) = key {
            key.verify(&note)?;
            if checkpoint.origin != key.name() {
                return Err(InvalidNote::new(format!(
                    "its origin is `{}`, not `{}`",
                    checkpoint.origin,
                    key.name()
                )));
            }
        }
        Ok(checkpoint)
    }
}

/// The text that is signed.
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin, self.size, self.root)
    }
}

/// From the text that is signed. Extension lines are read over.
impl FromStr for Checkpoint {
    type Err = InvalidNote;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |what| InvalidNote::new(format!("it is no checkpoint: {what}"));
        let text = text
            .strip_suffix('\n')
            .ok_or_else(|| refuse("the last line has no end"))?;
        let mut lines = text.split('\n');
        let origin = lines
            .next()
            .filter(|origin| !origin.is_empty())
            .ok_or_else(|| refuse("no origin"))?;
        let size = lines
            .next()
            .filter(|size| {
                size.bytes().all(|b| b.is_ascii_digit()) && (*size == "0" || !size.starts_with('0'))
            })
            .and_then(|size| size.parse().ok())
            .ok_or_else(|| refuse("no size"))?;
        let root = lines
            .next()
            .and_then(|root| STANDARD.decode(root).ok())
            .and_then(|root| root.try_into().ok())
            .map(Hash)
            .ok_or_else(|| refuse("no root"))?;
        if lines.any(str::is_empty) {
            return Err(refuse("an empty extension line"));
        }
        Ok(Self {
            origin: origin.to_owned(),
            size,
            root,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
    }

    #[test]
    fn signs_what_it_says_and_opens_it_again() {
        let note = Checkpoint::sign(3, Hash::empty(), &signer()).unwrap();
        assert!(note.starts_with(
            "dayfly.test/journal\n3\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u{2014} dayfly.test/journal "
        ));
        let checkpoint = Checkpoint::open(&note, Some(&signer().verifier())).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (3, Hash::empty()));
    }

    #[test]
    fn refuses_another_size_another_key_and_another_origin() {
        let key = signer().verifier();
        let note = Checkpoint::sign(3, Hash::empty(), &signer()).unwrap();
        assert!(Checkpoint::open(&note.replacen("\n3\n", "\n4\n", 1), Some(&key)).is_err());
        assert!(Checkpoint::open(&note.replacen("\n3\n", "\n4\n", 1), None).is_ok());

        let other = NoteSigner::from_seed("dayfly.test/journal", &[8; 32]).unwrap();
        assert!(Checkpoint::open(&note, Some(&other.verifier())).is_err());

        let foreign = Checkpoint {
            origin: "other".into(),
            size: 3,
            root: Hash::empty(),
        };
        let note = signer().sign(&foreign.to_string()).unwrap();
        let error = Checkpoint::open(&note, Some(&key)).unwrap_err().to_string();
        assert_eq!(error, "its origin is `other`, not `dayfly.test/journal`");
    }

    #[test]
    fn refuses_texts_that_are_no_checkpoints() {
        let root = Hash::empty();
        assert!(format!("o\n0\n{root}\nextension\n").parse::<Checkpoint>().is_ok());
        for text in [
            String::new(),
            "o\n".into(),
            format!("\n1\n{root}\n"),
            format!("o\n01\n{root}\n"),
            format!("o\n+1\n{root}\n"),
            format!("o\n\n{root}\n"),
            format!("o\n99999999999999999999\n{root}\n"),
            "o\n1\nAAAA\n".into(),
            format!("o\n1\n{root}"),
            format!("o\n1\n{root}\n\nextension\n"),
        ] {
            assert!(text.parse::<Checkpoint>().is_err(), "{text:?}");
        }
    }
}
