//! One agent as a file.

use chrono::{Days, NaiveDate, NaiveTime};
use serde::{Deserialize, Deserializer, de};

use crate::model::agent::{Agent, AgentCeilings};
use crate::model::attestation::EvidenceKind;
use crate::model::document::Section;
use crate::model::document::problem::Place;
use crate::model::name::Purpose;
use crate::model::time::Timestamp;
use crate::registry::matching::{InvalidRule, MatchRule, Pattern};

use super::{facts, name};

/// An agent and its rules, each with its place in the file.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) agent: Agent,
    pub(super) rules: Vec<(MatchRule, Place)>,
}

/// Reads an agent from a file called `stem`.
pub(super) fn read(section: &mut Section<'_>, stem: &str) -> Option<Read> {
    let name = name(section, stem);
    let owner = section.optional("owner");
    let purpose: Option<Purpose> = section.required("purpose", "say in a sentence what the agent is for");
    let environment = section.required("environment", "say where it runs: `environment = \"production\"`");
    let autonomy = section.required(
        "autonomy",
        "say how much it may do alone, from 0 to 5: `autonomy = 2`",
    );
    let zone = section.required("zone", "say in which zone it runs: `zone = \"eu\"`");
    let roles = section.list("roles").unwrap_or_default().into_iter().collect();
    let status = section.optional("status").unwrap_or_default();
    let review_by: Option<Day> = section.required(
        "review_by",
        "say until when its entry holds without a review: `review_by = 2027-06-30`",
    );
    let may_act_for = section.list("may_act_for").unwrap_or_default();
    let serves = section.list("serves").unwrap_or_default().into_iter().collect();
    let ceilings = ceilings(&mut section.section("ceilings"));
    let facts = facts(section);
    let rules = section.sections("match").iter_mut().filter_map(rule).collect();
    Some(Read {
        agent: Agent {
            name: name?,
            owner,
            purpose: purpose?.to_string(),
            environment: environment?,
            autonomy: autonomy?,
            zone: zone?,
            roles,
            status,
            review_by: review_by?.0,
            may_act_for,
            serves,
            ceilings,
            facts,
        },
        rules,
    })
}

fn ceilings(section: &mut Section<'_>) -> AgentCeilings {
    AgentCeilings {
        ttl: section.optional("ttl"),
        live_credentials: section.optional("live_credentials"),
        open_tasks: section.optional("open_tasks"),
    }
}

fn rule(section: &mut Section<'_>) -> Option<(MatchRule, Place)> {
    let kind: Option<EvidenceKind> = section.required(
        "kind",
        "say what kind of evidence it is: `kind = \"jwt_svid\"`, `\"x509_svid\"`, `\"kubernetes\"` or `\"oidc\"`",
    );
    let subject: Option<Pattern> = section.parsed("subject");
    let claims = section.map("claims");
    // Each authority goes by its own name, and a rule of one kind has no use for the others.
    let authority = match kind {
        Some(EvidenceKind::JwtSvid | EvidenceKind::X509Svid) => section.optional("trust_domain"),
        Some(EvidenceKind::Kubernetes) => section.optional("cluster"),
        Some(EvidenceKind::Oidc) => section.optional("issuer"),
        None => ["trust_domain", "cluster", "issuer"]
            .into_iter()
            .filter_map(|key| section.optional(key))
            .next_back(),
    };
    let (kind, place) = (kind?, section.place());
    match MatchRule::new(kind, authority, subject, claims) {
        Ok(rule) => Some((rule, place)),
        Err(error) => {
            let (key, help) = match error {
                InvalidRule::NoAuthority(key) => (key, "write whose word it has to be"),
                InvalidRule::FitsEverybody => ("subject", "write `subject = …` or a `claims` entry"),
                InvalidRule::Subject(_) => ("subject", "write the subject as the evidence has it"),
                InvalidRule::OtherTrustDomain(_) | InvalidRule::TrustDomain(_) => {
                    ("trust_domain", "leave it out: the subject says it")
                }
                InvalidRule::TooManyClaims => ("claims", "keep the claims that tell workloads apart"),
            };
            section.blame(key, error, help);
            None
        }
    }
}

/// The end of a day in UTC, written as a TOML date or as text.
struct Day(Timestamp);

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::Datetime(date) => date.to_string(),
            toml::Value::String(text) => text,
            _ => String::new(),
        };
        NaiveDate::parse_from_str(&text, "%Y-%m-%d")
            .ok()
            .and_then(|date| date.checked_add_days(Days::new(1)))
            .and_then(|next| u64::try_from(next.and_time(NaiveTime::MIN).and_utc().timestamp_millis()).ok())
            .map(|millis| Self(Timestamp::from_millis(millis)))
            .ok_or_else(|| de::Error::custom("it is not a date such as 2027-06-30"))
    }
}
