//! Private keys in files: a directory of PKCS#8 keys, PEM or DER, that nobody but the owner can read.
//!
//! A file is written beside its place, synced and renamed, so that a crash leaves the old state or
//! the new one. A file that others can read is refused: it is no longer known who has the key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use zeroize::Zeroizing;

use super::ring_keys::{RingSigner, generate_pkcs8};
use super::{Algorithm, KeyError, Signer as _};
use crate::entropy::OsEntropy;

/// The longest key file: 16 KiB. An RSA key of 4096 bits takes about 3.
const LONGEST: u64 = 16 << 10;
/// The most key files in a directory.
const MOST: usize = 64;

/// A directory of private keys.
#[derive(Debug)]
pub struct KeyDirectory {
    path: PathBuf,
    entropy: OsEntropy,
}

impl KeyDirectory {
    /// The directory, made with mode 0700 where there is none. Refuses one that others can write to.
    pub fn open(path: &Path, entropy: &OsEntropy) -> Result<Self, KeyError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| unusable(path, &e))?;
        let mode = fs::metadata(path)
            .map_err(|e| unusable(path, &e))?
            .permissions()
            .mode();
        if mode & 0o022 != 0 {
            let reason = format!("others can write to it: `chmod 700 {}`", path.display());
            return Err(unusable(path, &reason));
        }
        Ok(Self {
            path: path.to_owned(),
            entropy: entropy.clone(),
        })
    }

    /// A path in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Every key, the files `*.pem` and `*.der`, in the order of their names. One bad file is an
    /// error: a key that is silently not used surprises later.
    pub fn keys(&self) -> Result<Vec<(PathBuf, RingSigner)>, KeyError> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| unusable(&self.path, &e))? {
            let path = entry.map_err(|e| unusable(&self.path, &e))?.path();
            let hidden = path
                .file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|e| e == "pem" || e == "der") {
                paths.push(path);
            }
        }
        if paths.len() > MOST {
            return Err(unusable(&self.path, &format!("it holds more than {MOST} keys")));
        }
        paths.sort();
        paths
            .into_iter()
            .map(|path| read_key(&path, &self.entropy).map(|key| (path, key)))
            .collect()
    }

    /// Makes a key and writes it down, named by its thumbprint, before it is given out.
    pub fn create(&self, algorithm: Algorithm) -> Result<RingSigner, KeyError> {
        let der = generate_pkcs8(algorithm, &self.entropy)?;
        let key = RingSigner::from_pkcs8(&der, &self.entropy)?;
        write_private(&self.file(&format!("{}.pem", key.key_id())), pem(&der).as_bytes())?;
        Ok(key)
    }
}

/// Reads one PKCS#8 key, PEM or DER, from a file that only its owner can read.
pub fn read_key(path: &Path, entropy: &OsEntropy) -> Result<RingSigner, KeyError> {
    let bytes = Zeroizing::new(read_private(path)?);
    let key = if bytes.starts_with(b"-----BEGIN") {
        match PrivateKeyDer::from_pem_slice(&bytes) {
            Ok(PrivateKeyDer::Pkcs8(der)) => RingSigner::from_pkcs8(der.secret_pkcs8_der(), entropy),
            _ => {
                return Err(unusable(
                    path,
                    &"it is no plain PKCS#8 key (`BEGIN PRIVATE KEY`): convert it with `openssl pkcs8 -topk8 -nocrypt`",
                ));
            }
        }
    } else {
        RingSigner::from_pkcs8(&bytes, entropy)
    };
    key.map_err(|e| match e {
        KeyError::Unusable { reason, .. } => unusable(path, &reason),
        other => other,
    })
}

/// Whether a file with this mode and owner is read by nobody whom its owner did not choose. A file of root's may be
/// read by its group: so Kubernetes and package managers hand keys to a user without rights.
fn is_private(mode: u32, owner: u32, me: u32) -> bool {
    let closed = if owner == 0 && me != 0 { 0o037 } else { 0o077 };
    mode & closed == 0
}

/// Reads a file that only its owner can read. The opened file is looked at, not the name.
pub fn read_private(path: &Path) -> Result<Vec<u8>, KeyError> {
    let file = File::open(path).map_err(|e| unusable(path, &e))?;
    let meta = file.metadata().map_err(|e| unusable(path, &e))?;
    if !meta.is_file() {
        return Err(unusable(path, &"it is no file"));
    }
    if !is_private(meta.mode(), meta.uid(), rustix::process::geteuid().as_raw()) {
        let reason = format!(
            "others can read it: replace the key, or `chmod 600 {}`",
            path.display()
        );
        return Err(unusable(path, &reason));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| unusable(path, &e))?;
    if bytes.len() as u64 > LONGEST {
        return Err(unusable(path, &format!("it is longer than {LONGEST} bytes")));
    }
    Ok(bytes)
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let write = || -> io::Result<()> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let beside = parent.join(format!(".{}.tmp", name.to_string_lossy()));
        match fs::remove_file(&beside) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(|e| unusable(path, &e))
}

/// PKCS#8 in PEM (RFC 7468 §10).
fn pem(der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / 64 + 64));
    text.push_str("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

pub(super) fn unusable(path: &Path, reason: &dyn std::fmt::Display) -> KeyError {
    KeyError::Unusable {
        key: path.display().to_string(),
        reason: reason.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, KeyDirectory) {
        let temp = tempfile::tempdir().unwrap();
        let keys = KeyDirectory::open(&temp.path().join("keys"), &OsEntropy::new()).unwrap();
        (temp, keys)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_read_again_and_nobody_else_can_read_it() {
        let (_temp, keys) = directory();
        for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
            let made = keys.create(algorithm).unwrap();
            let path = keys.file(&format!("{}.pem", made.key_id()));
            let read = read_key(&path, &OsEntropy::new()).unwrap();
            assert_eq!((read.key_id(), read.algorithm()), (made.key_id(), algorithm));
            assert_eq!((mode(&path), mode(&keys.path)), (0o600, 0o700));
        }
        assert_eq!(keys.keys().unwrap().len(), 3);
        assert!(keys.create(Algorithm::Rs256).is_err(), "ring makes no RSA keys");
    }

    #[test]
    fn refuses_a_key_that_others_can_read_and_says_how_to_go_on() {
        let (_temp, keys) = directory();
        let made = keys.create(Algorithm::Es256).unwrap();
        let path = keys.file(&format!("{}.pem", made.key_id()));
        for open in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            let error = keys.keys().unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&keys.path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(KeyDirectory::open(&keys.path, &OsEntropy::new()).is_err());
    }

    #[test]
    fn roots_files_may_be_read_by_their_group() {
        for (mode, owner, me, private) in [
            (0o400, 1000, 1000, true),
            (0o600, 0, 0, true),
            (0o640, 1000, 1000, false),
            (0o640, 0, 0, false),
            (0o440, 0, 65532, true),
            (0o640, 0, 65532, true),
            (0o660, 0, 65532, false),
            (0o644, 0, 65532, false),
            (0o440, 1000, 65532, false),
        ] {
            assert_eq!(is_private(mode, owner, me), private, "{mode:o} {owner} {me}");
        }
    }

    #[test]
    fn reads_der_and_refuses_what_is_no_plain_pkcs8_without_quoting_it() {
        let (_temp, keys) = directory();
        let der = generate_pkcs8(Algorithm::EdDsa, &OsEntropy::new()).unwrap();
        write_private(&keys.file("a.der"), &der).unwrap();
        assert_eq!(keys.keys().unwrap().len(), 1);
        let sec1 = pem(&der).replace("PRIVATE KEY", "EC PRIVATE KEY");
        let cut = pem(&der[..der.len() - 1]);
        for text in [sec1.as_str(), cut.as_str(), "secret-text", ""] {
            write_private(&keys.file("b.pem"), text.as_bytes()).unwrap();
            let error = keys.keys().unwrap_err().to_string();
            assert!(
                error.contains("b.pem") && !error.contains("secret-text"),
                "{error}"
            );
        }
        let long = vec![b'a'; usize::try_from(LONGEST).unwrap() + 1];
        write_private(&keys.file("b.pem"), &long).unwrap();
        assert!(keys.keys().unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn half_written_files_are_neither_read_nor_in_the_way() {
        let (_temp, keys) = directory();
        fs::write(keys.file(".a.pem.tmp"), "half").unwrap();
        assert!(keys.keys().unwrap().is_empty());
        let der = generate_pkcs8(Algorithm::Es256, &OsEntropy::new()).unwrap();
        write_private(&keys.file("a.pem"), pem(&der).as_bytes()).unwrap();
        assert_eq!(keys.keys().unwrap().len(), 1);
        assert!(!keys.file(".a.pem.tmp").exists());
    }
}
