//! `[server]`: where Dayfly listens, what it is called, and how much it takes on at a time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use reqwest::Url;

use crate::model::document::Section;

use super::read::{Base, duration_within, is_loopback, is_plain, optional_within, within};
use super::tls::{self, ClientCertificates, TlsConfig};

/// How Dayfly serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How it proves who it is; none means plaintext, and that TLS is ended in front of it.
    pub tls: Option<TlsConfig>,
    /// Where resource servers are served alone; none means on `listen`.
    pub tools: Option<ListenerConfig>,
    /// Where operators are served alone; none means on `listen`.
    pub operators: Option<ListenerConfig>,
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
    /// How long it goes on taking requests when told to stop, while it says that it is not ready.
    pub stop_delay: Duration,
    /// How long requests and revocations may take to finish at shutdown.
    pub drain_timeout: Duration,
}

impl ServerConfig {
    /// Whether any listener asks clients for certificates.
    pub fn takes_client_certificates(&self) -> bool {
        self.certificates()
            .any(|tls| tls.client_certificates == ClientCertificates::Optional)
    }

    /// The certificates of all listeners.
    pub fn certificates(&self) -> impl Iterator<Item = &TlsConfig> {
        let beside = [&self.tools, &self.operators].into_iter().flatten();
        self.tls
            .iter()
            .chain(beside.filter_map(|listener| listener.tls.as_ref()))
    }
}

/// A listener beside the first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// A certificate of its own; none means that of the first listener, if it has one.
    pub tls: Option<TlsConfig>,
}

const PORT: u16 = 8440;
const CONCURRENT: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

pub(super) fn read(section: &mut Section<'_>, base: Base<'_>) -> ServerConfig {
    let listen = section.or("listen", SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT));
    let danger = section.or("danger_plaintext_listen", false);
    let tls = tls::read(section, base);
    encrypted(section, listen, tls.is_some() || danger);
    let mut taken = vec![listen];
    let mut beside = |key: &'static str| {
        let other = listener(section, key, tls.is_some() || danger, base)?;
        taken.push(other.listen);
        if other.listen.port() != 0 && taken.iter().filter(|address| **address == other.listen).count() > 1 {
            section.blame(
                key,
                format!("another listener is on {}", other.listen),
                "give each an address of its own, or leave the section out",
            );
        }
        Some(other)
    };
    let (tools, operators) = (beside("tools"), beside("operators"));
    ServerConfig {
        tools,
        operators,
        listen,
        public_url: public_url(section, listen, tls.is_some(), danger),
        tls,
        danger_plaintext_listen: danger,
        body_limit: within(section, "body_limit", 64 * 1024, 4 * 1024, 1024 * 1024),
        max_concurrent_requests: section.or("max_concurrent_requests", CONCURRENT),
        request_timeout: duration_within(section, "request_timeout", 10, 300),
        stop_delay: optional_within(section, "stop_delay", 300).unwrap_or_default(),
        drain_timeout: duration_within(section, "drain_timeout", 20, 600),
    }
}

/// A listener beside the first.
fn listener(
    section: &mut Section<'_>,
    key: &'static str,
    accepted: bool,
    base: Base<'_>,
) -> Option<ListenerConfig> {
    if !section.has(key) {
        return None;
    }
    let mut section = section.section(key);
    let help = "write where it listens: `listen = \"127.0.0.1:8450\"`, or leave the section out";
    let listen = section.required("listen", help);
    let tls = tls::read(&mut section, base);
    let listen = listen?;
    encrypted(&section, listen, tls.is_some() || accepted);
    Some(ListenerConfig { listen, tls })
}

/// Refuses an address that other machines can reach in plaintext, unless that was accepted.
fn encrypted(section: &Section<'_>, listen: SocketAddr, accepted: bool) {
    if !accepted && !listen.ip().is_loopback() {
        section.blame(
            "listen",
            format!("other machines can reach {listen}, and it speaks plaintext"),
            "give it a certificate in `[server.tls]`, or listen on 127.0.0.1 behind a proxy that speaks TLS, or \
             accept plaintext: `danger_plaintext_listen = true` in [server]",
        );
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
