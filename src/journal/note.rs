//! Signed notes (C2SP signed-note): a text, a blank line, and signature lines; the keys that sign them.
//!
//! The audit key signs checkpoints and receipts ([`super::receipt`]), and is not the key that signs tokens:
//! who can mint cannot rewrite what was minted. Neither of the two can be taken for the other: the text of a
//! note ends in a newline, and the signing input of a JWS (RFC 7515 §5.1) has none. C2SP signed-note allows
//! a key such a second use "if domain separation can be ensured".

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::merkle::sha256;
use crate::keys::Algorithm;
use crate::keys::jwk::Jwk;

/// The type byte of an Ed25519 key, the only kind that is written or checked here.
const ED25519_TYPE: u8 = 0x01;
/// What every signature line starts with: an em dash and a space.
const DASH: &str = "\u{2014} ";
const MOST_BYTES: usize = 65_536;
const MOST_SIGNATURES: usize = 64;

/// Why a note, a checkpoint or a verifier key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidNote(String);

impl InvalidNote {
    /// A refusal with its reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// The first four bytes of `SHA-256(name || 0x0A || type || public key)`: tells keys of one name apart.
fn key_id(name: &str, public: &[u8]) -> [u8; 4] {
    let named = [name.as_bytes(), b"\n", &[ED25519_TYPE], public].concat();
    let [a, b, c, d, ..] = sha256(&named).0;
    [a, b, c, d]
}

fn check_name(name: &str) -> Result<(), InvalidNote> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.len() > 256 || name.contains(bad) {
        return Err(InvalidNote::new(
            "the name of the audit key is 1 to 256 bytes without spaces, control characters or `+`, such as `dayfly.example/journal`",
        ));
    }
    Ok(())
}

/// Signs notes with an Ed25519 key. Its name is the origin of the log.
#[derive(Clone)]
pub struct NoteSigner {
    name: String,
    id: [u8; 4],
    key: Arc<Ed25519KeyPair>,
}

impl NoteSigner {
    /// The signer with this name and this PKCS#8 document (RFC 5958, version 1 or 2).
    pub fn from_pkcs8(name: &str, document: &[u8]) -> Result<Self, InvalidNote> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(document)
            .map_err(|_| InvalidNote::new("the audit key is no PKCS#8 document with an Ed25519 key"))?;
        Self::new(name, key)
    }

    /// The signer with this name and this seed (RFC 8032 §5.1.5), for tests.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, InvalidNote> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| InvalidNote::new("the seed of the audit key was refused"))?;
        Self::new(name, key)
    }

    fn new(name: &str, key: Ed25519KeyPair) -> Result<Self, InvalidNote> {
        check_name(name)?;
        let id = key_id(name, key.public_key().as_ref());
        Ok(Self {
            name: name.to_owned(),
            id,
            key: Arc::new(key),
        })
    }

    /// The name of the key, and the origin of the log that it signs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key: with its name it tells the key from every other.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// What checks the signatures. Auditors need it, so it is published.
    pub fn verifier(&self) -> NoteVerifier {
        NoteVerifier {
            name: self.name.clone(),
            id: self.id,
            public: self.key.public_key().as_ref().to_vec(),
        }
    }

    /// The note with this text and one signature. The text ends in a newline.
    pub fn sign(&self, text: &str) -> Result<String, InvalidNote> {
        check_text(text)?;
        let signature = self.key.sign(text.as_bytes());
        let line = STANDARD.encode([&self.id, signature.as_ref()].concat());
        Ok(format!("{text}\n{DASH}{} {line}\n", self.name))
    }

    /// The signature on the signing input of a JWS: base64url and dots, so never the text of a note.
    pub(super) fn sign_jws(&self, input: &str) -> Result<[u8; 64], InvalidNote> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if !input.bytes().all(fits) {
            return Err(InvalidNote::new("it is no signing input of a JWS"));
        }
        let signature = self.key.sign(input.as_bytes());
        let bytes = signature.as_ref().try_into();
        bytes.map_err(|_| InvalidNote::new("an Ed25519 signature has 64 bytes"))
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner")
            .field("verifier", &self.verifier())
            .finish_non_exhaustive()
    }
}

/// Checks notes. Its text form is a verifier key, `<name>+<key id>+<base64(0x01 || public key)>`.
#[derive(Clone, PartialEq, Eq)]
pub struct NoteVerifier {
    name: String,
    id: [u8; 4],
    public: Vec<u8>,
}

impl NoteVerifier {
    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the key: with its name it tells the key from every other.
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The public key as a JWK (RFC 8037 §2), for those who verify receipts with a library of their own.
    pub fn jwk(&self) -> Jwk {
        Jwk {
            kty: "OKP".to_owned(),
            use_: Some("sig".to_owned()),
            key_ops: None,
            alg: Some(Algorithm::EdDsa.as_str().to_owned()),
            kid: Some(format!("{:08x}", u32::from_be_bytes(self.id))),
            crv: Some("Ed25519".to_owned()),
            x: Some(BASE64URL.encode(&self.public)),
            y: None,
            n: None,
            e: None,
        }
    }

    /// Whether this key signed the note. Signatures of other keys are not looked at.
    pub fn verify(&self, note: &Note) -> Result<(), InvalidNote> {
        let key = UnparsedPublicKey::new(&ED25519, &self.public);
        let mut mine = note
            .signatures
            .iter()
            .filter(|signature| signature.name == self.name && signature.id == self.id)
            .peekable();
        if mine.peek().is_none() {
            return Err(InvalidNote::new(format!("it is not signed by `{self}`")));
        }
        if mine.all(|signature| key.verify(note.text.as_bytes(), &signature.bytes).is_ok()) {
            Ok(())
        } else {
            Err(InvalidNote::new(format!("the signature of `{self}` is wrong")))
        }
    }
}

impl fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ED25519_TYPE], &*self.public].concat());
        write!(f, "{}+{:08x}+{key}", self.name, u32::from_be_bytes(self.id))
    }
}

impl fmt::Debug for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NoteVerifier {
    type Err = InvalidNote;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || {
            InvalidNote::new("not a verifier key: `<name>+<key id>+<base64>` of an Ed25519 key is asked for")
        };
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(refuse());
        };
        check_name(name)?;
        let key = STANDARD.decode(key).map_err(|_| refuse())?;
        let public = match key.split_first() {
            Some((&ED25519_TYPE, public)) if public.len() == 32 => public.to_vec(),
            _ => return Err(refuse()),
        };
        let expected = key_id(name, &public);
        if id != format!("{:08x}", u32::from_be_bytes(expected)) {
            return Err(InvalidNote::new(
                "the key id of the verifier key does not fit its name and key; copy it whole",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            id: expected,
            public,
        })
    }
}

/// A note that was parsed; its signatures are not checked yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Signature {
    name: String,
    id: [u8; 4],
    bytes: Vec<u8>,
}

impl Note {
    /// What was signed, with the newline at its end.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn check_text(text: &str) -> Result<(), InvalidNote> {
    let bad = |c: char| c < ' ' && c != '\n';
    if text.is_empty() || !text.ends_with('\n') || text.contains(bad) {
        return Err(InvalidNote::new(
            "the text of a note ends in a newline and has no control characters",
        ));
    }
    Ok(())
}

impl FromStr for Note {
    type Err = InvalidNote;

    fn from_str(note: &str) -> Result<Self, Self::Err> {
        if note.len() > MOST_BYTES {
            return Err(InvalidNote::new("it is larger than any checkpoint"));
        }
        let (text, lines) = note
            .rsplit_once("\n\n")
            .ok_or_else(|| InvalidNote::new("it has no signatures"))?;
        let text = format!("{text}\n");
        check_text(&text)?;
        let lines = lines
            .strip_suffix('\n')
            .ok_or_else(|| InvalidNote::new("it does not end in a newline"))?;
        let signatures = lines
            .split('\n')
            .take(MOST_SIGNATURES)
            .map(signature)
            .collect::<Option<_>>()
            .ok_or_else(|| InvalidNote::new("it has a malformed signature line"))?;
        Ok(Self { text, signatures })
    }
}

fn signature(line: &str) -> Option<Signature> {
    let (name, bytes) = line.strip_prefix(DASH)?.split_once(' ')?;
    check_name(name).ok()?;
    let bytes = STANDARD.decode(bytes).ok()?;
    let (&id, bytes) = bytes.split_first_chunk()?;
    (!bytes.is_empty()).then(|| Signature {
        name: name.to_owned(),
        id,
        bytes: bytes.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of C2SP signed-note.
    const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
    const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

    fn signer() -> NoteSigner {
        NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
    }

    #[test]
    fn checks_the_example_of_the_specification() {
        let verifier: NoteVerifier = KEY.parse().unwrap();
        let note: Note = NOTE.parse().unwrap();
        assert_eq!(verifier.to_string(), KEY);
        assert_eq!(note.text(), "This is an example message.\n");
        assert_eq!(verifier.verify(&note), Ok(()));

        let changed: Note = NOTE.replace("an example", "no example").parse().unwrap();
        assert!(
            verifier
                .verify(&changed)
                .unwrap_err()
                .to_string()
                .contains("wrong")
        );
    }

    #[test]
    fn what_it_signs_it_verifies_and_others_do_not() {
        let note: Note = signer().sign("one\n\ntwo\n").unwrap().parse().unwrap();
        assert_eq!(note.text(), "one\n\ntwo\n");
        assert_eq!(signer().verifier().verify(&note), Ok(()));

        let other: NoteVerifier = KEY.parse().unwrap();
        assert!(
            other
                .verify(&note)
                .unwrap_err()
                .to_string()
                .contains("not signed by")
        );
        let same_name = NoteSigner::from_seed("dayfly.test/journal", &[8; 32]).unwrap();
        assert!(same_name.verifier().verify(&note).is_err());
    }

    #[test]
    fn signatures_of_unknown_keys_are_ignored_and_a_second_wrong_one_is_not() {
        let (mine, other) = (signer(), NoteSigner::from_seed("witness", &[9; 32]).unwrap());
        let line = |note: String| note.split_once("\n\n").unwrap().1.to_owned();
        let note = mine.sign("text\n").unwrap();
        let cosigned: Note = format!("{note}{}", line(other.sign("text\n").unwrap()))
            .parse()
            .unwrap();
        assert_eq!(mine.verifier().verify(&cosigned), Ok(()));
        assert_eq!(other.verifier().verify(&cosigned), Ok(()));

        let twice: Note = format!("{note}{}", line(mine.sign("other\n").unwrap()))
            .parse()
            .unwrap();
        assert!(mine.verifier().verify(&twice).is_err());
    }

    #[test]
    fn refuses_notes_and_keys_that_are_not_well_formed() {
        for note in [
            "",
            "text\n",
            "text\n\n",
            NOTE.trim_end(),
            &NOTE.replace('\u{2014}', "-"),
            &NOTE.replace("message.", "mes\u{7}sage."),
            &NOTE.replace("IneyaQM=", "IneyaQM"),
            &format!("{NOTE}\n"),
            &format!("{}{NOTE}", "a".repeat(MOST_BYTES)),
        ] {
            assert!(note.parse::<Note>().is_err(), "{note}");
        }
        for key in [
            "",
            "example.com/foo",
            &KEY.replace("530d903a", "530d903b"),
            &KEY.replace("530d903a", "530D903A"),
            &KEY.replace("foo", "fo o"),
            &KEY.replace("+Aek", "+Bek"),
            &KEY.replace("3U2k", ""),
        ] {
            assert!(key.parse::<NoteVerifier>().is_err(), "{key}");
        }
        assert!(NoteSigner::from_seed("a+b", &[0; 32]).is_err());
        assert!(signer().sign("no newline").is_err());
        assert!(!format!("{:?}", signer()).contains("key:"));
    }
}
