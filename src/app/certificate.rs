//! The certificate of a listener: read from its files, and read again when they change.
//!
//! A new pair takes the place of the old one for connections to come, whole or not at all: what cannot be used is
//! told in the log, and the pair at hand goes on.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use ring::digest::{SHA256, digest};
use rustls::InconsistentKeys;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use x509_cert::Certificate as Parsed;
use x509_cert::der::Decode as _;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::tls::{CertificateAt, TlsConfig};
use crate::http::tls::Tls;
use crate::keys::file::read_private;
use crate::model::time::Timestamp;
use crate::telemetry;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The longest chain: 64 KiB.
const LONGEST: u64 = 64 << 10;
/// The most certificates in it.
const MOST: usize = 10;

/// What one listener proves itself with.
pub struct ServerCertificate {
    /// What metrics call it.
    used_for: &'static str,
    files: (PathBuf, PathBuf),
    held: Arc<Held>,
    clock: Arc<dyn Clock>,
    wanted: Notify,
}

/// The pair that new connections get.
#[derive(Debug)]
struct Held(ArcSwap<Pair>);

/// A certificate and its key.
#[derive(Debug)]
struct Pair {
    certified: Arc<CertifiedKey>,
    expires_at: Timestamp,
    /// Of the files that it was read from.
    digest: [u8; 32],
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

impl ServerCertificate {
    /// Reads the files. One that cannot be used is an error; one that has expired is told in the log, so that what is
    /// to be ended is ended.
    pub fn open(
        config: &TlsConfig,
        used_for: &'static str,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Self>> {
        let CertificateAt::Files { cert_file, key_file } = &config.certificate;
        let pair = read(cert_file, key_file)?;
        if pair.expires_at <= clock.now() {
            let path = cert_file.display();
            tracing::error!(
                "the certificate in {path} expired at {}: replace it",
                pair.expires_at
            );
        }
        Ok(Arc::new(Self {
            used_for,
            files: (cert_file.clone(), key_file.clone()),
            held: Arc::new(Held(ArcSwap::from_pointee(pair))),
            clock,
            wanted: Notify::new(),
        }))
    }

    /// TLS with whatever pair is held when a connection comes, and with this demanded of clients.
    pub fn tls(&self, clients: Arc<dyn ClientCertVerifier>) -> anyhow::Result<Tls> {
        let time = Arc::new(Time(Arc::clone(&self.clock)));
        let config = ServerConfig::builder_with_details(Arc::new(default_provider()), time)
            .with_protocol_versions(rustls::ALL_VERSIONS)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&self.held) as Arc<dyn ResolvesServerCert>);
        Ok(Tls::new(config))
    }

    /// Has the files looked at now.
    pub fn look(&self) {
        self.wanted.notify_one();
    }

    /// Looks at the files until told to stop.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut told = None;
        loop {
            telemetry::certificate_expires(self.used_for, self.held.0.load().expires_at);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = self.wanted.notified() => told = None,
            }
            let this = Arc::clone(&self);
            let renewed = tokio::task::spawn_blocking(move || this.renew()).await;
            match renewed.map_err(anyhow::Error::from).and_then(|renewed| renewed) {
                Ok(None) => told = None,
                Ok(Some(until)) => {
                    told = None;
                    tracing::info!(used_for = self.used_for, %until, "a new certificate is in use");
                }
                Err(error) => {
                    // Once, not with each look.
                    let error = format!("{error:#}");
                    if told.as_ref() != Some(&error) {
                        let until = self.held.0.load().expires_at;
                        tracing::error!(used_for = self.used_for, %until, %error, "the new certificate cannot be used, the old one goes on");
                        told = Some(error);
                    }
                }
            }
        }
    }

    /// Reads the files, and takes the pair when it is another one. Says until when it is good.
    fn renew(&self) -> anyhow::Result<Option<Timestamp>> {
        let (cert_file, key_file) = &self.files;
        let pair = read(cert_file, key_file)?;
        if pair.digest == self.held.0.load().digest {
            return Ok(None);
        }
        let until = pair.expires_at;
        if until <= self.clock.now() {
            bail!("{}: it expired at {until}", cert_file.display());
        }
        self.held.0.store(Arc::new(pair));
        Ok(Some(until))
    }
}

fn read(cert_file: &Path, key_file: &Path) -> anyhow::Result<Pair> {
    let (cert_pem, key_pem) = (read_chain(cert_file)?, Zeroizing::new(read_private(key_file)?));
    let about = || cert_file.display().to_string();
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert_pem).collect();
    let chain = chain
        .ok()
        .filter(|chain| (1..=MOST).contains(&chain.len()))
        .with_context(|| {
            format!(
                "{}: it holds no chain of 1 to {MOST} certificates: write them as PEM (`BEGIN CERTIFICATE`), the \
                 server's own first",
                about()
            )
        })?;
    let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
    let leaf = Parsed::from_der(leaf)
        .ok()
        .with_context(|| format!("{}: its first certificate cannot be read", about()))?;
    let expires_at = leaf.tbs_certificate.validity.not_after.to_unix_duration();
    let key = PrivateKeyDer::from_pem_slice(&key_pem)
        .ok()
        .and_then(|key| default_provider().key_provider.load_private_key(key).ok())
        .with_context(|| {
            format!(
                "{}: it holds no private key that can be used: write an ECDSA, RSA or Ed25519 key as PEM \
                 (`BEGIN PRIVATE KEY`)",
                key_file.display()
            )
        })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(_) => bail!(
            "{} and {}: the key is not that of the certificate: write both of one pair",
            about(),
            key_file.display()
        ),
    }
    let both = Zeroizing::new([cert_pem.as_slice(), &key_pem].concat());
    Ok(Pair {
        certified: Arc::new(certified),
        expires_at: Timestamp::from_secs(expires_at.as_secs()),
        digest: digest(&SHA256, &both)
            .as_ref()
            .first_chunk()
            .copied()
            .unwrap_or_default(),
    })
}

fn read_chain(path: &Path) -> anyhow::Result<Vec<u8>> {
    let about = || format!("{} cannot be read", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(about)?;
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .with_context(about)?;
    if bytes.len() as u64 > LONGEST {
        bail!("{}: it is longer than {LONGEST} bytes", path.display());
    }
    Ok(bytes)
}

/// Our clock, for rustls.
struct Time(Arc<dyn Clock>);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let since = Duration::from_millis(self.0.now().as_millis());
        Some(UnixTime::since_unix_epoch(since))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;
    use crate::clock::SystemClock;
    use crate::config::tls::ClientCertificates;

    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn write(folder: &TempDir, (certificate, key): &(String, String)) -> TlsConfig {
        let (cert_file, key_file) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        fs::write(&cert_file, certificate).unwrap();
        fs::write(&key_file, key).unwrap();
        fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
        TlsConfig {
            certificate: CertificateAt::Files { cert_file, key_file },
            client_certificates: ClientCertificates::None,
        }
    }

    fn open(config: &TlsConfig) -> anyhow::Result<Arc<ServerCertificate>> {
        ServerCertificate::open(config, "server", Arc::new(SystemClock::new()))
    }

    fn leaf(held: &ServerCertificate) -> Vec<u8> {
        held.held.0.load().certified.cert[0].to_vec()
    }

    #[test]
    fn a_new_pair_takes_the_place_of_the_old_one_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (pair(), pair());
        let held = open(&write(&folder, &old)).unwrap();
        let first = leaf(&held);
        assert!(held.renew().unwrap().is_none(), "nothing changed");
        for (broken, says) in [
            (
                (new.0.clone(), old.1.clone()),
                "the key is not that of the certificate",
            ),
            ((String::new(), new.1.clone()), "holds no chain"),
            ((new.0.replace("MII", "MIJ"), new.1.clone()), "tls.crt"),
            ((new.0.repeat(MOST + 1), new.1.clone()), "holds no chain"),
            ((new.0.clone(), String::new()), "holds no private key"),
            ((new.0.clone(), new.0.clone()), "holds no private key"),
        ] {
            write(&folder, &broken);
            let error = format!("{:#}", held.renew().unwrap_err());
            assert!(error.contains(says), "{error}");
            assert_eq!(leaf(&held), first);
        }
        write(&folder, &new);
        assert!(held.renew().unwrap().is_some());
        assert_ne!(leaf(&held), first);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(&folder, &pair());
        let key = folder.path().join("tls.key");
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let error = open(&config).err().unwrap().to_string();
        assert!(error.contains("others can read it"), "{error}");
    }

    #[test]
    fn an_expired_pair_serves_at_the_start_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        certificate.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let config = write(&folder, &expired);
        assert!(open(&config).is_ok());
        let held = open(&write(&folder, &pair())).unwrap();
        let good = leaf(&held);
        write(&folder, &expired);
        assert!(format!("{:#}", held.renew().unwrap_err()).contains("2020-01-01"));
        assert_eq!(leaf(&held), good);
    }
}
