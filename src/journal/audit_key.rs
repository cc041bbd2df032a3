//! The audit key on disk: a PKCS#8 file that only its owner can read, made on first start.
//!
//! It lies beside the journal's configuration and not among the keys that sign tokens, which are all
//! loaded for that purpose.

use std::path::Path;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::JournalError;
use super::note::NoteSigner;
use crate::entropy::{Entropy, draw};
use crate::keys::file::{read_private, write_private};

/// What comes before the seed in the PKCS#8 document of an Ed25519 key (RFC 8410 §7).
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Reads the Ed25519 key from `path`, PKCS#8 as PEM or DER; where there is no file, makes a key and
/// writes it down first. `name` becomes the origin of the journal and must stay the same.
pub fn open(path: &Path, name: &str, entropy: &dyn Entropy) -> Result<NoteSigner, JournalError> {
    let exists = path
        .try_exists()
        .map_err(|error| JournalError::Unavailable(format!("{}: {error}", path.display())))?;
    let unusable = |error: &dyn std::fmt::Display| JournalError::Unavailable(error.to_string());
    let document = if exists {
        Zeroizing::new(read_private(path).map_err(|error| unusable(&error))?)
    } else {
        let seed = Zeroizing::new(draw::<32>(entropy).map_err(|error| unusable(&error))?);
        let document = Zeroizing::new([&PKCS8[..], &*seed].concat());
        write_private(path, &document).map_err(|error| unusable(&error))?;
        document
    };
    let refused = |error: &dyn std::fmt::Display| {
        JournalError::Unavailable(format!("the audit key {}: {error}", path.display()))
    };
    if !document.starts_with(b"-----BEGIN") {
        return NoteSigner::from_pkcs8(name, &document).map_err(|error| refused(&error));
    }
    match PrivateKeyDer::from_pem_slice(&document) {
        Ok(PrivateKeyDer::Pkcs8(der)) => {
            NoteSigner::from_pkcs8(name, der.secret_pkcs8_der()).map_err(|error| refused(&error))
        }
        _ => Err(refused(&"it is no PKCS#8 key (`BEGIN PRIVATE KEY`)")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::entropy::OsEntropy;

    const NAME: &str = "dayfly.test/journal";

    #[test]
    fn makes_a_key_once_and_keeps_it_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        let made = open(&path, NAME, &OsEntropy::new()).unwrap().verifier();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(&path, NAME, &OsEntropy::new()).unwrap().verifier(), made);

        let other = dir.path().join("other.key");
        assert_ne!(open(&other, NAME, &OsEntropy::new()).unwrap().verifier(), made);
    }

    #[test]
    fn reads_the_key_of_rfc_8410_as_pem_and_der() {
        const KEY: &str = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
        // §10.1: the public key is 19bf44096984cdfe…703166e1; here after the type byte of a verifier key.
        const PUBLIC: &str = "ARm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh";
        let dir = tempfile::tempdir().unwrap();
        let der = STANDARD.decode(KEY).unwrap();
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----\n");
        let keys = [("pem", pem.into_bytes()), ("der", der)].map(|(name, bytes)| {
            let path = dir.path().join(name);
            write_private(&path, &bytes).unwrap();
            open(&path, NAME, &OsEntropy::new()).unwrap().verifier()
        });
        assert_eq!(keys[0], keys[1]);
        assert!(keys[0].to_string().ends_with(PUBLIC), "{:?}", keys[0]);
    }

    #[test]
    fn refuses_keys_that_others_can_read_and_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.key");
        open(&path, NAME, &OsEntropy::new()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(open(&path, NAME, &OsEntropy::new()).is_err());

        fs::remove_file(&path).unwrap();
        write_private(&path, b"no key").unwrap();
        assert!(open(&path, NAME, &OsEntropy::new()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"no key", "it is not replaced");
    }
}
