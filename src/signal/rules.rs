//! What follows from which event: facts, a cutoff, or nothing.
//!
//! The rules that every stream begins with follow CAEP 1.0 and RISC 1.0; a configuration replaces the rule of
//! an event as a whole. Values are made lower case, so that policies know one spelling of each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

use super::set::Set;
use super::{Effect, SignalError};
use crate::model::name::{FactName, FactValue, InvalidName};
use crate::model::time::Timestamp;

/// What the types of CAEP's events begin with.
pub const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
/// What the types of RISC's events begin with.
pub const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";

/// Events that have a rule from the beginning: their type's last segment, and what it begins with.
const KNOWN: [(&str, &str); 20] = [
    ("session-revoked", CAEP),
    ("credential-change", CAEP),
    ("token-claims-change", CAEP),
    ("assurance-level-change", CAEP),
    ("device-compliance-change", CAEP),
    ("risk-level-change", CAEP),
    ("session-established", CAEP),
    ("session-presented", CAEP),
    ("account-disabled", RISC),
    ("account-enabled", RISC),
    ("account-purged", RISC),
    ("credential-compromise", RISC),
    ("sessions-revoked", RISC),
    ("account-credential-change-required", RISC),
    ("identifier-changed", RISC),
    ("identifier-recycled", RISC),
    ("recovery-activated", RISC),
    ("recovery-information-changed", RISC),
    ("opt-in", RISC),
    ("opt-out-effective", RISC),
];

/// The whole type of an event: the text itself, or the one of CAEP or RISC that ends in it.
pub fn event_type(text: &str) -> Result<String, InvalidName> {
    if text.contains(':') {
        return Ok(text.to_owned());
    }
    let known = KNOWN.iter().find(|(name, _)| *name == text);
    let (name, of) = known.ok_or_else(|| {
        InvalidName::new(
            "type of events",
            text,
            "write its URI, or the last part of one of CAEP's or RISC's, such as `risk-level-change`",
        )
    })?;
    Ok(format!("{of}{name}"))
}

/// A short word for a type, for metrics: from a closed set.
pub fn word(event: &str) -> &'static str {
    let known = KNOWN
        .iter()
        .find(|(name, of)| event.strip_prefix(of) == Some(name));
    match (known, event) {
        (Some((name, _)), _) => name,
        (None, super::VERIFICATION) => "verification",
        (None, super::STREAM_UPDATED) => "stream-updated",
        (None, _) => "other",
    }
}

/// How many milliseconds before its event something counts that is taken back: more than there are words.
const MILDEST: usize = 100;

/// Where in an event a value stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A member. An event that lacks it is not as its definition says.
    Member(String),
    /// A JSON pointer (RFC 6901). What is not there says nothing.
    Pointer(String),
}

impl Place {
    /// A pointer where the text begins with `/`, a member otherwise.
    pub fn of(text: &str) -> Self {
        if text.starts_with('/') {
            Self::Pointer(text.to_owned())
        } else {
            Self::Member(text.to_owned())
        }
    }

    /// The pointer to a claim of a `token-claims-change`.
    pub fn claim(name: &str) -> Self {
        Self::Pointer(format!("/claims/{}", name.replace('~', "~0").replace('/', "~1")))
    }
}

/// What a fact says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Always the same.
    Always(FactValue),
    /// What was said before is not so any more.
    TakenBack,
    /// What the event says there, one of these words where there are any, the gravest last.
    From(Place, &'static [&'static str]),
}

/// One fact that follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FactRule {
    /// Its name.
    pub name: FactName,
    /// What it says.
    pub said: Said,
    /// For how long it is so at most, from the event on.
    pub lasts: Option<Duration>,
}

/// What follows from the events of one type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// Members of the event that have to have one of these values; else nothing follows.
    pub when: BTreeMap<String, BTreeSet<String>>,
    /// The facts.
    pub facts: Vec<FactRule>,
    /// Whether every lease from before has to end.
    pub cutoff: bool,
}

impl Rule {
    fn fits(&self, body: &Map<String, Value>) -> bool {
        self.when.iter().all(|(member, values)| {
            let value = body.get(member).and_then(Value::as_str);
            value.is_some_and(|value| values.contains(&value.to_ascii_lowercase()))
        })
    }
}

/// The rules of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules(BTreeMap<String, Rule>);

impl Rules {
    /// The rules that a stream begins with. `session_lasts` is for how long a session that was revoked
    /// keeps its user out when nobody says that there is a new one: as long as a task may live, so that no
    /// task from before can go on.
    pub fn beginning(session_lasts: Duration) -> Result<Self, InvalidName> {
        let fact = |name: &str, said: Said| -> Result<FactRule, InvalidName> {
            Ok(FactRule {
                name: name.parse()?,
                said,
                lasts: None,
            })
        };
        let always = |name: &str, value: &str| fact(name, Said::Always(value.parse()?));
        let from =
            |name: &str, member: &str, words| fact(name, Said::From(Place::Member(member.into()), words));
        let facts = |facts, cutoff| Rule {
            facts,
            cutoff,
            ..Rule::default()
        };
        let revoked = || -> Result<Rule, InvalidName> {
            let revoked = FactRule {
                lasts: Some(session_lasts),
                ..always("session", "revoked")?
            };
            Ok(facts(vec![revoked], true))
        };
        let changes = ["revoke", "delete", "update"].map(str::to_owned);
        let credential_change = Rule {
            when: BTreeMap::from([("change_type".to_owned(), BTreeSet::from(changes))]),
            ..facts(Vec::new(), true)
        };
        let rules = [
            ("session-revoked", revoked()?),
            ("sessions-revoked", revoked()?),
            (
                "session-established",
                facts(vec![fact("session", Said::TakenBack)?], false),
            ),
            ("credential-change", credential_change),
            (
                "assurance-level-change",
                facts(vec![from("assurance", "current_level", &[])?], false),
            ),
            (
                "device-compliance-change",
                facts(
                    vec![from("device", "current_status", &["compliant", "not-compliant"])?],
                    false,
                ),
            ),
            (
                "risk-level-change",
                facts(
                    vec![from("risk", "current_level", &["low", "medium", "high"])?],
                    false,
                ),
            ),
            (
                "account-disabled",
                facts(vec![always("account", "disabled")?], true),
            ),
            (
                "account-purged",
                facts(vec![always("account", "disabled")?], true),
            ),
            (
                "account-enabled",
                facts(vec![fact("account", Said::TakenBack)?], false),
            ),
            (
                "credential-compromise",
                facts(vec![always("credential", "compromised")?], true),
            ),
        ];
        let rules = rules
            .into_iter()
            .map(|(name, rule)| Ok((event_type(name)?, rule)));
        rules.collect::<Result<_, InvalidName>>().map(Self)
    }

    /// Puts a rule in the place of whatever there was for this type.
    pub fn put(&mut self, event: String, rule: Rule) {
        self.0.insert(event, rule);
    }

    /// What follows from an event. None where nothing does.
    pub(super) fn effects(&self, set: &Set) -> Result<Option<Vec<Effect>>, SignalError> {
        let Some(rule) = self.0.get(set.event()).filter(|rule| rule.fits(set.body())) else {
            return Ok(None);
        };
        let mut effects = Vec::new();
        for fact in &rule.facts {
            effects.extend(state(fact, set.body(), set.at())?);
        }
        if rule.cutoff {
            effects.push(Effect::Cut);
        }
        Ok(Some(effects).filter(|effects| !effects.is_empty()))
    }
}

fn state(rule: &FactRule, body: &Map<String, Value>, at: Timestamp) -> Result<Option<Effect>, SignalError> {
    // Events are known to the second. Of two about the same the graver holds, in whatever order they come.
    let mut milder = 0;
    let value = match &rule.said {
        Said::Always(value) => Some(value.clone()),
        Said::TakenBack => None,
        Said::From(Place::Member(member), words) => {
            let value = body.get(member).and_then(text);
            let place = words.iter().rposition(|word| value.as_deref() == Some(word));
            milder = place.map_or(0, |place| words.len() - place - 1);
            let value = value.filter(|_| words.is_empty() || place.is_some());
            Some(parsed(value, member)?)
        }
        Said::From(Place::Pointer(pointer), _) => match at_pointer(body, pointer) {
            None => return Ok(None),
            Some(Value::Null) => None,
            Some(value) => Some(parsed(text(value), pointer)?),
        },
    };
    if value.is_none() {
        milder = MILDEST;
    }
    let before = Duration::from_millis(u64::try_from(milder).unwrap_or(u64::MAX));
    Ok(Some(Effect::State {
        name: rule.name.clone(),
        at: at.minus(before),
        expires_at: rule.lasts.filter(|_| value.is_some()).map(|lasts| at.plus(lasts)),
        value,
    }))
}

fn parsed(value: Option<String>, place: &str) -> Result<FactValue, SignalError> {
    let value = value.and_then(|value| value.parse().ok());
    value.ok_or_else(|| {
        SignalError::Malformed(format!(
            "the `{place}` of its event is missing, or not what it has to be"
        ))
    })
}

/// A value as the text of a fact.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.to_lowercase()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

fn at_pointer<'v>(body: &'v Map<String, Value>, pointer: &str) -> Option<&'v Value> {
    let rest = pointer.strip_prefix('/')?;
    let (first, deeper) = match rest.split_once('/') {
        Some((first, _)) => (first, rest.get(first.len()..).unwrap_or_default()),
        None => (rest, ""),
    };
    let first = first.replace("~1", "/").replace("~0", "~");
    body.get(&first)?.pointer(deeper)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::signal::testing::{Idp, NOW, at, claims, terms};
    use crate::signal::{Nothing, Signal, Terms};

    async fn signal(terms: Terms, event: &str, body: Value) -> Result<Signal, SignalError> {
        let idp = Idp::with(terms);
        let event = event_type(event).unwrap();
        let set = idp
            .stream
            .verify(&idp.sign(&claims(&event, body)).await, NOW)
            .await?;
        idp.stream.interpret(&set)
    }

    async fn effects(event: &str, body: Value) -> Vec<String> {
        let signal = signal(terms(), event, body).await.unwrap();
        assert_eq!(
            signal.effects.is_empty(),
            signal.nothing == Some(Nothing::Ignored)
        );
        signal.effects.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn each_event_of_caep_and_risc_has_its_effects() {
        for (event, body, meant) in [
            ("session-revoked", json!({}), &["session=revoked", "cutoff"][..]),
            ("sessions-revoked", json!({}), &["session=revoked", "cutoff"]),
            ("session-established", json!({}), &["session taken back"]),
            ("session-presented", json!({}), &[]),
            (
                "credential-change",
                json!({"credential_type": "password", "change_type": "update"}),
                &["cutoff"],
            ),
            (
                "credential-change",
                json!({"credential_type": "pin", "change_type": "revoke"}),
                &["cutoff"],
            ),
            (
                "credential-change",
                json!({"credential_type": "pin", "change_type": "delete"}),
                &["cutoff"],
            ),
            (
                "credential-change",
                json!({"credential_type": "pin", "change_type": "create"}),
                &[],
            ),
            (
                "token-claims-change",
                json!({"claims": {"role": "ro-admin"}}),
                &[],
            ),
            (
                "assurance-level-change",
                json!({"namespace": "NIST-AAL", "current_level": "nist-aal2", "change_direction": "increase"}),
                &["assurance=nist-aal2"],
            ),
            (
                "device-compliance-change",
                json!({"previous_status": "compliant", "current_status": "not-compliant"}),
                &["device=not-compliant"],
            ),
            (
                "risk-level-change",
                json!({"principal": "USER", "current_level": "LOW"}),
                &["risk=low"],
            ),
            (
                "risk-level-change",
                json!({"principal": "USER", "current_level": "MEDIUM"}),
                &["risk=medium"],
            ),
            (
                "risk-level-change",
                json!({"principal": "USER", "current_level": "HIGH"}),
                &["risk=high"],
            ),
            (
                "account-disabled",
                json!({"reason": "hijacking"}),
                &["account=disabled", "cutoff"],
            ),
            ("account-purged", json!({}), &["account=disabled", "cutoff"]),
            ("account-enabled", json!({}), &["account taken back"]),
            (
                "credential-compromise",
                json!({"credential_type": "password"}),
                &["credential=compromised", "cutoff"],
            ),
            ("identifier-recycled", json!({}), &[]),
            ("urn:example:something-else", json!({}), &[]),
        ] {
            assert_eq!(effects(event, body.clone()).await, meant, "{event} {body}");
        }
    }

    #[tokio::test]
    async fn an_event_that_is_not_as_its_definition_says_is_refused() {
        for (event, body) in [
            ("risk-level-change", json!({"principal": "USER"})),
            (
                "risk-level-change",
                json!({"principal": "USER", "current_level": "SEVERE"}),
            ),
            (
                "risk-level-change",
                json!({"principal": "USER", "current_level": 3}),
            ),
            ("device-compliance-change", json!({"current_status": "fine"})),
            ("assurance-level-change", json!({"current_level": ""})),
            ("assurance-level-change", json!({"current_level": "a\nb"})),
        ] {
            let error = signal(terms(), event, body.clone()).await.unwrap_err();
            assert_eq!(error.code(), Some("invalid_request"), "{event} {body}");
        }
    }

    #[tokio::test]
    async fn a_session_that_was_revoked_keeps_its_user_out_for_a_while() {
        let signal = signal(terms(), "session-revoked", json!({"event_timestamp": at(-60)}))
            .await
            .unwrap();
        let Effect::State { expires_at, .. } = &signal.effects[0] else {
            panic!("no fact");
        };
        let a_day = NOW
            .minus(Duration::from_secs(60))
            .plus(Duration::from_secs(86_400));
        assert_eq!(*expires_at, Some(a_day));
    }

    #[tokio::test]
    async fn of_two_events_in_one_second_the_graver_holds() {
        let since = async |event: &str, body: Value| {
            let signal = signal(terms(), event, body).await.unwrap();
            let Effect::State { at, .. } = signal.effects[0] else {
                panic!("no fact");
            };
            at
        };
        let level = async |level: &str| since("risk-level-change", json!({"current_level": level})).await;
        let [low, medium, high] = [level("low").await, level("medium").await, level("high").await];
        assert!(low < medium && medium < high);
        let device =
            async |status: &str| since("device-compliance-change", json!({"current_status": status})).await;
        assert!(device("compliant").await < device("not-compliant").await);
        let again = since("session-established", json!({})).await;
        assert!(again < since("session-revoked", json!({})).await);
        assert!(
            NOW.since(again) < Duration::from_secs(1),
            "and no event of another second is passed"
        );
    }

    #[tokio::test]
    async fn a_configured_rule_stands_in_the_place_of_the_first_one() {
        let mut terms = terms();
        let claim = |fact: &str, name: &str| FactRule {
            name: fact.parse().unwrap(),
            said: Said::From(Place::claim(name), &[]),
            lasts: None,
        };
        let rule = Rule {
            facts: vec![
                claim("role", "role"),
                claim("department", "https://example.org/a~b"),
                claim("floor", "floor"),
                claim("vip", "vip"),
                claim("gone", "gone"),
                claim("list", "list"),
            ],
            ..Rule::default()
        };
        terms.rules.put(event_type("token-claims-change").unwrap(), rule);
        terms
            .rules
            .put(event_type("account-disabled").unwrap(), Rule::default());
        let body = json!({"claims": {"role": "RO-Admin", "https://example.org/a~b": "Sales", "floor": 7, "vip": true, "gone": null}});
        let stated = signal(terms, "token-claims-change", body).await.unwrap();
        let stated: Vec<_> = stated.effects.iter().map(ToString::to_string).collect();
        assert_eq!(
            stated,
            [
                "role=ro-admin",
                "department=sales",
                "floor=7",
                "vip=true",
                "gone taken back"
            ]
        );
        let mut terms = crate::signal::testing::terms();
        terms
            .rules
            .put(event_type("account-disabled").unwrap(), Rule::default());
        let ignored = signal(terms, "account-disabled", json!({})).await.unwrap();
        assert_eq!(ignored.nothing, Some(Nothing::Ignored));
    }

    #[test]
    fn a_type_is_its_uri_or_the_last_part_of_a_known_one() {
        assert_eq!(
            event_type("risk-level-change").unwrap(),
            format!("{CAEP}risk-level-change")
        );
        assert_eq!(
            event_type("account-purged").unwrap(),
            format!("{RISC}account-purged")
        );
        assert_eq!(event_type("urn:x:y").unwrap(), "urn:x:y");
        assert!(event_type("risk-level-chang").is_err());
        assert_eq!(word(&format!("{CAEP}risk-level-change")), "risk-level-change");
        assert_eq!(word(&format!("{RISC}risk-level-change")), "other");
        assert_eq!(word("urn:x:risk-level-change"), "other");
    }
}
