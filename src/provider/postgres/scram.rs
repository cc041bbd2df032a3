//! Passwords, and what a server checks them against: SCRAM-SHA-256 (RFC 5802 §3, RFC 7677) in the
//! form that PostgreSQL keeps. The server is told the verifier, so that no password is ever part of a
//! statement, of a server's log or of its statistics.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use ring::{digest, hmac, pbkdf2};
use zeroize::Zeroizing;

use crate::entropy::{Entropy, NoEntropy, draw};
use crate::model::secret::Secret;

/// The least that RFC 7677 §4 allows, and PostgreSQL's own. A drawn password gains nothing by more.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// What a server needs to check a password. Whoever has it cannot log in with it.
pub(super) struct Verifier(String);

impl Verifier {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A new password of 256 bits in letters that need no escape in a URL, and its verifier.
pub(super) fn password(entropy: &dyn Entropy) -> Result<(Secret, Verifier), NoEntropy> {
    let random = Zeroizing::new(draw::<32>(entropy)?);
    let password = Secret::new(BASE64URL.encode(*random));
    let verifier = verifier(password.expose(), &draw::<16>(entropy)?);
    Ok((password, verifier))
}

/// RFC 5802 §3: `StoredKey` and `ServerKey`. ASCII is its own SASLprep.
fn verifier(password: &str, salt: &[u8]) -> Verifier {
    let mut salted = Zeroizing::new([0; digest::SHA256_OUTPUT_LEN]);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        ITERATIONS,
        salt,
        password.as_bytes(),
        &mut *salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &*salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    Verifier(format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        BASE64.encode(salt),
        BASE64.encode(stored_key),
        BASE64.encode(server_key),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::OsEntropy;

    /// The salt and password of the example in RFC 7677 §3, whose server signature was checked with
    /// the server key that comes out here.
    #[test]
    fn is_the_verifier_of_the_rfc() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = verifier("pencil", &salt);
        let (_, keys) = verifier.as_str().rsplit_once('$').unwrap();
        let (stored_key, server_key) = keys.split_once(':').unwrap();
        assert!(
            verifier
                .as_str()
                .starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
        );

        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
            r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
            c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let sign = |key: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
        let server_signature = sign(&BASE64.decode(server_key).unwrap());
        assert_eq!(
            BASE64.encode(server_signature),
            "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
        );
        let stored_key = BASE64.decode(stored_key).unwrap();
        let proof = BASE64
            .decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
            .unwrap();
        let client_signature = sign(&stored_key);
        let client_key: Vec<u8> = proof
            .iter()
            .zip(client_signature.as_ref())
            .map(|(a, b)| a ^ b)
            .collect();
        assert_eq!(digest::digest(&digest::SHA256, &client_key).as_ref(), stored_key);
    }

    #[test]
    fn draws_each_password_anew_and_prints_none() {
        let entropy = OsEntropy::new();
        let (one, checks_one) = password(&entropy).unwrap();
        let (other, checks_other) = password(&entropy).unwrap();
        assert_ne!(one, other);
        assert_ne!(checks_one.as_str(), checks_other.as_str());
        assert_eq!(one.expose().len(), 43);
        let letter = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        assert!(one.expose().chars().all(letter));
        let quoted = |c: char| c.is_ascii_alphanumeric() || "+/=$:-".contains(c);
        assert!(checks_one.as_str().chars().all(quoted), "needs no escape");
        assert_eq!(format!("{checks_one:?}"), "[redacted]");
    }
}
