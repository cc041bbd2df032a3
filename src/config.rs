//! Floor 5: configuration, valid by construction.
//!
//! `dayfly.toml` is read once, as a whole, into a [`Config`] in which every value is checked, every
//! default is filled in and every path is absolute or below the file's own directory. What is wrong
//! is said all at once, with file, line, column and remedy; an unknown key is an error, because a
//! mistyped limit would otherwise be no limit. Secrets are never in it: only the names of their files.
//!
//! One file a section: what it holds and how it is read stand together.

pub mod fit;
pub mod identity;
pub mod journal;
pub mod ledger;
pub mod providers;
mod read;
pub mod reaper;
pub mod reconciler;
pub mod schema;
pub mod server;
pub mod signals;
pub mod status_lists;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod tokens;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::document::environment::{self, Override};
use crate::model::document::problem::Problems;
use crate::model::document::{Document, Section};
use crate::registry::files::read_text;

use identity::IdentityConfig;
use journal::JournalConfig;
use ledger::LedgerConfig;
use providers::ProviderConfig;
use read::{Base, duration_within, within};
use reaper::ReaperConfig;
use reconciler::ReconcilerConfig;
use server::ServerConfig;
use signals::SignalsConfig;
use status_lists::StatusListsConfig;
use tasks::TasksConfig;
use telemetry::TelemetryConfig;
use tokens::TokensConfig;

/// The largest configuration file, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// Everything that Dayfly is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `[server]`
    pub server: ServerConfig,
    /// `[identity]`
    pub identity: IdentityConfig,
    /// `[registry]`
    pub registry: RegistryConfig,
    /// `[policy]`
    pub policy: PolicyConfig,
    /// `[tasks]`
    pub tasks: TasksConfig,
    /// `[tokens]`
    pub tokens: TokensConfig,
    /// `[ledger]`
    pub ledger: LedgerConfig,
    /// `[journal]`
    pub journal: JournalConfig,
    /// `[reaper]`
    pub reaper: ReaperConfig,
    /// `[reconciler]`
    pub reconciler: ReconcilerConfig,
    /// `[status_lists]`
    pub status_lists: StatusListsConfig,
    /// `[telemetry]`
    pub telemetry: TelemetryConfig,
    /// `[signals]`
    pub signals: SignalsConfig,
    /// `[[provider]]`, at least one, each name once.
    pub providers: Vec<ProviderConfig>,
}

/// Where agents and tools are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryConfig {
    /// The directory with one file for each agent.
    pub agents: PathBuf,
    /// The directory with one file for each tool.
    pub tools: PathBuf,
}

/// Where policies are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyConfig {
    /// The directories with `*.cedar` files, at least one.
    pub dirs: Vec<PathBuf>,
    /// The directories with policies in the shadow of those: asked and not obeyed. None is none.
    pub shadow_dirs: Vec<PathBuf>,
    /// How often the files of policies, agents and tools are looked at; none when they are not.
    pub watch: Option<Duration>,
    /// How many live leases other rules may end without somebody accepting it.
    pub blast_radius: u64,
}

/// Reads a configuration file, and what the environment says of secrets in its place
/// ([`environment`]).
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = read_text(path, LARGEST_FILE)
        .map_err(|problem| problem.help("name the file with `--config`, or copy `config/dayfly.toml`"))?;
    let base = path.parent().unwrap_or(Path::new(""));
    let over = environment::overrides(std::env::vars_os())?;
    over_with(&path.display().to_string(), base, &text, over)
}

/// Reads the text of a configuration file, and nothing of the environment. Relative paths are below `base`.
pub fn parse(file: &str, base: &Path, text: &str) -> Result<Config, Problems> {
    over_with(file, base, text, Vec::new())
}

fn over_with(file: &str, base: &Path, text: &str, over: Vec<Override>) -> Result<Config, Problems> {
    let document = Document::new(file, text).over(over);
    let config = document.root().and_then(|root| config(root, Base(base)));
    document.finish(config)
}

fn config(mut root: Section<'_>, base: Base<'_>) -> Option<Config> {
    let server = server::read(&mut root.section("server"), base);
    let identity = identity::read(&mut root.section("identity"), &server.public_url, base);
    if server.takes_client_certificates() && identity.trust_domains.is_empty() {
        root.blame(
            "server",
            "certificates of clients are asked for, and no trust domain is configured that could vouch for them",
            "add an `[[identity.trust_domain]]`, or leave `client_certificates` out",
        );
    }
    let registry = registry(&mut root.section("registry"), base);
    let policy = policy(&mut root.section("policy"), base);
    let tasks = tasks::read(&mut root.section("tasks"));
    let ledger = ledger::read(&mut root.section("ledger"), base);
    let tokens = tokens::read(&mut root.section("tokens"), ledger.retention, base);
    let journal = journal::read(&mut root.section("journal"), &server.public_url, base);
    let reaper = reaper::read(&mut root.section("reaper"));
    let reconciler = reconciler::read(&mut root.section("reconciler"));
    let status_lists = status_lists::read(&mut root.section("status_lists"));
    let telemetry = telemetry::read(&mut root.section("telemetry"), base);
    let around = signals::Around {
        public_url: &server.public_url,
        retention: ledger.retention,
        longest_task: tasks.max_deadline,
    };
    let signals = signals::read(&mut root.section("signals"), around, base);
    let providers = providers::read(root.sections("provider"), base);
    Some(Config {
        server,
        identity,
        registry,
        policy,
        tasks,
        tokens,
        ledger,
        journal,
        reaper,
        reconciler,
        status_lists,
        telemetry,
        signals,
        providers,
    })
}

fn registry(section: &mut Section<'_>, base: Base<'_>) -> RegistryConfig {
    RegistryConfig {
        agents: base.path(section, "agents", "agents"),
        tools: base.path(section, "tools", "tools"),
    }
}

fn policy(section: &mut Section<'_>, base: Base<'_>) -> PolicyConfig {
    let dirs = section
        .list("dirs")
        .unwrap_or_else(|| vec![PathBuf::from("policies")]);
    if dirs.is_empty() {
        section.blame(
            "dirs",
            "it is empty",
            "name at least one directory: `dirs = [\"policies\"]`",
        );
    }
    PolicyConfig {
        dirs: dirs.iter().map(|dir| base.join(dir)).collect(),
        shadow_dirs: section
            .list::<PathBuf>("shadow_dirs")
            .unwrap_or_default()
            .iter()
            .map(|dir| base.join(dir))
            .collect(),
        watch: section
            .or("watch_files", true)
            .then_some(duration_within(section, "watch_interval", 5, 3600)),
        blast_radius: within(section, "blast_radius", 1000, 0, u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::identity::KeysAt;
    use crate::config::ledger::{LedgerKind, RedisMode};
    use crate::config::tls::CertificateAt;
    use crate::identity::workload_api::WorkloadApi;

    const LEAST: &str = include_str!("../config/dayfly.toml");
    const FULL: &str = include_str!("../config/dayfly.full.toml");
    const PRODUCTION: &str = include_str!("../config/dayfly.production.toml");

    fn read(text: &str) -> Result<Config, String> {
        parse("dayfly.toml", Path::new("/etc/dayfly"), text).map_err(|problems| problems.to_string())
    }

    /// Reads the least that runs and then some.
    fn problems(more: &str) -> String {
        let domain = "[[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n";
        read(&format!("{more}\n{domain}")).unwrap_err()
    }

    /// Options without a default stand in the full file behind a `#` with no space.
    fn uncommented() -> String {
        let lines = FULL.lines().map(|line| match line.strip_prefix('#') {
            Some(option) if !option.starts_with(' ') => option,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_full_file_says_nothing_but_defaults() {
        assert_eq!(read(FULL), read(LEAST));
        assert!(read(FULL).is_ok());
    }

    #[test]
    fn the_full_file_names_every_option_and_no_other() {
        let text = uncommented();
        let document = Document::new("full", &text);
        let config = document.root().and_then(|root| config(root, Base(Path::new(""))));
        let written: toml::Table = text.parse().unwrap();
        for key in document.keys() {
            let mut at = Some(toml::Value::Table(written.clone()));
            for part in key.split('.') {
                at = at.and_then(|value| value.get(part).cloned());
                // Sections that can stand there several times name every option between them.
                at = at.map(|value| match value.as_array() {
                    Some(items) if items[0].is_table() => {
                        let entries = items.iter().flat_map(|item| item.as_table().unwrap().clone());
                        toml::Value::Table(entries.collect())
                    }
                    _ => value,
                });
            }
            assert!(at.is_some(), "dayfly.full.toml does not name `{key}`");
        }
        assert!(document.keys().len() > 80, "{:?}", document.keys());
        let problems = document.finish(config).unwrap_err().to_string();
        assert!(!problems.contains("unknown key"), "{problems}");
    }

    #[test]
    fn the_reference_has_a_row_for_every_option() {
        let reference = include_str!("../docs/reference/configuration.md");
        let text = uncommented();
        let document = Document::new("full", &text);
        drop(document.root().and_then(|root| config(root, Base(Path::new("")))));
        for key in document.keys() {
            let Some((section, key)) = key.rsplit_once('.') else {
                continue;
            };
            let chapter = ["[[", "["].into_iter().find_map(|open| {
                let heading = format!("\n## `{open}{section}{}`\n", open.replace('[', "]"));
                let (_, rest) = reference.split_once(&heading)?;
                rest.split("\n## ").next()
            });
            let row = format!("\n| `{key}` | ");
            assert!(
                chapter.is_some_and(|chapter| chapter.contains(&row)),
                "the reference has no row for `{key}` in [{section}]"
            );
        }
    }

    #[test]
    fn every_option_of_the_full_file_has_a_comment() {
        let lines: Vec<&str> = FULL.lines().collect();
        let self_explaining = [
            "name",
            "path",
            "jwt_svid",
            "kubernetes",
            "oidc",
            "jwks_url",
            "bundle_url",
            "password_file",
            "jwks_file",
        ];
        for pair in lines.windows(2) {
            let option = pair[1].strip_prefix('#').unwrap_or(pair[1]);
            let Some((key, _)) = option
                .split_once(" = ")
                .filter(|_| !option.starts_with([' ', '[']))
            else {
                continue;
            };
            let commented = pair[0].starts_with("# ");
            assert!(commented || self_explaining.contains(&key), "{key}");
        }
    }

    #[test]
    fn the_production_example_means_what_it_says() {
        let config = read(PRODUCTION).unwrap();
        let LedgerKind::Redis(redis) = config.ledger.kind else {
            panic!("{:?}", config.ledger);
        };
        assert_eq!(
            redis.mode,
            RedisMode::Sentinel {
                master: "dayfly".into()
            }
        );
        assert_eq!(config.identity.issuers[0].keys, KeysAt::Discovery);
        assert_eq!(
            config.identity.clusters[0]
                .token_review
                .as_ref()
                .unwrap()
                .remember
                .as_secs(),
            60
        );
        assert_eq!(config.journal.origin, "dayfly.example.org/journal");
        assert_eq!(config.registry.agents, Path::new("/etc/dayfly/agents"));
        assert_eq!(config.tokens.keys, Path::new("/var/lib/dayfly/keys"));
    }

    #[test]
    fn unknown_keys_are_errors_at_every_level() {
        let text = "lsten = 1\n[server]\nlsten = 'a'\n[identity.cache]\nentrys = 1\n[ledger.redis]\nurl = 'x'\n\
                    [[provider]]\nname = 'jwt'\nkind = 'jwt'\nextra = 1\n[telemtry]\n";
        let problems = problems(text);
        for expected in [
            "dayfly.toml:1:1: unknown key `lsten`\n",
            "dayfly.toml:3:1: unknown key `lsten` in [server]\n  help: did you mean `listen`?",
            "dayfly.toml:5:1: unknown key `entrys` in [identity.cache]\n  help: did you mean `entries`?",
            "dayfly.toml:7:1: unknown key `url` in [ledger.redis]\n  help: did you mean `urls`?",
            "dayfly.toml:11:1: unknown key `extra` in [provider]\n",
            "dayfly.toml:12:2: unknown key `telemtry`\n  help: did you mean `telemetry`?",
        ] {
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
    }

    #[test]
    fn every_bad_value_is_refused_where_it_stands() {
        for (text, expected) in [
            ("[server]\nlisten = 8440", ":2:10: `server.listen`: invalid type"),
            (
                "[server]\nlisten = 'localhost'",
                ":2:10: `server.listen`: invalid socket address",
            ),
            (
                "[server]\nlisten = '0.0.0.0:1'",
                ":2:1: `server.listen`: other machines can reach 0.0.0.0:1",
            ),
            (
                "[server]\nlisten = '0.0.0.0:1'",
                "`server.public_url`: it is missing",
            ),
            (
                "[server.operators]\nlisten = '0.0.0.0:1'",
                ":2:1: `server.operators.listen`: other machines can reach 0.0.0.0:1",
            ),
            ("[server.tools]", ":1:1: `server.tools.listen`: it is missing"),
            (
                "[server]\nlisten = '127.0.0.1:1'\n[server.tools]\nlisten = '127.0.0.1:1'",
                "`server.tools`: another listener is on 127.0.0.1:1",
            ),
            (
                "[server.tls]\ncert_file = 'a.pem'",
                ":1:1: `server.tls.key_file`: it is missing\n  help: name two PEM files",
            ),
            (
                "[server.tls]\ncert_file = ''\nkey_file = 'b'",
                ":2:1: `server.tls.cert_file`: it is empty",
            ),
            (
                "[server]\npublic_url = 'http://a.b'",
                ":2:1: `server.public_url`: it cannot be",
            ),
            (
                "[server]\npublic_url = 'https://a.b/'",
                ":2:1: `server.public_url`: it cannot be",
            ),
            (
                "[server]\npublic_url = 'https://u@a.b'",
                ":2:1: `server.public_url`: it cannot be",
            ),
            (
                "[server]\nbody_limit = 1",
                ":2:1: `server.body_limit`: 1 is out of range\n  help: write a number from 4096",
            ),
            (
                "[server]\nbody_limit = -1",
                ":2:14: `server.body_limit`: invalid value",
            ),
            (
                "[server]\nrequest_timeout = '1 h'",
                ":2:19: `server.request_timeout`: `1 h` is not a valid length",
            ),
            (
                "[server]\nrequest_timeout = '1h'",
                ":2:1: `server.request_timeout`: 1h is too long",
            ),
            (
                "[server]\nmax_concurrent_requests = 0",
                ":2:27: `server.max_concurrent_requests`: invalid value",
            ),
            (
                "server = 3",
                ":1:10: `server`: it is not a section\n  help: write `[server]`",
            ),
            ("[[server]]", "`server`: there can be one only"),
            ("[identity]\nskew = 61", ":2:1: `identity.skew`: 1m1s is too long"),
            (
                "[identity]\naudiences = []",
                ":2:1: `identity.audiences`: evidence for nobody",
            ),
            (
                "[identity.keys]\nrefresh = '2d'",
                ":2:1: `identity.keys.refresh`: 2d is more than `max_age`",
            ),
            (
                "[[identity.oidc]]\nissuer = 'http://a.b'",
                ":2:1: `identity.oidc.issuer`: it is not an https",
            ),
            (
                "[[identity.oidc]]\nissuer = 'https://a'\nalgorithms = ['HS256']",
                ":3:1: `identity.oidc.algorithms`: `HS256` is not",
            ),
            (
                "[[identity.oidc]]\nissuer = 'https://a'\n[[identity.oidc]]\nissuer = 'https://a'",
                ":4:1: `identity.oidc.issuer`: `https://a` stands there twice",
            ),
            (
                "[[identity.kubernetes]]\nname = 'a'",
                ":1:1: `identity.kubernetes.issuer`: it is missing",
            ),
            (
                "[[identity.kubernetes]]\nname = 'a'\nissuer = 'b'",
                "`identity.kubernetes.jwks_file`: nothing says where",
            ),
            (
                "[[identity.kubernetes]]\nname = 'a'\nissuer = 'b'\njwks_file = 'c'\njwks_url = 'https://d'",
                ":5:1: `identity.kubernetes.jwks_url`: `jwks_file` says where",
            ),
            (
                "[[identity.kubernetes]]\nname = 'a'\nissuer = 'b'\njwks_url = 'http://d'",
                ":4:1: `identity.kubernetes.jwks_url`: it is not an address",
            ),
            (
                "[[identity.trust_domain]]\nname = 'A'\nbundle_file = 'b'",
                ":2:8: `identity.trust_domain.name`: `A` is not a valid trust domain",
            ),
            ("[policy]\ndirs = []", ":2:1: `policy.dirs`: it is empty"),
            ("[registry]\nagents = ''", ":2:1: `registry.agents`: it is empty"),
            (
                "[tasks]\ndefault_deadline = '2d'",
                ":2:1: `tasks.default_deadline`: 2d is more than `max_deadline`, 1d",
            ),
            (
                "[tasks]\nlive_credentials = 0",
                ":2:20: `tasks.live_credentials`: invalid value",
            ),
            (
                "[tokens]\nalgorithm = 'PS256'",
                ":2:1: `tokens.algorithm`: tokens are not signed with PS256",
            ),
            (
                "[tokens]\nalgorithm = 'none'",
                ":2:1: `tokens.algorithm`: `none` is not a valid signature algorithm",
            ),
            (
                "[tokens]\nmax_ttl = '8d'",
                ":2:1: `tokens.max_ttl`: a token could live longer than the ledger",
            ),
            (
                "[ledger]\nkind = 'sqlite'",
                ":2:8: `ledger.kind`: unknown variant `sqlite`, expected",
            ),
            (
                "[ledger.redis]\nurls = ['redis://u:hunter2@a']",
                ":2:1: `ledger.redis.urls`: a URL holds a user or a password",
            ),
            (
                "[ledger.redis]\nurls = ['a:6379', 'b']",
                ":2:1: `ledger.redis.urls`: there are 2",
            ),
            (
                "[ledger.redis]\nmode = 'sentinel'",
                "`ledger.redis.master`: it is needed",
            ),
            (
                "[ledger.redis]\nshards = 5000",
                ":2:1: `ledger.redis.shards`: 5000 is out of range",
            ),
            (
                "[ledger.redis]\nprefix = '{a}'",
                ":2:1: `ledger.redis.prefix`: it cannot start a key",
            ),
            (
                "[journal]\norigin = 'https://a'",
                ":2:1: `journal.origin`: it cannot be the name",
            ),
            (
                "[reaper]\nretry_least = '1h'",
                ":2:1: `reaper.retry_least`: 1h is more than `retry_most`, 5m",
            ),
            (
                "[telemetry]\nlevel = 'loud'",
                ":2:1: `telemetry.level`: `loud` is no level",
            ),
            (
                "[telemetry]\nformat = 'xml'",
                ":2:10: `telemetry.format`: unknown variant `xml`",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'ftp'",
                ":3:8: `provider.kind`: unknown variant `ftp`",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'",
                ":1:1: `provider.webhook.url`: it is missing",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'\n[provider.webhook]\nurl = 'http://a.b'",
                ":5:1: `provider.webhook.url`: it is not an address",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'\n[provider.webhook]\nurl = 'https://a.b?c=d'",
                ":5:1: `provider.webhook.url`: it has a query",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'\n[provider.webhook]\nurl = 'https://a.b'",
                "`provider.webhook.ending`: it is missing",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'\n[provider.webhook]\nurl = 'https://a.b'\nending = 'deny_listed'",
                ":6:10: `provider.webhook.ending`: unknown variant `deny_listed`",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'\n[provider.webhook]\nurl = 'https://a.b'\nending = 'at_expiry'\n\
                 renewable = true",
                ":7:1: `provider.webhook.renewable`: what cannot be ended",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'webhook'\n[provider.webhook]\nurl = 'https://a.b'\nending = 'immediate'\n\
                 min_ttl = '2h'",
                ":7:1: `provider.webhook.min_ttl`: 2h is more than `max_ttl`, 1h",
            ),
            (
                "[[provider]]\nname = 'a'\nkind = 'jwt'\n[[provider]]\nname = 'a'\nkind = 'jwt'",
                ":5:1: `provider.name`: `a` stands there twice",
            ),
        ] {
            let problems = problems(text);
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
            assert!(!problems.contains("hunter2"), "{problems}");
        }
    }

    #[test]
    fn somebody_has_to_vouch() {
        let problems = read("").unwrap_err();
        assert!(
            problems.starts_with("dayfly.toml:1:1: `identity.trust_domain`: nobody could prove anything"),
            "{problems}"
        );
    }

    #[test]
    fn plaintext_to_other_machines_takes_saying_so_and_a_name() {
        let text = "[server]\nlisten = '0.0.0.0:1'\ndanger_plaintext_listen = true\npublic_url = 'http://dayfly.svc'\n\
                    [[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n";
        assert_eq!(read(text).unwrap().server.public_url, "http://dayfly.svc");
    }

    #[test]
    fn a_listener_with_a_certificate_may_be_reached_by_other_machines() {
        let text = "[server]\nlisten = '0.0.0.0:1'\npublic_url = 'https://dayfly.example.org'\n\
                    [server.tls]\ncert_file = 'a.pem'\nkey_file = '/b.pem'\n\
                    [[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n";
        let tls = read(text).unwrap().server.tls.unwrap();
        let CertificateAt::Files { cert_file, key_file } = tls.certificate else {
            panic!("it comes from files");
        };
        assert_eq!(cert_file, Path::new("/etc/dayfly/a.pem"));
        assert_eq!(key_file, Path::new("/b.pem"));
    }

    #[test]
    fn a_workload_api_stands_in_the_place_of_files() {
        let read = |tls: &str, trust: &str| {
            read(&format!(
                "[server.tls]\n{tls}\n[[identity.trust_domain]]\nname = 'a'\n{trust}\n"
            ))
        };
        let api = "workload_api = 'unix:///run/spire/agent.sock'";
        let config = read(api, api).unwrap();
        let api: WorkloadApi = "unix:///run/spire/agent.sock".parse().unwrap();
        assert_eq!(
            config.server.tls.unwrap().certificate,
            CertificateAt::WorkloadApi(api.clone())
        );
        assert_eq!(config.identity.trust_domains[0].bundle, KeysAt::WorkloadApi(api));
        let api = "workload_api = 'unix:///a'";
        for (tls, trust, says) in [
            (
                "workload_api = 'unix:///a'\ncert_file = 'b'",
                api,
                "`server.tls.cert_file`: `workload_api` gives",
            ),
            ("key_file = 'b'", api, "`server.tls.cert_file`: it is missing"),
            ("workload_api = 'tcp://127.0.0.1:1'", api, "unix:///run"),
            (
                api,
                "workload_api = 'unix:///a'\nbundle_url = 'https://b'",
                "keep one of the two",
            ),
            (api, "workload_api = 'agent.sock'", "unix:///run"),
            (api, "", "nothing says where the keys are"),
        ] {
            let problems = read(tls, trust).unwrap_err();
            assert!(problems.contains(says), "{problems}");
        }
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let problems = load(Path::new("/nonexistent/dayfly.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            problems.starts_with("/nonexistent/dayfly.toml: the file cannot be read"),
            "{problems}"
        );
        assert!(
            problems.contains("help: name the file with `--config`"),
            "{problems}"
        );
    }
}
