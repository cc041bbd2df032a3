//! The certificate of a listener: read from its files, and read again when they change, or given by SPIFFE's
//! Workload API.
//!
//! A new pair takes the place of the old one for connections to come, whole or not at all: what cannot be used is
//! told in the log, and the pair at hand goes on.

mod agent;

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
use crate::identity::workload_api::WorkloadApi;
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
    source: Source,
    held: Arc<Held>,
    clock: Arc<dyn Clock>,
    wanted: Notify,
}

/// Where pairs come from.
enum Source {
    /// The chain and the key.
    Files(PathBuf, PathBuf),
    Agent(WorkloadApi),
}

/// The pair that new connections get.
#[derive(Debug)]
struct Held(ArcSwap<Pair>);

/// A certificate and its key.
#[derive(Debug)]
struct Pair {
    certified: Arc<CertifiedKey>,
    /// Since when and until when the server's own certificate is good.
    good: (Timestamp, Timestamp),
    /// When the first of the chain runs out.
    expires_at: Timestamp,
    /// Of what it was read from.
    digest: [u8; 32],
}

impl Pair {
    /// A certificate and its key, read from what has this digest. `None` where the server's own certificate cannot be
    /// read.
    fn new(certified: CertifiedKey, digest: [u8; 32]) -> Option<Self> {
        let mut chain = certified.cert.iter().map(|each| validity(each));
        let good = chain.next()??;
        let ends = chain.flatten().map(|(_, until)| until);
        Some(Self {
            good,
            expires_at: ends.fold(good.1, Timestamp::min),
            certified: Arc::new(certified),
            digest,
        })
    }

    /// Whether the server's own certificate is good now. What is above it may have run out: some clients know another
    /// way up.
    fn check_time(&self, now: Timestamp) -> anyhow::Result<()> {
        let (from, until) = self.good;
        if now < from {
            bail!("it is good from {from} on");
        }
        if until <= now {
            bail!("it expired at {until}");
        }
        Ok(())
    }
}

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().certified))
    }
}

impl ServerCertificate {
    /// Reads the files: one that cannot be used is an error; one that is not good now is told in the log, so that what
    /// is to be ended is ended. Or waits for the Workload API to give one, for a while.
    pub async fn open(
        config: &TlsConfig,
        used_for: &'static str,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Self>> {
        let (source, pair) = match &config.certificate {
            CertificateAt::Files { cert_file, key_file } => {
                let pair = read(cert_file, key_file)?;
                if let Err(why) = pair.check_time(clock.now()) {
                    let path = cert_file.display();
                    tracing::error!("clients refuse the certificate in {path}, {why}: replace it");
                }
                (Source::Files(cert_file.clone(), key_file.clone()), pair)
            }
            CertificateAt::WorkloadApi(api) => {
                (Source::Agent(api.clone()), agent::first(api, &*clock).await?)
            }
        };
        Ok(Arc::new(Self {
            used_for,
            source,
            held: Arc::new(Held(ArcSwap::from_pointee(pair))),
            clock,
            wanted: Notify::new(),
        }))
    }

    /// Whether the files can be used and the certificate is good now; until when. An agent is not asked.
    pub fn check(config: &TlsConfig, now: Timestamp) -> anyhow::Result<Option<Timestamp>> {
        match &config.certificate {
            CertificateAt::Files { cert_file, key_file } => {
                let pair = read(cert_file, key_file)?;
                let checked = pair.check_time(now);
                checked.with_context(|| format!("the certificate in {}", cert_file.display()))?;
                Ok(Some(pair.expires_at))
            }
            CertificateAt::WorkloadApi(_) => Ok(None),
        }
    }

    /// TLS with whatever pair is held when a connection comes, and with this demanded of clients.
    pub fn tls(&self, clients: Arc<dyn ClientCertVerifier>) -> anyhow::Result<Tls> {
        let time = Arc::new(Time(Arc::clone(&self.clock)));
        let config = ServerConfig::builder_with_details(Arc::new(default_provider()), time)
            .with_protocol_versions(rustls::ALL_VERSIONS)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&self.held) as Arc<dyn ResolvesServerCert>);
        Ok(Tls::new(self.used_for, config))
    }

    /// Has the files looked at now, or the agent asked anew.
    pub fn look(&self) {
        self.wanted.notify_one();
    }

    /// Keeps the pair fresh until told to stop.
    pub async fn keep(self: Arc<Self>, stop: CancellationToken) {
        match &self.source {
            Source::Files(cert_file, key_file) => self.look_at(cert_file, key_file, stop).await,
            Source::Agent(api) => self.listen_to(api, stop).await,
        }
    }

    async fn look_at(self: &Arc<Self>, cert_file: &Path, key_file: &Path, stop: CancellationToken) {
        let mut told = None;
        loop {
            telemetry::certificate_expires(self.used_for, self.held.0.load().expires_at);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
                () = self.wanted.notified() => told = None,
            }
            let (this, cert_file, key_file) = (Arc::clone(self), cert_file.to_owned(), key_file.to_owned());
            let renewed = tokio::task::spawn_blocking(move || this.renew(&cert_file, &key_file)).await;
            match renewed.map_err(anyhow::Error::from).and_then(|renewed| renewed) {
                Ok(()) => told = None,
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

    /// Reads the files, and takes the pair when it is another one.
    fn renew(&self, cert_file: &Path, key_file: &Path) -> anyhow::Result<()> {
        let taken = self.take(read(cert_file, key_file)?);
        taken.with_context(|| cert_file.display().to_string())
    }

    /// Takes a pair into use when it is another one, and a good one.
    fn take(&self, pair: Pair) -> anyhow::Result<()> {
        if pair.digest == self.held.0.load().digest {
            return Ok(());
        }
        let until = pair.expires_at;
        pair.check_time(self.clock.now())?;
        self.held.0.store(Arc::new(pair));
        tracing::info!(used_for = self.used_for, %until, "a new certificate is in use");
        Ok(())
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
    if !fits(&certified) {
        bail!(
            "{} and {}: the key is not that of the certificate: write both of one pair",
            about(),
            key_file.display()
        );
    }
    let both = Zeroizing::new([cert_pem.as_slice(), &key_pem].concat());
    let both = sha256(&both);
    Pair::new(certified, both).with_context(|| format!("{}: its first certificate cannot be read", about()))
}

/// Since when and until when a certificate is good.
fn validity(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let validity = Parsed::from_der(der).ok()?.tbs_certificate.validity;
    let at = |time: x509_cert::time::Time| Timestamp::from_secs(time.to_unix_duration().as_secs());
    Some((at(validity.not_before), at(validity.not_after)))
}

/// Whether the key is that of the certificate, as far as can be told.
fn fits(certified: &CertifiedKey) -> bool {
    matches!(
        certified.keys_match(),
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown))
    )
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().first_chunk().copied().unwrap_or_default()
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
    use crate::clock::{ManualClock, SystemClock};
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

    async fn open(config: &TlsConfig) -> anyhow::Result<Arc<ServerCertificate>> {
        ServerCertificate::open(config, "server", Arc::new(SystemClock::new())).await
    }

    fn renew(held: &ServerCertificate) -> anyhow::Result<()> {
        let Source::Files(cert_file, key_file) = &held.source else {
            panic!("it has no files");
        };
        held.renew(cert_file, key_file)
    }

    fn leaf(held: &ServerCertificate) -> Vec<u8> {
        held.held.0.load().certified.cert[0].to_vec()
    }

    #[tokio::test]
    async fn a_new_pair_takes_the_place_of_the_old_one_and_a_broken_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (pair(), pair());
        let held = open(&write(&folder, &old)).await.unwrap();
        let first = leaf(&held);
        renew(&held).unwrap();
        assert_eq!(leaf(&held), first, "nothing changed");
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
            let error = format!("{:#}", renew(&held).unwrap_err());
            assert!(error.contains(says), "{error}");
            assert_eq!(leaf(&held), first);
        }
        write(&folder, &new);
        renew(&held).unwrap();
        assert_ne!(leaf(&held), first);
    }

    #[tokio::test]
    async fn a_key_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = write(&folder, &pair());
        let key = folder.path().join("tls.key");
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let error = open(&config).await.err().unwrap().to_string();
        assert!(error.contains("others can read it"), "{error}");
    }

    #[tokio::test]
    async fn an_expired_pair_serves_at_the_start_and_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        certificate.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let expired = (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let config = write(&folder, &expired);
        assert!(open(&config).await.is_ok());
        let held = open(&write(&folder, &pair())).await.unwrap();
        let good = leaf(&held);
        write(&folder, &expired);
        assert!(format!("{:#}", renew(&held).unwrap_err()).contains("2020-01-01"));
        assert_eq!(leaf(&held), good);
    }

    #[tokio::test]
    async fn a_pair_that_is_not_good_yet_replaces_nothing_until_it_is() {
        let (folder, later) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_795_329_000)));
        let key = KeyPair::generate().unwrap();
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let from = clock.now().plus(Duration::from_secs(60));
        certificate.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(from.as_secs());
        let early = (certificate.self_signed(&key).unwrap().pem(), key.serialize_pem());
        let open = async |config: &TlsConfig| {
            let opened = ServerCertificate::open(config, "server", Arc::clone(&clock) as _).await;
            opened.unwrap()
        };
        open(&write(&later, &early)).await; // at the start it serves, and says so
        let held = open(&write(&folder, &pair())).await;
        let good = leaf(&held);
        write(&folder, &early);
        let error = format!("{:#}", renew(&held).unwrap_err());
        assert!(error.contains(&format!("good from {from} on")), "{error}");
        assert_eq!(leaf(&held), good);
        clock.advance(Duration::from_secs(60));
        renew(&held).unwrap();
        assert_ne!(leaf(&held), good);
    }

    #[tokio::test]
    async fn what_runs_out_first_of_a_chain_is_when_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut between = CertificateParams::new(vec![]).unwrap();
        between.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        between.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let between_pem = between.self_signed(&ca_key).unwrap().pem();
        let key = KeyPair::generate().unwrap();
        let mut own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        own.not_after = rcgen::date_time_ymd(2028, 1, 1);
        let issuer = rcgen::Issuer::new(between, ca_key);
        let chain = own.signed_by(&key, &issuer).unwrap().pem() + &between_pem;
        let held = open(&write(&folder, &(chain, key.serialize_pem())))
            .await
            .unwrap();
        let expires_at = held.held.0.load().expires_at;
        assert_eq!(expires_at.to_string(), "2027-01-01T00:00:00.000Z");
    }
}
