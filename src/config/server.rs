//! `[server]`: where Dayfly listens, what it is called, and how much it takes on at a time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use reqwest::Url;

use crate::model::document::Section;

use super::read::{Base, duration_within, is_loopback, is_plain, within};
use super::tls::{self, TlsConfig};

/// How Dayfly serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How it proves who it is; none means plaintext, and that TLS is ended in front of it.
    pub tls: Option<TlsConfig>,
    /// Its address for everybody else, and the `iss` of its tokens: no trailing slash, no query.
    pub public_url: String,
    /// Whether plaintext may be spoken to other machines.
    pub danger_plaintext_listen: bool,
    /// The largest request body, in bytes.
    pub body_limit: usize,
    /// How many requests are worked on at the same time; the rest is told to come back.
    pub max_concurrent_requests: NonZeroUsize,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// How long requests and revocations may take to finish at shutdown.
    pub drain_timeout: Duration,
}

const PORT: u16 = 8440;
const CONCURRENT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> ServerConfig {
    let listen = section.or("listen", SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT));
    let danger = section.or("danger_plaintext_listen", false);
    let tls = tls::read(section, base);
    if tls.is_none() && !danger && !listen.ip().is_loopback() {
        section.blame(
            "listen",
            format!("other machines can reach {listen}, and it speaks plaintext"),
            "give it a certificate in `[server.tls]`, or listen on 127.0.0.1 behind a proxy that speaks TLS, or \
             accept plaintext: `danger_plaintext_listen = true`",
        );
    }
    ServerConfig {
        listen,
        public_url: public_url(section, listen, tls.is_some(), danger),
        tls,
        danger_plaintext_listen: danger,
        body_limit: within(section, "body_limit", 64 * 1024, 4 * 1024, 1024 * 1024),
        max_concurrent_requests: section.or("max_concurrent_requests", CONCURRENT),
        request_timeout: duration_within(section, "request_timeout", 10, 300),
        drain_timeout: duration_within(section, "drain_timeout", 20, 600),
    }
}

/// The name that everybody knows Dayfly by. On this machine alone, the address itself will do.
fn public_url(section: &mut Section<'_>, listen: SocketAddr, tls: bool, danger: bool) -> String {
    let help =
        "write the https address that workloads and tools use: `public_url = \"https://dayfly.example.org\"`";
    if !section.has("public_url") {
        if !listen.ip().is_loopback() {
            section.blame("public_url", "it is missing", help);
        }
        let scheme = if tls { "https" } else { "http" };
        return format!("{scheme}://{listen}");
    }
    let Some(text) = section.optional::<String>("public_url") else {
        return String::new();
    };
    let valid = Url::parse(&text).is_ok_and(|url| {
        is_plain(&url)
            && url.query().is_none()
            && (url.scheme() == "https" || (url.scheme() == "http" && (danger || is_loopback(&url))))
    });
    if !valid || text.ends_with('/') {
        section.blame("public_url", "it cannot be the name of an issuer", help);
    }
    text
}
