//! What is unsafe about the surroundings of a broker, and what does not work: looked at from where it runs, with
//! what it is configured with. Nothing is changed and nothing is made.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::error::chain;
use crate::clock::Clock;
use crate::config::Config;
use crate::config::identity::IdentityConfig;
use crate::config::ledger::{LedgerConfig, LedgerKind, RedisConfig, RedisMode};
use crate::entropy::OsEntropy;
use crate::ledger::redis::survey::Survey;

use super::providers::Ambient;
use super::{identity, ledger, providers};

/// How it stands with one thing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
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
    let mut findings = vec![listener(config)];
    findings.extend(trust(&config.identity));
    findings.extend(authorities(&config.identity).await);
    findings.extend(ledger_of(&config.ledger, config.identity.skew, &**clock).await);
    match ambient(config, clock, os_entropy) {
        Ok(ambient) => findings.extend(providers_of(config, &ambient).await),
        Err(finding) => findings.push(finding),
    }
    findings
}

/// What providers work with. A broker makes its signing keys, and looking makes nothing.
fn ambient(config: &Config, clock: &Arc<dyn Clock>, os_entropy: &OsEntropy) -> Result<Ambient, Finding> {
    let folder = &config.tokens.keys;
    if !std::fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some()) {
        let seen = format!(
            "not looked at: there are no signing keys in {} yet",
            folder.display()
        );
        return Err(Finding::bad(
            "providers",
            Verdict::Unsafe,
            seen,
            "start a broker once, and look again",
        ));
    }
    let keys = providers::open_keys(config, os_entropy, clock.now());
    let keys = keys.map_err(|error| {
        let remedy = "the folder of [tokens] holds files of signing keys, readable by Dayfly's user alone";
        Finding::bad("keys", Verdict::Broken, chain(&error), remedy)
    })?;
    Ok(Ambient {
        clock: Arc::clone(clock),
        entropy: Arc::new(os_entropy.clone()),
        keys: Arc::new(keys),
    })
}

fn listener(config: &Config) -> Finding {
    let server = &config.server;
    let listen = server.listen;
    if server.tls.is_some() {
        return Finding::fine("listener", format!("TLS on {listen}"));
    }
    if listen.ip().is_loopback() {
        return Finding::fine(
            "listener",
            format!("plaintext on {listen}, which only this machine reaches"),
        );
    }
    Finding::bad(
        "listener",
        Verdict::Unsafe,
        format!("plaintext on {listen}: whoever is on the way reads evidence and credentials"),
        "set `cert_file` and `key_file` in [server.tls], or be sure that something encrypts all the way to this process",
    )
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

async fn authorities(config: &IdentityConfig) -> Vec<Finding> {
    let verifiers = match identity::build(config, None) {
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
                "until its keys can be read nobody is let in by it: look at the address, `ca_file`, and the way there",
            ),
        });
    }
    findings
}

async fn ledger_of(config: &LedgerConfig, skew: Duration, clock: &dyn Clock) -> Vec<Finding> {
    let redis = match &config.kind {
        LedgerKind::Embedded { path } => {
            let seen = format!("embedded, in {}: for one broker and no other", path.display());
            return vec![Finding::fine("ledger", seen)];
        }
        LedgerKind::Redis(redis) => redis,
    };
    let before = clock.now();
    let survey = match ledger::survey(config, redis).await {
        Ok(survey) => survey,
        Err(error) => {
            return vec![Finding::bad(
                "redis",
                Verdict::Broken,
                format!("{error:#}"),
                "look at `urls`, `username`, `password_file` and `ca_file` in [ledger.redis]",
            )];
        }
    };
    let after = clock.now();
    let mut findings = vec![eviction(&survey), persistence(&survey)];
    findings.extend(replication(redis, &survey));
    findings.push(login(&survey));
    findings.push(encryption(redis));
    if let Some(time) = survey.time {
        findings.push(clocks(time, before.as_millis(), after.as_millis(), skew));
    }
    findings
}

fn eviction(survey: &Survey) -> Finding {
    match survey.eviction.as_deref() {
        Some("noeviction") => Finding::fine("redis: eviction", "noeviction"),
        Some(policy) => Finding::bad(
            "redis: eviction",
            Verdict::Unsafe,
            format!(
                "`maxmemory-policy {policy}`: Redis forgets leases when its memory is full, and nobody ends them"
            ),
            "CONFIG SET maxmemory-policy noeviction, and the same in its configuration",
        ),
        None => unknown("redis: eviction", "maxmemory-policy noeviction"),
    }
}

fn persistence(survey: &Survey) -> Finding {
    let about = "redis: persistence";
    match (survey.appends, survey.syncs.as_deref()) {
        (Some(true), Some("no")) => Finding::bad(
            about,
            Verdict::Unsafe,
            "`appendfsync no`: a crash of its machine loses what the system had not written",
            "set `appendfsync everysec` or `always`",
        ),
        (Some(true), Some(syncs)) => Finding::fine(about, format!("append-only file, synced {syncs}")),
        (Some(true), None) => Finding::fine(about, "append-only file"),
        (Some(false), _) => Finding::bad(
            about,
            Verdict::Unsafe,
            "no append-only file: after a restart Redis is empty or old, which is a lost ledger",
            "set `appendonly yes`",
        ),
        (None, _) => unknown(about, "appendonly yes"),
    }
}

fn replication(config: &RedisConfig, survey: &Survey) -> Option<Finding> {
    if config.mode == RedisMode::Cluster || (config.mode == RedisMode::Single && survey.replicas == Some(0)) {
        return None;
    }
    let about = "redis: replication";
    Some(match (survey.least_replicas, survey.replicas) {
        (Some(0), _) => Finding::bad(
            about,
            Verdict::Unsafe,
            "`min-replicas-to-write 0`: a primary that is cut off goes on answering, and a failover forgets what it answered",
            "set `min-replicas-to-write 1`",
        ),
        (Some(least), Some(replicas)) if replicas < least => Finding::bad(
            about,
            Verdict::Broken,
            format!("{replicas} replicas follow, and {least} have to: Redis takes no writes"),
            "start the replicas, or look why they do not follow",
        ),
        (Some(least), replicas) => {
            let replicas = replicas.unwrap_or_default();
            Finding::fine(about, format!("{replicas} replicas follow, {least} have to"))
        }
        (None, _) => unknown(about, "min-replicas-to-write 1"),
    })
}

fn login(survey: &Survey) -> Finding {
    match survey.user.as_deref() {
        Some("default") => Finding::bad(
            "redis: user",
            Verdict::Unsafe,
            "the user `default`: whoever reaches this Redis as it may write what is live and what is not",
            "make an ACL user for Dayfly alone, on its prefix, and turn `default` off",
        ),
        Some(user) => Finding::fine("redis: user", user),
        None => unknown("redis: user", "an ACL user of its own"),
    }
}

fn encryption(config: &RedisConfig) -> Finding {
    let plain = config
        .urls
        .iter()
        .find(|url| !url.starts_with("rediss://") && !is_local(url));
    match plain {
        None => Finding::fine("redis: way", "encrypted, or on this machine"),
        Some(url) => Finding::bad(
            "redis: way",
            Verdict::Unsafe,
            format!("{url}: whoever is on the way reads and changes what is live"),
            "use `rediss://`, with `ca_file`",
        ),
    }
}

fn is_local(url: &str) -> bool {
    let url = reqwest::Url::parse(url).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Brokers and Redis compare nothing by each other's clocks; but a machine whose clock is off refuses evidence that
/// is good, and takes what is over.
fn clocks(theirs: u64, before: u64, after: u64, skew: Duration) -> Finding {
    // It was read at some time between the two.
    let off = Duration::from_millis(before.saturating_sub(theirs).max(theirs.saturating_sub(after)));
    match off > skew {
        false => Finding::fine("clock", format!("with that of Redis, to {} ms", off.as_millis())),
        true => Finding::bad(
            "clock",
            Verdict::Unsafe,
            format!(
                "{} s from that of Redis: more than `identity.skew` excuses",
                off.as_secs()
            ),
            "keep the clocks of all machines by NTP",
        ),
    }
}

fn unknown(about: &str, wanted: &str) -> Finding {
    Finding::fine(about, format!("cannot be asked here: make sure of `{wanted}`"))
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
        findings.push(match provider.preflight().await {
            Ok(()) => Finding::fine(about, "it can make credentials and end them"),
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
