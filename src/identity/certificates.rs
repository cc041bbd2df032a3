//! X.509-SVIDs: what a certificate has to say (SPIFFE X509-SVID §2 to §5), and which authorities vouch for it.
//!
//! A chain is judged by the authorities of one trust domain, never by those of another. Names of hosts count for
//! nothing.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL};
use ring::digest::{Context, SHA256};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use webpki::{EndEntityCert, KeyUsage as Purpose, anchor_from_trusted_cert};
use x509_cert::der::oid::db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH};
use x509_cert::der::{Decode as _, Reader as _, SliceReader};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};
use x509_cert::{Certificate, TbsCertificate};

use super::IdentityError;
use super::claims::{Skew, refused};
use crate::model::lease::VouchingKey;
use crate::model::spiffe::{SpiffeId, TrustDomain};
use crate::model::time::Timestamp;

/// The most authorities of a trust domain.
const MOST: usize = 64;

/// An authority of a trust domain: a certificate that signs X.509-SVIDs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Authority {
    anchor: TrustAnchor<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Why a chain is not believed.
#[derive(Debug)]
pub(super) enum Unbelieved {
    /// No authority that is held vouches for it. One that is not held yet may.
    Unvouched,
    /// Whatever the authorities are.
    For(IdentityError),
}

impl From<IdentityError> for Unbelieved {
    fn from(error: IdentityError) -> Self {
        Self::For(error)
    }
}

impl Authority {
    /// The authorities in a SPIFFE bundle (SPIFFE Trust Domain and Bundle §4.2), and how many entries were passed over.
    pub(super) fn all(json: &[u8], domain: &str) -> Result<(Vec<Self>, usize), String> {
        #[derive(Deserialize)]
        struct Bundle<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let bundle: Bundle<'_> =
            serde_json::from_slice(json).map_err(|_| "it is no JSON object with an array `keys`")?;
        let (mut authorities, mut passed_over) = (Vec::new(), 0);
        for entry in bundle.keys {
            // Each by itself: what is odd about one says nothing about the others.
            let entry: Value = serde_json::from_str(entry.get()).unwrap_or_default();
            if entry.get("use").and_then(Value::as_str) != Some("x509-svid") {
                continue;
            }
            let der = match entry.get("x5c").and_then(Value::as_array).map(Vec::as_slice) {
                Some([Value::String(only)]) => BASE64.decode(only).ok(),
                _ => None,
            };
            match der.and_then(|der| Self::of(&der, domain)) {
                Some(authority) if authorities.len() < MOST => authorities.push(authority),
                _ => passed_over += 1,
            }
        }
        Ok((authorities, passed_over))
    }

    fn of(der: &[u8], domain: &str) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let about = &certificate.tbs_certificate;
        signs(about, domain, true).ok()?;
        let (not_before, not_after) = validity(about);
        let der = CertificateDer::from(der);
        Some(Self {
            anchor: anchor_from_trusted_cert(&der).ok()?.to_owned(),
            not_before,
            not_after,
        })
    }

    /// By what leases remember it: its name and its key, so that a certificate that was only renewed is the same.
    pub(super) fn vouching(&self, domain: &str) -> VouchingKey {
        let mut digest = Context::new(&SHA256);
        digest.update(&self.anchor.subject);
        digest.update(&self.anchor.subject_public_key_info);
        VouchingKey::of(domain, "x509", &BASE64URL.encode(digest.finish()))
    }
}

/// Who a certificate says that the workload is. Nothing vouches for it yet.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) id: SpiffeId,
    not_before: Timestamp,
    pub(super) not_after: Timestamp,
    skew: Duration,
}

impl Leaf {
    /// Reads the certificate of a workload, by the rules for leaves (X509-SVID §4 and Appendix A). The skew excuses
    /// that it, or what vouches for it, is not good yet.
    pub(super) fn read(der: &[u8], skew: Skew) -> Result<Self, IdentityError> {
        let unreadable = |_| IdentityError::Malformed("the certificate cannot be read".into());
        let certificate = Certificate::from_der(der).map_err(unreadable)?;
        let about = &certificate.tbs_certificate;
        let names = uris(about)?;
        let [name] = names.as_slice() else {
            return Err(refused(format!(
                "the certificate has {} URI SANs; an X.509-SVID has exactly one",
                names.len()
            )));
        };
        let id = name
            .parse()
            .map_err(|_| refused("the URI SAN of the certificate is not the SPIFFE ID of a workload"))?;
        if about
            .get::<BasicConstraints>()
            .map_err(twice)?
            .is_some_and(|(_, constraints)| constraints.ca)
        {
            return Err(refused("the certificate is that of an authority"));
        }
        match about.get::<KeyUsage>().map_err(twice)? {
            Some((true, usage)) if usage.digital_signature() => {
                if usage.key_cert_sign() || usage.crl_sign() {
                    return Err(refused(
                        "the key of the certificate may sign certificates or lists",
                    ));
                }
            }
            _ => {
                return Err(refused(
                    "the certificate has no critical key usage with `digitalSignature`",
                ));
            }
        }
        if let Some((_, usage)) = about.get::<ExtendedKeyUsage>().map_err(twice)?
            && ![ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH]
                .iter()
                .all(|needed| usage.0.contains(needed))
        {
            return Err(refused(
                "the extended key usage of the certificate lacks server or client authentication",
            ));
        }
        let (not_before, not_after) = validity(about);
        Ok(Self {
            id,
            not_before,
            not_after,
            skew: skew.as_duration(),
        })
    }

    /// Whether the certificate is good now.
    pub(super) fn check_time(&self, now: Timestamp) -> Result<(), IdentityError> {
        if now.plus(self.skew) < self.not_before {
            return Err(IdentityError::Untimely(format!(
                "the certificate is good from {} on",
                self.not_before
            )));
        }
        if now >= self.not_after {
            return Err(IdentityError::Untimely(format!(
                "the certificate expired at {}",
                self.not_after
            )));
        }
        Ok(())
    }

    /// Who of the authorities of its trust domain vouches for it, by this chain, and until when all of the chain is
    /// good.
    pub(super) fn vouched(
        &self,
        chain: &[CertificateDer<'_>],
        authorities: &[Authority],
        now: Timestamp,
    ) -> Result<(VouchingKey, Timestamp), Unbelieved> {
        let Some((leaf, intermediates)) = chain.split_first() else {
            return Err(IdentityError::Missing.into());
        };
        let domain = self.id.trust_domain();
        let ahead = now.plus(self.skew);
        let good = authorities
            .iter()
            .filter(|authority| authority.not_before <= ahead && now < authority.not_after);
        let good: Vec<&Authority> = good.collect();
        let anchors: Vec<TrustAnchor<'_>> = good.iter().map(|authority| authority.anchor.clone()).collect();
        let leaf = EndEntityCert::try_from(leaf).map_err(|error| believed(&error))?;
        let verify = |at: Timestamp| {
            leaf.verify_for_usage(
                default_provider().signature_verification_algorithms.all,
                &anchors,
                intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(at.as_secs())),
                Purpose::client_auth(),
                None,
                None,
            )
        };
        // Whoever is not good yet may be so by the clock of the authority; whoever is not good then has expired.
        let path = match verify(now) {
            Err(webpki::Error::CertNotValidYet { .. }) => verify(ahead),
            verified => verified,
        };
        let path = path.map_err(|error| believed(&error))?;
        let mut until = self.not_after;
        for between in path.intermediate_certificates() {
            let between = Certificate::from_der(&between.der());
            let between = between.map_err(|_| refused("a certificate of the chain cannot be read"))?;
            signs(&between.tbs_certificate, domain.as_str(), false)?;
            until = until.min(validity(&between.tbs_certificate).1);
        }
        let anchor = path.anchor();
        let authority = good.iter().find(|authority| authority.anchor == *anchor);
        let authority = authority.ok_or(Unbelieved::Unvouched)?;
        Ok((
            authority.vouching(domain.as_str()),
            until.min(authority.not_after),
        ))
    }
}

/// The rules for certificates that sign others (X509-SVID §4.1 to §4.3, §5.1). Of what was configured, the key usage
/// may be missing.
fn signs(about: &TbsCertificate, domain: &str, configured: bool) -> Result<(), IdentityError> {
    let constraints = about.get::<BasicConstraints>().map_err(twice)?;
    if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
        return Err(refused("a certificate of the chain is not that of an authority"));
    }
    match about.get::<KeyUsage>().map_err(twice)? {
        Some((_, usage)) if usage.key_cert_sign() => {}
        None if configured => {}
        _ => return Err(refused("a certificate of the chain may not sign certificates")),
    }
    match uris(about)?.as_slice() {
        [] => Ok(()),
        [name] if *name == format!("spiffe://{domain}") => Ok(()),
        _ => Err(refused(
            "a certificate of the chain is of another trust domain, or of a workload",
        )),
    }
}

/// Certificates in DER, one after the other. `None` where that is not what they are.
pub(super) fn split(der: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    if der.is_empty() {
        return Some(Vec::new());
    }
    let (mut reader, mut found) = (SliceReader::new(der).ok()?, Vec::new());
    while !reader.is_finished() {
        found.push(CertificateDer::from(reader.tlv_bytes().ok()?));
    }
    Some(found)
}

fn uris(about: &TbsCertificate) -> Result<Vec<String>, IdentityError> {
    let names = about.get::<SubjectAltName>().map_err(twice)?;
    let names = names.map(|(_, names)| names.0).unwrap_or_default();
    let names = names.into_iter().filter_map(|name| match name {
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        _ => None,
    });
    Ok(names.collect())
}

fn validity(about: &TbsCertificate) -> (Timestamp, Timestamp) {
    let at = |time: &x509_cert::time::Time| Timestamp::from_secs(time.to_unix_duration().as_secs());
    (at(&about.validity.not_before), at(&about.validity.not_after))
}

/// When a certificate runs out.
pub(super) fn end(der: &[u8]) -> Option<Timestamp> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(validity(&certificate.tbs_certificate).1)
}

fn twice(_: x509_cert::der::Error) -> IdentityError {
    IdentityError::Malformed("an extension of the certificate cannot be read, or stands there twice".into())
}

fn believed(error: &webpki::Error) -> Unbelieved {
    match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => Unbelieved::Unvouched,
        webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => Unbelieved::For(
            IdentityError::Untimely("a certificate of its chain is not good now".into()),
        ),
        other => Unbelieved::For(refused(format!(
            "its chain of certificates does not hold: {other}"
        ))),
    }
}

/// The trust domain of a certificate that says that it is one's, for messages.
pub(super) fn nobody(domain: &TrustDomain) -> IdentityError {
    refused(format!(
        "no authority of `{domain}` that is trusted vouches for the certificate"
    ))
}
