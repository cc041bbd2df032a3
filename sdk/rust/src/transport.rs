//! HTTP clients, and what an address permits.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{ClientBuilder, Url, redirect};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::ambient;
use crate::error::{Error, Problem};

/// How long connecting may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether nobody but this machine hears what is said to this address.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The file with the only authorities that may vouch for the broker, where the environment names one.
pub(crate) fn ca_file() -> Option<PathBuf> {
    ambient::variable("DAYFLY_CA_FILE").map(PathBuf::from)
}

/// The authorities in a file.
fn authorities(path: &Path) -> Result<RootCertStore, Error> {
    let wrong = |why: &str| Error::invalid(format!("{} {why}", path.display()));
    let pem = fs::read(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let mut roots = RootCertStore::empty();
    let (taken, passed_over) = roots.add_parsable_certificates(certificates.unwrap_or_default());
    if taken == 0 || passed_over > 0 {
        return Err(wrong("does not hold certificates of authorities as PEM"));
    }
    Ok(roots)
}

/// TLS by the provider that the program installed, or ring; nothing is installed for others. None to verify by means
/// that none is spoken.
fn tls(verified: Option<Verified>) -> Result<ClientConfig, rustls::Error> {
    let installed = CryptoProvider::get_default().cloned();
    let provider = installed.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match verified {
        Some(Verified::BySystem) => config.with_platform_verifier()?.with_no_client_auth(),
        Some(Verified::By(roots)) => config.with_root_certificates(roots).with_no_client_auth(),
        None => config
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Who may vouch for a server.
enum Verified {
    /// Whom the system trusts.
    BySystem,
    /// These alone.
    By(RootCertStore),
}

fn build(builder: ClientBuilder, tls: Result<ClientConfig, rustls::Error>) -> Result<reqwest::Client, Error> {
    let broken = |error: &dyn std::fmt::Display| {
        let title = "no HTTP client can be made on this machine";
        Error::Refused(Problem::here("no-client", title, error.to_string()))
    };
    let builder = builder
        .tls_backend_preconfigured(tls.map_err(|error| broken(&error))?)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("dayfly-client/", env!("CARGO_PKG_VERSION"), " (rust)"));
    builder.build().map_err(|error| broken(&error))
}

/// A client for whoever takes evidence: it follows no redirect, and no proxy comes between this machine and itself.
/// Where a file of authorities is named, they alone may vouch for it.
pub(crate) fn for_broker(
    url: &Url,
    timeout: Duration,
    proxies: bool,
    ca_file: Option<&Path>,
) -> Result<reqwest::Client, Error> {
    let mut builder = ClientBuilder::new()
        .timeout(timeout)
        .redirect(redirect::Policy::none());
    if is_loopback(url) || !proxies {
        builder = builder.no_proxy();
    }
    // Plain HTTP needs no certificates, and a small container may have none.
    let verified = match (url.scheme(), ca_file) {
        ("https", Some(file)) => Some(Verified::By(authorities(file)?)),
        ("https", None) => Some(Verified::BySystem),
        _ => None,
    };
    build(builder, tls(verified))
}

/// Clients for tools. Where one follows a redirect to another origin it takes no credential along.
#[derive(Clone)]
pub(crate) struct Tools {
    /// By the proxies of the environment.
    far: reqwest::Client,
    /// No proxy comes between this machine and itself.
    near: reqwest::Client,
}

impl Tools {
    pub(crate) fn new() -> Result<Self, Error> {
        let tls = || tls(Some(Verified::BySystem)).or_else(|_| tls(None));
        Ok(Self {
            far: build(ClientBuilder::new(), tls())?,
            near: build(ClientBuilder::new().no_proxy(), tls())?,
        })
    }

    /// This client, wherever it goes.
    pub(crate) fn only(client: reqwest::Client) -> Self {
        Self {
            far: client.clone(),
            near: client,
        }
    }

    /// For the tool at this URL.
    pub(crate) fn at(&self, url: &Url) -> &reqwest::Client {
        match is_loopback(url) {
            true => &self.near,
            false => &self.far,
        }
    }

    /// To make requests with, which another may send.
    pub(crate) fn any(&self) -> &reqwest::Client {
        &self.far
    }
}

/// What went wrong on the way, without the address, which others may read.
pub(crate) fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let (outer, inner) = (error.to_string(), innermost.to_string());
    match outer == inner {
        true => outer,
        false => format!("{outer}: {inner}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_and_nothing_that_sounds_like_it() {
        for (url, loopback) in [
            ("http://127.0.0.1:8440", true),
            ("http://127.8.0.1", true),
            ("http://[::1]:8440", true),
            ("http://localhost:8440", true),
            ("http://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("http://10.0.0.1", false),
            ("https://dayfly.example.org", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), loopback, "{url}");
        }
    }

    #[test]
    fn clients_are_made_without_a_provider_for_the_process() {
        assert!(CryptoProvider::get_default().is_none());
        let url = "https://dayfly.example.org".parse().unwrap();
        assert!(Tools::new().is_ok());
        // Without certificates on this machine an `https` broker cannot be verified, and nothing panics.
        let _either = for_broker(&url, CONNECT_TIMEOUT, true, None);
        assert!(CryptoProvider::get_default().is_none(), "and none is installed");
    }

    #[test]
    fn a_file_of_authorities_that_cannot_be_used_is_an_error_where_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (file, none) = (folder.path().join("ca.pem"), folder.path().join("none.pem"));
        fs::write(
            &file,
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let build = |url: &str, file: &Path| {
            let built = for_broker(&url.parse().unwrap(), CONNECT_TIMEOUT, true, Some(file));
            built.map(drop)
        };
        for bad in [&file, &none] {
            let refused = build("https://dayfly.example.org", bad).unwrap_err();
            assert!(matches!(refused, Error::InvalidRequest(_)), "{refused:?}");
            assert!(
                build("http://127.0.0.1:8440", bad).is_ok(),
                "nothing is verified there"
            );
        }
    }
}
