//! TLS on a listener: the handshake, bounded in time and in number.
//!
//! Whoever connects may take its time over the handshake, and nobody else pays for it: there are places for
//! many at a time, and when they are taken the one that has been at it for longest is given up. A peer that is in
//! earnest needs two round trips.
//!
//! No session is ever resumed: what was proven in a handshake holds for one connection.

use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::broker::error::BrokerError;
use crate::identity::{Evidence, IdentityError};
use crate::model::time::Timestamp;
use crate::telemetry;

/// Handshakes under way at a time, of one listener.
const MOST_UNDER_WAY: usize = 1000;

/// What the peer of a connection has proven in its handshake. Whether it is worth anything is judged with each
/// request. Once it is worth nothing any more the connection ends, as whoever holds on to one would never prove itself
/// anew.
#[derive(Clone, Debug)]
pub(super) struct Presented {
    evidence: Evidence,
    until: Option<Instant>,
    refused: CancellationToken,
}

impl Presented {
    /// This evidence, of a connection that ends then at the latest.
    pub(super) fn new(evidence: Evidence, until: Option<Instant>) -> Self {
        Self {
            evidence,
            until,
            refused: CancellationToken::new(),
        }
    }

    /// What is judged.
    pub(super) const fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Takes note of what came of judging it. Where that could not be done, it may be worth something yet.
    pub(super) fn judged<T>(&self, outcome: Result<T, BrokerError>) -> Result<T, BrokerError> {
        if let Err(BrokerError::Unidentified(error)) = &outcome
            && !matches!(error, IdentityError::Unavailable(_))
        {
            self.refused.cancel();
        }
        outcome
    }

    /// Whether it is worth nothing any more.
    pub(super) fn is_over(&self) -> bool {
        self.refused.is_cancelled() || self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Waits until it is worth nothing any more.
    pub(super) async fn over(&self) {
        let ran_out = async {
            match self.until {
                Some(until) => sleep_until(until).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.refused.cancelled() => {}
            () = ran_out => {}
        }
    }
}

/// Why hands were not shaken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unshaken {
    /// The peer took its time.
    #[error("it took too long")]
    Late,
    /// The peer took its time, and others came.
    #[error("others were waiting to shake hands")]
    Crowded,
    /// The certificate that the peer presented is not believed.
    #[error("the certificate of the client: {0}")]
    Refused(io::Error),
    /// The peer went away, does not trust us, or speaks something else.
    #[error(transparent)]
    Other(io::Error),
}

impl Unshaken {
    fn of(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(rustls::Error::InvalidCertificate(_)) => Self::Refused(error),
            _ => Self::Other(error),
        }
    }

    /// What metrics call it.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Late => "timeout",
            Self::Crowded => "crowded",
            Self::Refused(_) => "refused",
            Self::Other(_) => "other",
        }
    }
}

/// TLS, as a listener speaks it.
#[derive(Clone)]
pub struct Tls {
    /// What metrics call the listener.
    listener: &'static str,
    acceptor: TlsAcceptor,
    under_way: Arc<UnderWay>,
}

impl Tls {
    /// TLS of this listener, with this certificate and these rules for clients. What is ours to say is said here:
    /// HTTP/2 and HTTP/1.1, and no resumption.
    pub fn new(listener: &'static str, mut config: ServerConfig) -> Self {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Self {
            listener,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            under_way: Arc::default(),
        }
    }

    /// The same for another listener, with places of its own: whoever crowds the one takes none of the other.
    #[must_use]
    pub fn also_for(&self, listener: &'static str) -> Self {
        Self {
            listener,
            acceptor: self.acceptor.clone(),
            under_way: Arc::default(),
        }
    }

    /// Shakes hands, in so much time at most.
    pub(super) async fn shake<S>(&self, stream: S, time: Duration) -> Result<TlsStream<S>, Unshaken>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let place = self.under_way.enter(MOST_UNDER_WAY);
        let shaken = tokio::select! {
            shaken = timeout(time, self.acceptor.accept(stream)) => match shaken {
                Ok(shaken) => shaken.map_err(Unshaken::of),
                Err(_) => Err(Unshaken::Late),
            },
            () = place.given_up.cancelled() => Err(Unshaken::Crowded),
        };
        shaken.inspect_err(|why| telemetry::handshake_failed(self.listener, why.as_str()))
    }

    /// What the peer has presented in the handshake, if anything. A connection ends up to a second before its
    /// certificates do: by the clock that they were judged with, which here counts seconds.
    pub(super) fn presented<S>(&self, stream: &TlsStream<S>) -> Option<Presented> {
        let chain = stream.get_ref().1.peer_certificates()?.to_vec();
        // What is too long to look at did not come through the handshake.
        let evidence = Evidence::chain(chain).ok()?;
        let now = self.acceptor.config().time_provider.current_time();
        let until = now.and_then(|now| {
            let now = Timestamp::from_secs(now.as_secs());
            let left = evidence.first_end(now)?.since(now);
            Instant::now().checked_add(left.saturating_sub(Duration::from_secs(1)))
        });
        Some(Presented::new(evidence, until))
    }
}

/// Handshakes under way, each under its number: the lowest is the oldest.
#[derive(Default)]
struct UnderWay(Mutex<(u64, BTreeMap<u64, CancellationToken>)>);

impl UnderWay {
    /// Takes a place; when there are more than `most`, the oldest loses its own.
    fn enter(self: &Arc<Self>, most: usize) -> Place {
        let given_up = CancellationToken::new();
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, places) = &mut *guard;
        let number = *next;
        *next += 1;
        places.insert(number, given_up.clone());
        if places.len() > most
            && let Some((_, oldest)) = places.pop_first()
        {
            oldest.cancel();
        }
        Place {
            number,
            given_up,
            all: Arc::clone(self),
        }
    }
}

/// The place of one handshake.
struct Place {
    number: u64,
    given_up: CancellationToken,
    all: Arc<UnderWay>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guard = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        guard.1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::client::Resumption;
    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_rustls::TlsConnector;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// A server, and what a client has to know.
    fn server() -> (Tls, RootCertStore) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        (Tls::new("server", config), roots)
    }

    fn client(
        roots: RootCertStore,
        version: &'static SupportedProtocolVersion,
        speaks: &[&str],
    ) -> TlsConnector {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(8);
        config.alpn_protocols = speaks.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(config))
    }

    async fn connect(
        tls: &Tls,
        client: &TlsConnector,
    ) -> (
        Result<TlsStream<DuplexStream>, Unshaken>,
        io::Result<tokio_rustls::client::TlsStream<DuplexStream>>,
    ) {
        let (near, far) = duplex(64 * 1024);
        let name = "localhost".try_into().unwrap();
        tokio::join!(tls.shake(far, SOON), client.connect(name, near))
    }

    #[tokio::test]
    async fn speaks_both_versions_of_http_in_both_of_tls() {
        let (tls, roots) = server();
        for version in [&TLS12, &TLS13] {
            for (speaks, agreed) in [
                (&["h2", "http/1.1"][..], Some("h2")),
                (&["http/1.1"], Some("http/1.1")),
                (&[], None),
            ] {
                let (ours, theirs) = connect(&tls, &client(roots.clone(), version, speaks)).await;
                let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
                assert_eq!(ours.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
                assert_eq!(theirs.get_ref().1.protocol_version(), Some(version.version));
            }
            let (ours, theirs) = connect(&tls, &client(roots.clone(), version, &["smtp"])).await;
            assert!(ours.is_err() && theirs.is_err());
        }
    }

    #[tokio::test]
    async fn no_session_is_resumed() {
        let (tls, roots) = server();
        for version in [&TLS12, &TLS13] {
            let client = client(roots.clone(), version, &["h2"]);
            for _ in 0..3 {
                let (ours, theirs) = connect(&tls, &client).await;
                let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
                assert_eq!(ours.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
                // Tickets come after the handshake, with the first thing that is read.
                ours.write_all(b"x").await.unwrap();
                ours.flush().await.unwrap();
                theirs.read_exact(&mut [0]).await.unwrap();
                assert_eq!(theirs.get_ref().1.tls13_tickets_received(), 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_shake_hands_in_time_is_given_up() {
        let (tls, _) = server();
        for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            let (mut near, far) = duplex(1024);
            near.write_all(beginning).await.unwrap();
            let error = tls.shake(far, SOON).await.err().unwrap();
            assert!(matches!(error, Unshaken::Late), "{error:?}");
        }
        for nonsense in [
            &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
            b"\x16\x03\x01\xff\xff",
            b"\x80\x2e\x01\x00\x02",
        ] {
            let (mut near, far) = duplex(1024);
            near.write_all(nonsense).await.unwrap();
            let error = tls.shake(far, SOON).await.err().unwrap();
            let as_expected =
                matches!(&error, Unshaken::Other(error) if error.kind() == io::ErrorKind::InvalidData);
            assert!(as_expected, "{nonsense:?}: {error:?}");
        }
        assert!(tls.under_way.0.lock().unwrap().1.is_empty());
    }

    #[tokio::test]
    async fn the_oldest_handshake_is_given_up_for_the_newest() {
        let (tls, roots) = server();
        let slow: Vec<_> = (0..MOST_UNDER_WAY).map(|_| duplex(64)).collect();
        let (kept, waiting): (Vec<_>, Vec<_>) = slow.into_iter().unzip();
        let mut slow: Vec<_> = waiting
            .into_iter()
            .map(|stream| Box::pin(tls.shake(stream, SOON)))
            .collect();
        for each in &mut slow {
            assert!(futures_util::poll!(each).is_pending());
        }
        let (ours, theirs) = connect(&tls, &client(roots, &TLS13, &["h2"])).await;
        assert!(ours.is_ok() && theirs.is_ok());
        let given_up = futures_util::poll!(&mut slow[0]);
        assert!(matches!(given_up, std::task::Poll::Ready(Err(Unshaken::Crowded))));
        assert!(futures_util::poll!(&mut slow[1]).is_pending());
        drop((slow, kept));
        assert!(tls.under_way.0.lock().unwrap().1.is_empty());
    }

    #[tokio::test]
    async fn whoever_crowds_one_listener_takes_no_place_of_another() {
        let (agents, roots) = server();
        let operators = agents.also_for("operators");
        let (near, far) = duplex(64 * 1024);
        let mut early = Box::pin(operators.shake(far, SOON));
        assert!(futures_util::poll!(&mut early).is_pending());
        let flood: Vec<_> = (0..=MOST_UNDER_WAY).map(|_| duplex(64)).collect();
        let (kept, waiting): (Vec<_>, Vec<_>) = flood.into_iter().unzip();
        let mut slow: Vec<_> = waiting
            .into_iter()
            .map(|stream| Box::pin(agents.shake(stream, SOON)))
            .collect();
        for each in &mut slow {
            assert!(futures_util::poll!(each).is_pending());
        }
        let crowded = futures_util::poll!(&mut slow[0]);
        assert!(matches!(crowded, std::task::Poll::Ready(Err(Unshaken::Crowded))));
        let client = client(roots, &TLS13, &["h2"]);
        let (ours, theirs) = tokio::join!(early, client.connect("localhost".try_into().unwrap(), near));
        assert!(ours.is_ok() && theirs.is_ok());
        drop((slow, kept));
    }
}
