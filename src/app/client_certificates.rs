//! Certificates of clients: what a handshake demands of them. One that is presented has to be an X.509-SVID of a
//! trust domain that is configured; none has to be presented.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::broker::measure;
use crate::identity::IdentityError;
use crate::identity::x509_svid::X509Svid;
use crate::model::time::Timestamp;

/// Judges certificates of clients by the bundles as they are at that moment.
pub(super) struct ClientSvids {
    svids: Arc<X509Svid>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientSvids {
    pub(super) fn new(svids: Arc<X509Svid>) -> Self {
        Self {
            svids,
            algorithms: default_provider().signature_verification_algorithms,
        }
    }
}

impl fmt::Debug for ClientSvids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSvids")
    }
}

impl ClientCertVerifier for ClientSvids {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // whoever asks learns nothing about who is trusted
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = [end_entity]
            .into_iter()
            .chain(intermediates)
            .map(|each| CertificateDer::from(each.as_ref()))
            .collect();
        let error = match self.svids.judge(&chain, Timestamp::from_secs(now.as_secs())) {
            // Requests are told that the bundle cannot be had, and when to come again.
            Ok(()) | Err(IdentityError::Unavailable(_)) => return Ok(ClientCertVerified::assertion()),
            Err(error) => error,
        };
        measure::refused_evidence(&error);
        tracing::debug!(%error, "the certificate of a client was refused");
        Err(match error {
            IdentityError::Untimely(_) => CertificateError::Expired,
            IdentityError::Malformed(_) => CertificateError::BadEncoding,
            _ => CertificateError::UnknownIssuer,
        }
        .into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
