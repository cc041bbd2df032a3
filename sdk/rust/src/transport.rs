//! HTTP clients, and what an address permits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{ClientBuilder, Url, redirect};
use rustls::ClientConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls_platform_verifier::BuilderVerifierExt as _;

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

/// TLS by the provider that the program installed, or ring; nothing is installed for others.
fn tls(verified: bool) -> Result<ClientConfig, rustls::Error> {
    let installed = CryptoProvider::get_default().cloned();
    let provider = installed.unwrap_or_else(|| Arc::new(ring::default_provider()));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = match verified {
        true => config.with_platform_verifier()?.with_no_client_auth(),
        false => config
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
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
pub(crate) fn for_broker(url: &Url, timeout: Duration, proxies: bool) -> Result<reqwest::Client, Error> {
    let mut builder = ClientBuilder::new()
        .timeout(timeout)
        .redirect(redirect::Policy::none());
    if is_loopback(url) || !proxies {
        builder = builder.no_proxy();
    }
    // Plain HTTP needs no certificates, and a small container may have none.
    build(builder, tls(url.scheme() == "https"))
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
        let tls = || tls(true).or_else(|_| tls(false));
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
        let _either = for_broker(&url, CONNECT_TIMEOUT, true);
        assert!(CryptoProvider::get_default().is_none(), "and none is installed");
    }
}
