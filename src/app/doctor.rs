//! What is unsafe about the surroundings of a broker, and what does not work: looked at from where it runs, with
//! what it is configured with. Nothing is changed and nothing is made.

mod ledger;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use tokio::net::TcpStream;

use crate::broker::error::chain;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::identity::IdentityConfig;
use crate::config::tls::{CertificateAt, TlsConfig};
use crate::entropy::OsEntropy;
use crate::model::time::Timestamp;

use super::certificate::ServerCertificate;
use super::observe::free;
use super::providers::Ambient;
use super::{identity, providers};

/// Less than this part of a disk left is too little for a journal.
const LEAST_FREE: f64 = 0.1;
/// A certificate that is good for less than this should have been replaced by now.
const SOON: Duration = Duration::from_secs(24 * 3600);
/// How long a collector may take to be there.
const PATIENCE: Duration = Duration::from_secs(3);

/// How it stands with one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// Nobody could say from here.
    Unknown,
    /// It works, and somebody has to decide whether that is good enough.
    Unsafe,
    /// It does not work.
    Broken,
}

/// What was found out about one thing.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Finding {
    /// What was looked at, such as `redis: eviction`.
    pub about: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn fine(about: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            about: about.into(),
            verdict: Verdict::Fine,
            seen: seen.into(),
            remedy: None,
        }
    }

    fn bad(about: impl Into<String>, verdict: Verdict, seen: impl Into<String>, remedy: &str) -> Self {
        Self {
            verdict,
            remedy: Some(remedy.to_owned()),
            ..Self::fine(about, seen)
        }
    }
}

/// Looks at everything.
pub async fn examine(config: &Config, clock: &Arc<dyn Clock>, os_entropy: &OsEntropy) -> Vec<Finding> {
    let mut findings = listeners(config, clock.now()).await;
    findings.extend(trust(&config.identity));
    findings.extend(authorities(config).await);
    findings.extend(ledger::examine(&config.ledger, config.identity.skew, &**clock).await);
    findings.push(disk(&config.journal.dir));
    if let Some(traces) = &config.telemetry.traces {
        findings.push(collector(&traces.endpoint).await);
    }
    match ambient(config, clock, os_entropy) {
        Ok(ambient) => findings.extend(providers_of(config, &ambient).await),
        Err(finding) => findings.push(finding),
    }
    findings
}

/// What providers work with. A broker makes and turns its signing keys; looking does neither, whoever looks.
fn ambient(config: &Config, clock: &Arc<dyn Clock>, os_entropy: &OsEntropy) -> Result<Ambient, Finding> {
    let keys = providers::look_at_keys(config, os_entropy).map_err(|error| {
        let remedy = "the folder of [tokens] holds files of signing keys, readable by Dayfly's user alone";
        Finding::bad("keys", Verdict::Broken, chain(&error), remedy)
    })?;
    let keys = keys.ok_or_else(|| {
        let folder = config.tokens.keys.display();
        let seen = format!("not looked at: there are no signing keys in {folder} yet");
        Finding::bad(
            "providers",
            Verdict::Unsafe,
            seen,
            "start a broker once, and look again",
        )
    })?;
    Ok(Ambient {
        clock: Arc::clone(clock),
        entropy: Arc::new(os_entropy.clone()),
        keys: Arc::new(keys),
    })
}

/// Each listener: a certificate that is good, or that nobody else reaches it.
async fn listeners(config: &Config, now: Timestamp) -> Vec<Finding> {
    let server = &config.server;
    let beside = [
        ("server.tools", &server.tools),
        ("server.operators", &server.operators),
    ];
    let beside = beside.into_iter().filter_map(|(section, listener)| {
        let listener = listener.as_ref()?;
        let tls = listener.tls.as_ref().or(server.tls.as_ref());
        Some((section, listener.listen, tls))
    });
    let mut findings = Vec::new();
    for (section, listen, tls) in
        std::iter::once(("server", server.listen, server.tls.as_ref())).chain(beside)
    {
        let about = format!("listener: [{section}]");
        findings.push(match tls {
            Some(tls) => certificate(about, listen, tls, now).await,
            None => plaintext(about, listen),
        });
    }
    findings
}

fn plaintext(about: String, listen: SocketAddr) -> Finding {
    if listen.ip().is_loopback() {
        let seen = format!("plaintext on {listen}, which only this machine reaches");
        return Finding::fine(about, seen);
    }
    Finding::bad(
        about,
        Verdict::Unsafe,
        format!("plaintext on {listen}: whoever is on the way reads evidence and credentials"),
        "set `cert_file` and `key_file`, or `workload_api`, in [server.tls], or be sure that something encrypts all the \
         way to this process",
    )
}

async fn certificate(about: String, listen: SocketAddr, tls: &TlsConfig, now: Timestamp) -> Finding {
    if let CertificateAt::WorkloadApi(api) = &tls.certificate {
        return match api.svid().await {
            Ok((svid, _)) => {
                let seen = format!(
                    "TLS on {listen}, as {}, until {}, from {api}",
                    svid.id, svid.expires_at
                );
                Finding::fine(about, seen)
            }
            Err(error) => Finding::bad(
                about,
                Verdict::Broken,
                error.to_string(),
                "a broker does not start without its certificate: start the agent, let this user reach its socket, and \
                 register the broker there",
            ),
        };
    }
    let remedy = "replace the certificate: it is taken into use without a restart";
    match ServerCertificate::check(tls, now) {
        Err(error) => Finding::bad(about, Verdict::Broken, format!("{error:#}"), remedy),
        Ok(Some(until)) if until.since(now) < SOON => {
            let seen = format!("its certificate, or one above it, runs out at {until}");
            Finding::bad(about, Verdict::Unsafe, seen, remedy)
        }
        Ok(Some(until)) => Finding::fine(about, format!("TLS on {listen}, by a certificate until {until}")),
        Ok(None) => Finding::fine(about, format!("TLS on {listen}")),
    }
}

/// Nothing is issued without a record.
fn disk(journal: &Path) -> Finding {
    let about = "journal: disk";
    // It is made at the first start.
    let there = journal.ancestors().find(|folder| folder.exists());
    match there.map(free) {
        Some(Ok(part)) if part >= LEAST_FREE => {
            Finding::fine(about, format!("{:.0} % are free", part * 100.0))
        }
        Some(Ok(part)) => Finding::bad(
            about,
            Verdict::Unsafe,
            format!(
                "{:.0} % are free: when it is full nothing is issued",
                part * 100.0
            ),
            "make room, or move segments of the journal that are sealed elsewhere",
        ),
        Some(Err(error)) => unknown(about, &format!("room for the journal ({error})")),
        None => unknown(about, "room for the journal"),
    }
}

/// Whether there is one: what it takes shows only with traces, and looking makes none.
async fn collector(endpoint: &Url) -> Finding {
    let about = "traces: collector";
    let (host, port) = (
        endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']),
        endpoint.port_or_known_default().unwrap_or_default(),
    );
    let reached = tokio::time::timeout(PATIENCE, TcpStream::connect((host, port))).await;
    let broken = |why: String| {
        Finding::bad(
            about,
            Verdict::Broken,
            format!("{host}:{port} does not answer: {why}"),
            "look at `endpoint` in [telemetry.traces] and the way there; until then traces are dropped",
        )
    };
    match reached {
        Ok(Ok(_)) => Finding::fine(about, format!("{host}:{port} answers")),
        Ok(Err(error)) => broken(error.to_string()),
        Err(_) => broken("no answer in time".to_owned()),
    }
}

fn unknown(about: &str, wanted: &str) -> Finding {
    let remedy = "look where it can be seen, with whoever runs it";
    let seen = format!("cannot be asked from here: make sure of {wanted}");
    Finding::bad(about, Verdict::Unknown, seen, remedy)
}

/// Names that examples have, and everybody has the keys of.
fn trust(config: &IdentityConfig) -> Option<Finding> {
    let named = |name: &str| {
        config
            .trust_domains
            .iter()
            .any(|domain| domain.name.as_str() == name)
    };
    named("example.org").then(|| {
        Finding::bad(
            "trust domain: example.org",
            Verdict::Unsafe,
            "this trust domain is that of the examples and of `dayfly dev`, whose keys lie in a folder",
            "use the trust domain of your SPIFFE servers, and bundles that they serve",
        )
    })
}

async fn authorities(config: &Config) -> Vec<Finding> {
    let taken = config.server.takes_client_certificates();
    let svids = taken.then(|| identity::svids(&config.identity)).transpose();
    let built = svids.and_then(|svids| identity::build(&config.identity, svids));
    let verifiers = match built {
        Ok(verifiers) => verifiers,
        Err(error) => {
            let remedy = "`dayfly check` says where";
            return vec![Finding::bad(
                "identity",
                Verdict::Broken,
                format!("{error:#}"),
                remedy,
            )];
        }
    };
    let mut findings = Vec::new();
    for source in verifiers.key_sources() {
        let about = format!("identity: {}", source.authority());
        findings.push(match source.refresh().await {
            Ok(()) => match source.trusted().map_or(0, |keys| keys.len()) {
                0 => Finding::bad(
                    about,
                    Verdict::Broken,
                    "its keys were read, and none of them can be used: nobody is let in by it",
                    "publish keys with a `kid`, for ES256, RS256 or EdDSA",
                ),
                count => Finding::fine(about, format!("{count} keys were read")),
            },
            Err(reason) => Finding::bad(
                about,
                Verdict::Broken,
                reason,
                "until its keys can be read nobody is let in by it: look at the address or the socket, `ca_file`, and the way there",
            ),
        });
    }
    findings
}

async fn providers_of(config: &Config, ambient: &Ambient) -> Vec<Finding> {
    let built = match providers::build(config, ambient) {
        Ok(built) => built,
        Err(error) => {
            let remedy = "`dayfly check` says where";
            return vec![Finding::bad("providers", Verdict::Broken, chain(&error), remedy)];
        }
    };
    let mut findings = Vec::new();
    for (name, provider) in built.iter() {
        let about = format!("provider: {name}");
        findings.push(match provider.look().await {
            Ok(()) => Finding::fine(
                about,
                "it answers, and permits what can be seen without trying it",
            ),
            Err(error) => Finding::bad(
                about,
                Verdict::Broken,
                chain(&error),
                "until this works no tool of it gets a credential",
            ),
        });
    }
    findings
}
