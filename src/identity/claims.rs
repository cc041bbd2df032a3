//! What all kinds of token evidence have in common: registered claims (RFC 7519 §4.1), times,
//! audiences, and the flattening of claims for match rules.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Claimed, Evidence, IdentityError};
use crate::keys::Algorithm;
use crate::keys::jose::{JoseError, Unverified};
use crate::model::name::InvalidName;
use crate::model::time::Timestamp;

/// How many claims are kept for match rules, and how long each may be, in bytes.
const MOST: usize = 64;
const LONGEST: usize = 256;

/// Our names as a recipient: evidence that is for somebody else proves nothing to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audiences(Vec<String>);

impl Audiences {
    /// At least one name, none of them empty.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, InvalidName> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if names.is_empty() || names.iter().any(|name| name.trim().is_empty()) {
            return Err(InvalidName::new(
                "audience",
                "",
                "name at least one audience, such as the address of this broker",
            ));
        }
        Ok(Self(names))
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Whether one of these names is ours.
    pub(crate) fn meet<'a>(&self, mut names: impl Iterator<Item = &'a str>) -> bool {
        names.any(|name| self.0.iter().any(|ours| ours == name))
    }
}

/// How far an issuer's clock may run ahead of ours: 60 seconds at most, 30 by default.
///
/// It excuses `nbf` and `iat`, and certificates that are not good yet. It does not excuse `exp`: evidence ends when it says so, for the
/// cache and for every credential that rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew(Duration);

impl Skew {
    /// The longest that is accepted.
    pub const MOST: Duration = Duration::from_secs(60);

    /// A skew, refused above 60 seconds.
    pub fn new(skew: Duration) -> Result<Self, InvalidName> {
        if skew > Self::MOST {
            return Err(InvalidName::new(
                "clock skew",
                &format!("{skew:?}"),
                "use 60 seconds at most",
            ));
        }
        Ok(Self(skew))
    }

    /// How far.
    pub fn as_duration(self) -> Duration {
        self.0
    }
}

impl Default for Skew {
    fn default() -> Self {
        Self(Duration::from_secs(30))
    }
}

/// What a token has to keep to, whatever its kind.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Our names.
    pub audiences: Audiences,
    /// How far the issuer's clock may run ahead.
    pub skew: Skew,
    /// The longest life that is accepted: from `iat`, or from now without it, to `exp`.
    pub longest_life: Duration,
}

impl Terms {
    /// Checks times and audience. The answer is when the token ends.
    pub(super) fn check(&self, claims: &Claims, now: Timestamp) -> Result<Timestamp, IdentityError> {
        let expires_at = claims
            .time("exp")?
            .ok_or_else(|| refused("it has no `exp`, so it would never end"))?;
        let issued_at = claims.time("iat")?;
        let latest = now.plus(self.skew.0);
        if expires_at <= now {
            return Err(IdentityError::Untimely("it has expired; get a new one".into()));
        }
        if claims.time("nbf")?.is_some_and(|from| from > latest) {
            return Err(IdentityError::Untimely("its `nbf` is in the future".into()));
        }
        if issued_at.is_some_and(|at| at > latest) {
            return Err(IdentityError::Untimely("its `iat` is in the future".into()));
        }
        if expires_at.since(issued_at.unwrap_or(now)) > self.longest_life {
            return Err(refused(format!(
                "it lives longer than the {} s that are accepted",
                self.longest_life.as_secs()
            )));
        }
        if !self.audiences.meet(claims.audience()?.into_iter()) {
            return Err(refused("its `aud` is not this broker"));
        }
        Ok(expires_at)
    }
}

/// The claims of a token.
#[derive(Clone, Debug)]
pub(super) struct Claims(Map<String, Value>);

impl Claims {
    pub(super) fn of(token: &Unverified<'_>) -> Result<Self, IdentityError> {
        token.claims().map(Self).map_err(malformed)
    }

    /// What a verifier is chosen by.
    pub(super) fn claimed<'a>(&'a self, token: &'a Unverified<'_>) -> Claimed<'a> {
        let text = |name| self.0.get(name).and_then(Value::as_str);
        Claimed {
            key_id: token.header().kid.as_deref(),
            issuer: text("iss"),
            subject: text("sub"),
        }
    }

    /// A claim that has to be there, as text.
    pub(super) fn text(&self, name: &str) -> Result<&str, IdentityError> {
        self.0
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| refused(format!("it has no `{name}`")))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// `aud` is one text or an array of texts (RFC 7519 §4.1.3).
    fn audience(&self) -> Result<Vec<&str>, IdentityError> {
        let wrong = || IdentityError::Malformed("its `aud` is not a text or a list of texts".into());
        match self.0.get("aud") {
            None => Err(refused("it has no `aud`, so it would be good anywhere")),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(many)) => many.iter().map(|v| v.as_str().ok_or_else(wrong)).collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// A `NumericDate` (RFC 7519 §2): seconds, maybe with a fraction.
    fn time(&self, name: &str) -> Result<Option<Timestamp>, IdentityError> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let whole = value.as_u64().map(Duration::from_secs);
        let seconds = || value.as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok());
        whole
            .or_else(seconds)
            .map(|since| Some(Timestamp::EPOCH.plus(since)))
            .ok_or_else(|| IdentityError::Malformed(format!("its `{name}` is not a time in seconds")))
    }

    /// The claims for match rules.
    ///
    /// Nested names are joined by `.`, numbers and booleans are written out, lists of texts are joined
    /// by `,`. What would not read in one way only is left out, so that no rule can match it: a list
    /// with a comma in an element, a list of lists, a value of more than 256 bytes. So are the claims
    /// that differ in every token, and what comes after the first 64 in the order of names. Two claims
    /// with the same flattened name are a refusal.
    pub(super) fn flatten(&self) -> Result<BTreeMap<String, String>, IdentityError> {
        let mut flat = BTreeMap::new();
        let lasting = |name: &str| !matches!(name, "exp" | "nbf" | "iat" | "jti");
        for (name, value) in self.0.iter().filter(|(name, _)| lasting(name)) {
            flatten_into(&mut flat, name.clone(), value)?;
        }
        flat.retain(|name, value| name.len() <= LONGEST && value.len() <= LONGEST);
        Ok(flat.into_iter().take(MOST).collect())
    }
}

fn flatten_into(
    flat: &mut BTreeMap<String, String>,
    name: String,
    value: &Value,
) -> Result<(), IdentityError> {
    let text = match value {
        Value::Null => None,
        Value::Object(members) => {
            for (member, value) in members {
                flatten_into(flat, format!("{name}.{member}"), value)?;
            }
            None
        }
        Value::Array(elements) => {
            let texts: Option<Vec<String>> = elements.iter().map(scalar).collect();
            texts
                .filter(|texts| texts.iter().all(|text| !text.contains(',')))
                .map(|t| t.join(","))
        }
        _ => scalar(value),
    };
    match text.and_then(|text| flat.insert(name, text)) {
        Some(_) => Err(refused(
            "two of its claims have the same name once joined by dots",
        )),
        None => Ok(()),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Takes evidence apart. Nothing in it is true yet.
pub(super) fn parse(evidence: &Evidence) -> Result<Unverified<'_>, IdentityError> {
    Unverified::parse(evidence.expose(), Evidence::LONGEST).map_err(malformed)
}

/// Checks that the header has no member but these, names its key, and uses one of these algorithms.
///
/// A header that brings its own key or says where to fetch one (`jwk`, `jku`, `x5c`, `x5u`) is an
/// attack, not a convenience (RFC 8725 §3.10).
pub(crate) fn check_header(
    token: &Unverified<'_>,
    members: &[&str],
    algorithms: &[Algorithm],
) -> Result<(), IdentityError> {
    let header = token.header();
    if let Some(odd) = header.members().find(|name| !members.contains(name)) {
        let shown: String = odd.chars().take(32).flat_map(char::escape_default).collect();
        return Err(refused(format!(
            "its header has `{shown}`, which is not accepted"
        )));
    }
    if !algorithms.contains(&header.algorithm) {
        let name = header.algorithm.as_str();
        return Err(refused(format!("its algorithm {name} is not accepted here")));
    }
    match &header.kid {
        Some(kid) if !kid.is_empty() => Ok(()),
        _ => Err(refused("its header does not name its key (`kid`)")),
    }
}

pub(super) fn malformed(error: JoseError) -> IdentityError {
    match error {
        JoseError::UnknownAlgorithm | JoseError::Critical => IdentityError::Refused(error.to_string()),
        _ => IdentityError::Malformed(error.to_string()),
    }
}

pub(super) fn refused(reason: impl Into<String>) -> IdentityError {
    IdentityError::Refused(reason.into())
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::identity::testing::{NOW, US, at, terms};

    fn flat(claims: Value) -> Result<BTreeMap<String, String>, IdentityError> {
        Claims(claims.as_object().unwrap().clone()).flatten()
    }

    #[test]
    fn flattens_into_text_that_reads_in_one_way() {
        let claims = flat(json!({
            "repository": "example/bot", "run": 7, "protected": true, "none": null, "jti": "x", "exp": 1,
            "google": {"compute": {"zone": "eu"}}, "groups": ["a", "b"], "empty": [],
            "sly": ["a,b", "c"], "deep": [["a"]], "long": "x".repeat(257), "fits": "x".repeat(256),
        }))
        .unwrap();
        let names: Vec<_> = claims.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "empty",
                "fits",
                "google.compute.zone",
                "groups",
                "protected",
                "repository",
                "run"
            ]
        );
        assert_eq!(claims["groups"], "a,b");
        assert_eq!(claims["run"], "7");
        assert_eq!(claims["empty"], "");
    }

    #[test]
    fn keeps_no_more_than_64_claims() {
        let many: Map<String, Value> = (0..100).map(|n| (format!("c{n:03}"), json!("x"))).collect();
        let claims = flat(Value::Object(many)).unwrap();
        assert_eq!(claims.len(), 64);
        assert!(claims.contains_key("c063") && !claims.contains_key("c064"));
    }

    #[test]
    fn refuses_two_claims_under_one_name() {
        for claims in [
            json!({"a.b": "1", "a": {"b": "2"}}),
            json!({"a": {"b.c": 1, "b": {"c": 2}}}),
        ] {
            assert!(flat(claims).is_err());
        }
    }

    #[test]
    fn an_audience_is_named_and_a_skew_is_short() {
        assert!(Audiences::new(Vec::<String>::new()).is_err());
        assert!(Audiences::new([""]).is_err());
        assert!(Skew::new(Duration::from_secs(60)).is_ok());
        assert!(Skew::new(Duration::from_millis(60_001)).is_err());
    }

    proptest! {
        /// Skew 30 s, longest life an hour, all in seconds from now.
        #[test]
        fn a_token_is_timely_exactly_when_its_times_say_so(
            exp in -100i64..4000, nbf in option::of(-100i64..100), iat in option::of(-100i64..100),
        ) {
            let mut claims = json!({"aud": US, "exp": at(exp)});
            for (name, time) in [("nbf", nbf), ("iat", iat)] {
                if let Some(time) = time {
                    claims[name] = at(time).into();
                }
            }
            let outcome = Claims(claims.as_object().unwrap().clone());
            let outcome = terms().check(&outcome, NOW);
            let life = exp - iat.unwrap_or(0);
            let timely = exp > 0 && nbf.is_none_or(|t| t <= 30) && iat.is_none_or(|t| t <= 30) && life <= 3600;
            prop_assert_eq!(outcome.is_ok(), timely);
            if let Ok(expires_at) = outcome {
                prop_assert_eq!(i64::try_from(expires_at.as_secs()).unwrap(), at(exp));
            }
        }
    }
}
