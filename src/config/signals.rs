//! `[signals]`: whose signals Dayfly listens to, about whom they may be, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::keys::Algorithm;
use crate::model::acting::UserPattern;
use crate::model::document::Section;
use crate::model::name::{Environment, FactName, FactValue, InvalidName, StreamName};
use crate::model::ttl::Ttl;
use crate::signal::identifier::Format;
use crate::signal::mapping::{AgentPattern, Confinement, Template};
use crate::signal::rules::{FactRule, Place, Rule, Rules, Said, event_type};

use super::identity::{KeysAt, algorithms, audiences, keys};
use super::read::{Base, address, duration, duration_within, within};

/// The most streams: each has metrics and a poller of its own.
const MOST_STREAMS: usize = 64;

/// Whose signals Dayfly listens to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SignalsConfig {
    /// The streams, each name once.
    pub streams: Vec<StreamConfig>,
}

/// One transmitter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamConfig {
    /// What it is called here: in the path, in records and in metrics.
    pub name: StreamName,
    /// The `iss` of its tokens, exactly.
    pub issuer: String,
    /// The `aud` values that are us in its tokens, at least one.
    pub audiences: Vec<String>,
    /// What its tokens may be signed with, at least one.
    pub algorithms: Vec<Algorithm>,
    /// Its keys; never [`KeysAt::Discovery`].
    pub keys: KeysAt,
    /// The only authorities that may vouch for its servers.
    pub ca_file: Option<PathBuf>,
    /// The file with the bearer token: what it sends to us, or what we send to it.
    pub token_file: PathBuf,
    /// How its tokens come.
    pub delivery: Delivery,
    /// By how much clocks may differ, at most a minute.
    pub skew: Duration,
    /// How long ago a token may have been issued.
    pub oldest: Duration,
    /// A sign of life is expected this often.
    pub silence: Option<Duration>,
    /// How users are called, by the format that they are named in.
    pub user_ids: BTreeMap<Format, Template>,
    /// Whose `iss_sub` names count; none means its issuer's.
    pub subject_issuers: Vec<String>,
    /// Which of its tenants are which environments.
    pub tenants: BTreeMap<String, Environment>,
    /// About whom it may speak.
    pub about: Confinement,
    /// What follows from its events.
    pub rules: Rules,
}

/// How tokens come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The transmitter sends them (RFC 8935).
    Push,
    /// We fetch them (RFC 8936).
    Poll(PollConfig),
}

/// How to fetch tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PollConfig {
    /// Where.
    pub url: String,
    /// How many at a time, at most.
    pub max_events: u16,
    /// How long the transmitter may wait for something to say; none has it answer at once.
    pub wait: Option<Duration>,
    /// How long to wait between two polls that brought nothing.
    pub interval: Duration,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Push,
    Poll,
}

/// What the reading of a stream needs of other sections.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) public_url: &'a str,
    /// How long the ledger remembers, and so for how long a token that comes again is known.
    pub(super) retention: Duration,
    /// How long a task may live.
    pub(super) longest_task: Ttl,
}

pub(super) fn read(section: &mut Section<'_>, around: Around<'_>, base: Base<'_>) -> SignalsConfig {
    let mut sections = section.sections("streams");
    if sections.len() > MOST_STREAMS {
        section.blame("streams", "they are too many", &format!("keep to {MOST_STREAMS}"));
    }
    let mut names = BTreeSet::new();
    let streams = sections.iter_mut().filter_map(|section| {
        let stream = stream(section, around, base)?;
        if !names.insert(stream.name.clone()) {
            let help = "give each stream a name of its own";
            section.blame("name", format!("`{}` stands there twice", stream.name), help);
        }
        Some(stream)
    });
    SignalsConfig {
        streams: streams.collect(),
    }
}

fn stream(section: &mut Section<'_>, around: Around<'_>, base: Base<'_>) -> Option<StreamConfig> {
    let help = "write what it is called in its path: `name = \"idp\"`";
    let name = match section.has("name") {
        true => section.parsed("name"),
        false => {
            section.blame("name", "it is missing", help);
            None
        }
    };
    let issuer: Option<String> = section.required("issuer", "write the `iss` of its tokens, exactly");
    let audiences = audiences(section, "audiences").unwrap_or_else(|| vec![around.public_url.to_owned()]);
    let algorithms = algorithms(section);
    let keys = keys(section, "jwks_file", "jwks_url", None, base);
    let ca_file = base.optional_path(section, "ca_file");
    let token_file = base.optional_path(section, "token_file");
    if !section.has("token_file") {
        let help = "write the file with the bearer token that comes with what is pushed, or goes with a poll";
        section.blame("token_file", "it is missing", help);
    }
    let way: Option<Way> = section.required("delivery", "write `delivery = \"push\"` or `\"poll\"`");
    let polls = section.has("poll");
    let poll = poll(&mut section.section("poll"), matches!(way, Some(Way::Poll)));
    let delivery = match way {
        Some(Way::Poll) => poll.map(Delivery::Poll),
        Some(Way::Push) => Some(Delivery::Push),
        None => None,
    };
    if polls && matches!(way, Some(Way::Push)) {
        section.blame("poll", "what is pushed is not polled", "leave the section out");
    }
    let skew = duration_within(section, "skew", 30, 60);
    let oldest: Option<Ttl> = section.optional("oldest");
    let oldest = oldest.map_or(around.retention, Ttl::as_duration);
    if oldest > around.retention {
        section.blame(
            "oldest",
            "a token could come again when the ledger has forgotten it",
            "lower it, or raise `retention` in [ledger]",
        );
    }
    let silence: Option<Ttl> = section.optional("silence");
    let user_ids = user_ids(&mut section.section("user_ids"));
    let subject_issuers = section.list("subject_issuers").unwrap_or_default();
    let tenants = section.map("tenants");
    let about = about(section);
    let rules = rules(section, around.longest_task);
    let issuer = issuer?;
    Some(StreamConfig {
        name: name?,
        audiences,
        algorithms,
        keys: keys?,
        ca_file,
        token_file: token_file?,
        delivery: delivery?,
        skew,
        oldest,
        silence: silence.map(Ttl::as_duration),
        user_ids,
        subject_issuers: match subject_issuers.is_empty() {
            true => vec![issuer.clone()],
            false => subject_issuers,
        },
        tenants,
        about,
        rules: rules?,
        issuer,
    })
}

fn poll(section: &mut Section<'_>, needed: bool) -> Option<PollConfig> {
    let url = address(section, "url");
    if needed && !section.has("url") {
        section.blame(
            "url",
            "it is missing",
            "write where its tokens are fetched: `url = \"https://…\"`",
        );
    }
    let max_events = within(section, "max_events", 20, 1, 100);
    let returns_at_once = section.or("return_immediately", false);
    let wait = duration_within(section, "wait", 30, 60);
    let interval = duration(section, "interval", 10);
    Some(PollConfig {
        url: url?,
        max_events,
        wait: (!returns_at_once).then_some(wait),
        interval,
    })
}

/// How users are called. What is not written there is as CAEP's interoperability profile asks; an empty
/// text turns a format off.
fn user_ids(section: &mut Section<'_>) -> BTreeMap<Format, Template> {
    let usual = [
        (Format::IssSub, Some("{sub}")),
        (Format::Email, Some("{email}")),
        (Format::Opaque, Some("{id}")),
        (Format::Account, None),
        (Format::Uri, None),
    ];
    let templates = usual.into_iter().filter_map(|(format, usual)| {
        let text: Option<String> = section.optional(format.as_str());
        let text = text
            .or_else(|| usual.map(str::to_owned))
            .filter(|text| !text.is_empty())?;
        let template = Template::parse(format, &text);
        let template = template.map_err(|error| section.blame(format.as_str(), error, ""));
        Some((format, template.ok()?))
    });
    templates.collect()
}

fn about(stream: &mut Section<'_>) -> Confinement {
    let mut section = stream.section("about");
    fn patterns<T: std::str::FromStr<Err = InvalidName>>(
        section: &mut Section<'_>,
        key: &'static str,
    ) -> Vec<T> {
        let texts: Vec<String> = section.list(key).unwrap_or_default();
        let patterns = texts.iter().filter_map(|text| {
            let pattern = text.parse();
            pattern
                .map_err(|error: InvalidName| section.blame(key, error, ""))
                .ok()
        });
        patterns.collect()
    }
    let about = Confinement {
        users: patterns::<UserPattern>(&mut section, "users"),
        agents: patterns::<AgentPattern>(&mut section, "agents"),
        environments: patterns(&mut section, "environments"),
    };
    let written = ["users", "agents", "environments"].map(|key| section.has(key));
    if !written.contains(&true) {
        stream.blame(
            "about",
            "it may speak about nobody",
            "say about whom: `about = { users = [\"idp|*\"] }`; there are `agents` and `environments` too",
        );
    }
    about
}

fn rules(stream: &mut Section<'_>, longest_task: Ttl) -> Option<Rules> {
    let claims: BTreeMap<FactName, String> = stream.map("claims");
    let mut rules = Rules::beginning(longest_task.as_duration()).ok()?;
    if !claims.is_empty() {
        let facts = claims.into_iter().map(|(name, claim)| FactRule {
            name,
            said: Said::From(Place::claim(&claim), &[]),
            lasts: None,
        });
        let facts = facts.collect();
        let rule = Rule {
            facts,
            ..Rule::default()
        };
        rules.put(event_type("token-claims-change").ok()?, rule);
    }
    let mut types = BTreeSet::new();
    for section in &mut stream.sections("events") {
        let written: Option<String> =
            section.required("type", "write which events: `type = \"risk-level-change\"`");
        let event = written.and_then(|text| {
            event_type(&text)
                .map_err(|error| section.blame("type", error, ""))
                .ok()
        });
        let rule = rule(section);
        let Some(event) = event else { continue };
        if !types.insert(event.clone()) {
            section.blame(
                "type",
                format!("`{event}` stands there twice"),
                "say all of it in one section",
            );
        }
        rules.put(event, rule);
    }
    Some(rules)
}

fn rule(section: &mut Section<'_>) -> Rule {
    let when: BTreeMap<String, Vec<String>> = section.map("when");
    let lower = |values: Vec<String>| values.iter().map(|value| value.to_ascii_lowercase()).collect();
    let cutoff = section.or("cutoff", false);
    let facts = section.sections("facts");
    Rule {
        when: when
            .into_iter()
            .map(|(member, values)| (member, lower(values)))
            .collect(),
        facts: facts
            .into_iter()
            .filter_map(|mut section| fact(&mut section))
            .collect(),
        cutoff,
    }
}

fn fact(section: &mut Section<'_>) -> Option<FactRule> {
    let name = match section.has("name") {
        true => section.parsed("name"),
        false => {
            section.blame(
                "name",
                "it is missing",
                "write what it is about: `name = \"risk\"`",
            );
            None
        }
    };
    let value: Option<FactValue> = section.parsed("value");
    let from: Option<String> = section.optional("from");
    let taken_back = section.or("taken_back", false);
    let lasts: Option<Ttl> = section.optional("expires");
    let said = match (value, from, taken_back) {
        (Some(value), None, false) => Some(Said::Always(value)),
        (None, Some(from), false) => Some(Said::From(Place::of(&from), &[])),
        (None, None, true) => Some(Said::TakenBack),
        _ => {
            section.blame(
                "value",
                "what the fact says is not clear",
                "write one of `value = \"high\"`, `from = \"current_level\"` and `taken_back = true`",
            );
            None
        }
    };
    Some(FactRule {
        name: name?,
        said: said?,
        lasts: lasts.map(Ttl::as_duration),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config;

    const LEAST: &str = "name = 'idp'\nissuer = 'https://idp.example.org'\njwks_file = 'a'\ntoken_file = 'b'\ndelivery = 'push'\n";

    fn read(streams: &str) -> Result<config::Config, String> {
        let text = format!("{streams}\n[[identity.trust_domain]]\nname = 'a'\nbundle_file = 'b'\n");
        let read = config::parse("dayfly.toml", Path::new(""), &text);
        read.map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_stream_has_safe_defaults() {
        let config = read(&format!("[[signals.streams]]\n{LEAST}about.users = ['idp|*']")).unwrap();
        let stream = &config.signals.streams[0];
        assert_eq!(stream.audiences, ["http://127.0.0.1:8440"]);
        assert_eq!(stream.subject_issuers, ["https://idp.example.org"]);
        assert_eq!(stream.user_ids.len(), 3);
        assert_eq!(stream.oldest.as_secs(), 7 * 86_400);
        assert!(stream.about.agents.is_empty() && stream.silence.is_none());
        assert_eq!(stream.delivery, super::Delivery::Push);
    }

    #[test]
    fn every_bad_stream_is_refused_where_it_stands() {
        let about = "about.users = ['idp|*']\n";
        for (text, expected) in [
            (String::new(), "`signals.streams.name`: it is missing"),
            (String::new(), "`signals.streams.issuer`: it is missing"),
            (String::new(), "`signals.streams.delivery`: it is missing"),
            (String::new(), "`signals.streams.token_file`: it is missing"),
            (String::new(), "`signals.streams.jwks_file`: nothing says where"),
            (
                LEAST.into(),
                ":1:1: `signals.streams.about`: it may speak about nobody",
            ),
            (
                format!("{LEAST}about.users = ['*']"),
                "`signals.streams.about.users`: `*` is not a valid pattern",
            ),
            (
                format!("{LEAST}about.agents = ['*']"),
                "`signals.streams.about.agents`: `*` is not a valid pattern",
            ),
            (
                format!("{LEAST}{about}skew = 61"),
                "`signals.streams.skew`: 1m1s is too long",
            ),
            (
                format!("{LEAST}{about}oldest = '8d'"),
                ":8:1: `signals.streams.oldest`: a token could come again",
            ),
            (
                format!("{LEAST}{about}user_ids.email = 'ann'"),
                "`signals.streams.user_ids.email`: `ann` is not a valid template",
            ),
            (
                format!("{LEAST}{about}poll.url = 'https://a.b'"),
                "`signals.streams.poll`: what is pushed is not polled",
            ),
            (
                format!("{}{about}", LEAST.replace("push", "poll")),
                "`signals.streams.poll.url`: it is missing",
            ),
            (
                format!("{}{about}poll.url = 'http://a.b'", LEAST.replace("push", "poll")),
                "`signals.streams.poll.url`: it is not an address",
            ),
            (
                format!("{LEAST}{about}[[signals.streams.events]]\ntype = 'risk'"),
                ":9:1: `signals.streams.events.type`: `risk` is not a valid type of events",
            ),
            (
                format!("{LEAST}{about}events = [{{ type = 'urn:a' }}, {{ type = 'urn:a' }}]"),
                "`signals.streams.events.type`: `urn:a` stands there twice",
            ),
            (
                format!("{LEAST}{about}events = [{{ type = 'urn:a', facts = [{{ name = 'risk' }}] }}]"),
                "`signals.streams.events.facts.value`: what the fact says is not clear",
            ),
            (
                format!("{LEAST}{about}[[signals.streams]]\n{LEAST}{about}"),
                "`signals.streams.name`: `idp` stands there twice",
            ),
        ] {
            let problems = read(&format!("[[signals.streams]]\n{text}")).unwrap_err();
            assert!(problems.contains(expected), "{expected}\nis not in\n{problems}");
        }
    }
}
