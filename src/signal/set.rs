//! Security Event Tokens (RFC 8417) as the Shared Signals Framework profiles them (SSF 1.0 §4): one event,
//! for us, of late, and nothing that could be mistaken for a token to get in with.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::digest;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{SignalError, Terms};
use crate::identity::claims::check_header;
use crate::identity::key_source::KeySource;
use crate::keys::jose::{JoseError, Unverified};
use crate::model::strict;
use crate::model::time::Timestamp;

/// The longest token that is looked at, in bytes.
pub const LONGEST: usize = 32 * 1024;
/// The media type of a token, and its `typ` without `application/` (RFC 8417 §2.3).
pub const MEDIA_TYPE: &str = "application/secevent+jwt";
/// The longest `jti` and the longest type of an event, in bytes.
pub const LONGEST_NAME: usize = 256;
/// Numbers from here on are milliseconds. As seconds they would be past the year 5000.
const MILLISECONDS_FROM: u64 = 100_000_000_000;

/// `x5t` and `x5t#S256` only name a certificate; some issuers send them beside `kid`.
const HEADER: [&str; 5] = ["alg", "kid", "typ", "x5t", "x5t#S256"];

/// A token that the transmitter of a stream sent to us. Only verification makes one.
#[derive(Clone, Debug)]
pub struct Set {
    jti: String,
    mark: String,
    at: Timestamp,
    event: String,
    body: Map<String, Value>,
    subject: Option<Value>,
    in_event: bool,
}

impl Set {
    pub(super) async fn verify(
        compact: &str,
        terms: &Terms,
        keys: &KeySource,
        now: Timestamp,
    ) -> Result<Self, SignalError> {
        let token = Unverified::parse(compact, LONGEST).map_err(unreadable)?;
        if !token.header().is_typ(MEDIA_TYPE) {
            return Err(malformed("its `typ` is not `secevent+jwt`"));
        }
        let raw: Box<RawValue> = token.claims().map_err(unreadable)?;
        let Value::Object(claims) = strict::read(raw.get().as_bytes()).map_err(SignalError::Malformed)?
        else {
            return Err(malformed("its claims are no object"));
        };
        // Whose keys it has to be signed with is said by the stream, never by the token.
        if claims.get("iss").and_then(Value::as_str) != Some(&terms.issuer) {
            return Err(SignalError::Issuer);
        }
        check_header(&token, &HEADER, &terms.algorithms)?;
        keys.check(&token).await?;
        Self::read(claims, terms, now)
    }

    /// What the claims of a token say whose signature is good.
    fn read(mut claims: Map<String, Value>, terms: &Terms, now: Timestamp) -> Result<Self, SignalError> {
        if !terms.audiences.meet(audience(&claims).into_iter()) {
            return Err(SignalError::Audience);
        }
        // SSF 1.0 §4.1: what has neither opens no door that an access token or an ID token opens.
        for name in ["sub", "exp"] {
            if claims.contains_key(name) {
                return Err(SignalError::Malformed(format!(
                    "it has `{name}`, which a security event token must not have"
                )));
            }
        }
        let latest = now.plus(terms.skew.as_duration());
        let issued_at = instant(&claims, "iat")?.ok_or_else(|| malformed("it has no `iat`"))?;
        if issued_at > latest || instant(&claims, "nbf")?.is_some_and(|from| from > latest) {
            return Err(malformed("its `iat` or `nbf` is in the future: check the clocks"));
        }
        if now.since(issued_at) > terms.oldest {
            return Err(malformed(
                "its `iat` is longer ago than is accepted of this stream",
            ));
        }
        let jti = match claims.get("jti").and_then(Value::as_str) {
            Some(jti) if is_name(jti) => jti.to_owned(),
            _ => return Err(malformed("it has no `jti` of 1 to 256 bytes")),
        };
        let time_of_event = instant(&claims, "toe")?;
        let (event, body) = the_event(&mut claims)?;
        let at = instant(&body, "event_timestamp")?
            .or(time_of_event)
            .unwrap_or(issued_at);
        if at > latest {
            return Err(malformed("its event is in the future: check the clocks"));
        }
        let (own, in_event) = (claims.remove("sub_id"), body.get("subject").cloned());
        if own.is_some() && in_event.is_some() {
            return Err(malformed("it names two subjects: `sub_id` and one in its event"));
        }
        Ok(Self {
            mark: mark(&terms.issuer, &jti),
            jti,
            at,
            event,
            in_event: in_event.is_some(),
            subject: own.or(in_event),
            body,
        })
    }

    /// The name that its transmitter gave it.
    pub fn jti(&self) -> &str {
        &self.jti
    }

    /// A short name for it that no other token of any issuer has.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// When what it tells of happened.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The type of its event: a URI.
    pub fn event(&self) -> &str {
        &self.event
    }

    /// A member of its event that is a text.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.body.get(member).and_then(Value::as_str)
    }

    /// The members of its event.
    pub(super) fn body(&self) -> &Map<String, Value> {
        &self.body
    }

    /// The subject identifier, unread.
    pub(super) fn subject(&self) -> Option<&Value> {
        self.subject.as_ref()
    }

    /// Whether the subject stands in the event, as it did in earlier drafts of CAEP and RISC.
    pub(super) fn is_in_event(&self) -> bool {
        self.in_event
    }
}

fn malformed(reason: &str) -> SignalError {
    SignalError::Malformed(reason.to_owned())
}

fn unreadable(error: JoseError) -> SignalError {
    match error {
        JoseError::UnknownAlgorithm => SignalError::Key(error.to_string()),
        _ => SignalError::Malformed(error.to_string()),
    }
}

/// A short name for a text that could not be verified.
pub fn digest_of(compact: &str) -> String {
    mark("", compact)
}

/// Whether it can be a `jti` or the type of an event.
pub(super) fn is_name(text: &str) -> bool {
    (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Issuers are free in what they call a token, so a name counts only together with theirs.
fn mark(issuer: &str, jti: &str) -> String {
    let text = format!("{issuer}\n{jti}");
    BASE64URL.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// `aud` is one text or an array of texts (RFC 7519 §4.1.3). What is neither names nobody.
fn audience(claims: &Map<String, Value>) -> Vec<&str> {
    match claims.get("aud") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Seconds since the epoch. CAEP had milliseconds in its examples for years, and some still send them.
fn instant(members: &Map<String, Value>, name: &str) -> Result<Option<Timestamp>, SignalError> {
    let Some(value) = members.get(name) else {
        return Ok(None);
    };
    let whole = value.as_u64().map(|number| match number {
        MILLISECONDS_FROM.. => Timestamp::from_millis(number),
        _ => Timestamp::from_secs(number),
    });
    let parts = || {
        let seconds = value.as_f64().and_then(|s| Duration::try_from_secs_f64(s).ok())?;
        (seconds.as_secs() < MILLISECONDS_FROM).then(|| Timestamp::EPOCH.plus(seconds))
    };
    whole
        .or_else(parts)
        .map(Some)
        .ok_or_else(|| SignalError::Malformed(format!("its `{name}` is not a time in seconds")))
}

/// The one event (SSF 1.0 §4.2.2).
fn the_event(claims: &mut Map<String, Value>) -> Result<(String, Map<String, Value>), SignalError> {
    let Some(Value::Object(events)) = claims.remove("events") else {
        return Err(malformed("it has no `events`"));
    };
    let mut events = events.into_iter();
    match (events.next(), events.next()) {
        (Some((event, Value::Object(body))), None) if is_name(&event) => Ok((event, body)),
        (Some(_), None) => Err(malformed("its event is no object with a name of 1 to 256 bytes")),
        _ => Err(malformed("it has not exactly one event")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::signal::testing::{Idp, NOW, SESSION_REVOKED, US, at, claims, terms, with};

    fn good() -> Value {
        claims(SESSION_REVOKED, json!({"event_timestamp": at(-20)}))
    }

    async fn refusal(idp: &Idp, compact: &str) -> (Option<&'static str>, String) {
        let error = idp.stream.verify(compact, NOW).await.unwrap_err();
        (error.code(), error.to_string())
    }

    #[tokio::test]
    async fn a_token_of_the_transmitter_is_taken() {
        let idp = Idp::new();
        let set = idp.stream.verify(&idp.sign(&good()).await, NOW).await.unwrap();
        assert_eq!((set.jti(), set.event()), ("set-1", SESSION_REVOKED));
        assert_eq!(set.at(), NOW.minus(Duration::from_secs(20)));
        for changes in [
            json!({"aud": ["https://other.example.org", US]}),
            json!({"nobody": {"knows": "this"}}),
            json!({"nbf": at(30)}),
            json!({"iat": at(-3600)}),
            json!({"iat": at(30)}),
        ] {
            let token = idp.sign(&with(&good(), changes)).await;
            assert!(idp.stream.verify(&token, NOW).await.is_ok());
        }
    }

    #[tokio::test]
    async fn what_happened_when_is_said_by_the_event_first() {
        let idp = Idp::new();
        let cases = [
            (
                json!({"event_timestamp": at(-20)}),
                NOW.minus(Duration::from_secs(20)),
            ),
            // As older drafts had it.
            (
                json!({"event_timestamp": at(-20) * 1000 + 7}),
                NOW.minus(Duration::from_millis(19_993)),
            ),
            (json!({"event_timestamp": 0.5}), Timestamp::from_millis(500)),
            (json!({}), NOW.minus(Duration::from_secs(40))),
        ];
        for (body, when) in cases {
            let claims = with(&claims(SESSION_REVOKED, body), json!({"toe": at(-40)}));
            let set = idp.stream.verify(&idp.sign(&claims).await, NOW).await.unwrap();
            assert_eq!(set.at(), when);
        }
        let set = idp
            .stream
            .verify(&idp.sign(&claims("urn:x", json!({}))).await, NOW)
            .await;
        assert_eq!(set.unwrap().at(), NOW);
    }

    #[tokio::test]
    async fn what_the_transmitter_did_not_say_to_us_of_late_is_refused() {
        let idp = Idp::new();
        let event = |value: Value| json!({ "events": value });
        for (changes, code, says) in [
            (
                json!({"iss": "https://evil.example.org"}),
                "invalid_issuer",
                "`iss`",
            ),
            (json!({"iss": null}), "invalid_issuer", "`iss`"),
            (
                json!({"aud": "https://other.example.org"}),
                "invalid_audience",
                "`aud`",
            ),
            (json!({"aud": null}), "invalid_audience", "`aud`"),
            (json!({"aud": [7]}), "invalid_audience", "`aud`"),
            (json!({"sub": "ann"}), "invalid_request", "`sub`"),
            (json!({"exp": at(300)}), "invalid_request", "`exp`"),
            (json!({"iat": at(31)}), "invalid_request", "future"),
            (json!({"nbf": at(31)}), "invalid_request", "future"),
            (json!({"iat": at(-3601)}), "invalid_request", "longer ago"),
            (json!({"iat": null}), "invalid_request", "no `iat`"),
            (json!({"iat": "now"}), "invalid_request", "not a time"),
            (json!({"iat": -1}), "invalid_request", "not a time"),
            (json!({"jti": null}), "invalid_request", "no `jti`"),
            (json!({"jti": ""}), "invalid_request", "no `jti`"),
            (json!({"jti": "a\nb"}), "invalid_request", "no `jti`"),
            (json!({"jti": "a".repeat(257)}), "invalid_request", "no `jti`"),
            (json!({"events": null}), "invalid_request", "no `events`"),
            (event(json!({})), "invalid_request", "exactly one event"),
            (
                event(json!({"urn:a": {}, "urn:b": {}})),
                "invalid_request",
                "exactly one event",
            ),
            (event(json!({"urn:a": []})), "invalid_request", "no object"),
            (event(json!({"": {}})), "invalid_request", "no object"),
            (
                event(json!({"urn:a": {"event_timestamp": at(31)}})),
                "invalid_request",
                "future",
            ),
            (
                event(json!({"urn:a": {"event_timestamp": "1"}})),
                "invalid_request",
                "not a time",
            ),
            (
                event(json!({"urn:a": {"subject": {"format": "email", "email": "a@example.org"}}})),
                "invalid_request",
                "two subjects",
            ),
        ] {
            let (told, why) = refusal(&idp, &idp.sign(&with(&good(), changes.clone())).await).await;
            assert_eq!(told, Some(code), "{changes}");
            assert!(why.contains(says), "{changes}: {why}");
        }
    }

    #[tokio::test]
    async fn what_is_signed_otherwise_is_refused() {
        let (idp, other) = (Idp::new(), Idp::new());
        let good = good().to_string();
        for (changes, code) in [
            (json!({"typ": "JWT"}), "invalid_request"),
            (json!({"typ": null}), "invalid_request"),
            (json!({"alg": "none"}), "invalid_key"),
            (json!({"alg": "HS256"}), "invalid_key"),
            (json!({"alg": "ES384"}), "invalid_key"),
            (json!({"alg": "EdDSA"}), "invalid_key"),
            (json!({"kid": null}), "invalid_key"),
            (json!({"kid": "another"}), "invalid_key"),
            (json!({"jku": "https://evil.example.org/keys"}), "invalid_key"),
            (json!({"crit": ["b64"]}), "invalid_request"),
        ] {
            let token = idp.sign_with(&with(&idp.header(), changes.clone()), &good).await;
            assert_eq!(refusal(&idp, &token).await.0, Some(code), "{changes}");
        }
        let forged = other.sign_with(&idp.header(), &good).await;
        assert_eq!(refusal(&idp, &forged).await.0, Some("invalid_key"));
        let token = idp.sign_with(&idp.header(), &good).await;
        let (head, signature) = token.rsplit_once('.').unwrap();
        assert_eq!(refusal(&idp, &format!("{head}.")).await.0, Some("invalid_key"));
        let other = idp
            .sign_with(&idp.header(), &good.replace("set-1", "set-2"))
            .await;
        let (other, _) = other.rsplit_once('.').unwrap();
        assert_eq!(
            refusal(&idp, &format!("{other}.{signature}")).await.0,
            Some("invalid_key")
        );
    }

    #[tokio::test]
    async fn what_can_be_read_in_two_ways_is_refused() {
        let idp = Idp::new();
        let good = good().to_string();
        for (from, to) in [
            ("\"iss\"", "\"jti\":\"set-0\",\"iss\""),
            ("\"format\"", "\"sub\":\"bob\",\"format\""),
            (
                "\"event_timestamp\"",
                "\"x\":{\"y\":1,\"y\":2},\"event_timestamp\"",
            ),
        ] {
            let twice = good.replacen(from, to, 1);
            assert_ne!(twice, good);
            let (code, why) = refusal(&idp, &idp.sign_with(&idp.header(), &twice).await).await;
            assert_eq!(code, Some("invalid_request"));
            assert!(why.contains("twice"), "{why}");
        }
        let deep = good.replacen(
            "{\"event_timestamp\"",
            &format!(
                "{{\"x\":{}1{},\"event_timestamp\"",
                "[".repeat(50),
                "]".repeat(50)
            ),
            1,
        );
        assert_eq!(
            refusal(&idp, &idp.sign_with(&idp.header(), &deep).await).await.0,
            Some("invalid_request")
        );
        let long = with(
            &serde_json::from_str(&good).unwrap(),
            json!({"x": "a".repeat(LONGEST)}),
        );
        let (code, why) = refusal(&idp, &idp.sign(&long).await).await;
        assert_eq!(code, Some("invalid_request"));
        assert!(why.contains("longer than"), "{why}");
    }

    #[tokio::test]
    async fn a_name_counts_together_with_its_issuer() {
        let idp = Idp::new();
        let other = Idp::with(Terms {
            issuer: "https://other.example.org".into(),
            ..terms()
        });
        let set = idp.stream.verify(&idp.sign(&good()).await, NOW).await.unwrap();
        let again = idp.stream.verify(&idp.sign(&good()).await, NOW).await.unwrap();
        let theirs = with(&good(), json!({"iss": "https://other.example.org"}));
        let theirs = other
            .stream
            .verify(&other.sign(&theirs).await, NOW)
            .await
            .unwrap();
        assert_eq!(set.mark(), again.mark());
        assert_ne!(set.mark(), theirs.mark());
        assert_eq!(set.mark().len(), 43);
    }

    /// Values like those in tokens, and everything else.
    fn any_json() -> impl Strategy<Value = Value> {
        let word = proptest::sample::select(vec![
            "iss",
            "aud",
            "iat",
            "jti",
            "events",
            "sub_id",
            "subject",
            "format",
            "complex",
            "aliases",
            "identifiers",
            "user",
            "email",
            "iss_sub",
            "event_timestamp",
            "claims",
            "\u{0}",
            "",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            word.clone().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(word.clone(), inner, 0..5)
                    .prop_map(|members| members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
            ]
        })
    }

    fn interpret(claims: Value) -> Result<(), SignalError> {
        let idp = Idp::new();
        let Value::Object(claims) = claims else {
            return Ok(());
        };
        let set = Set::read(claims, &terms(), NOW)?;
        idp.stream.interpret(&set).map(|_| ())
    }

    proptest! {
        #[test]
        fn no_bytes_are_taken_for_a_token(bytes in proptest::collection::vec(any::<u8>(), 0..400), text in "[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}") {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let idp = Idp::new();
            let lossy = String::from_utf8_lossy(&bytes).into_owned();
            let encoded = BASE64URL.encode(&bytes);
            let header = BASE64URL.encode(idp.header().to_string());
            for compact in [lossy, text, format!("{header}.{encoded}.{encoded}"), format!("{encoded}.{encoded}.")] {
                prop_assert!(runtime.block_on(idp.stream.verify(&compact, NOW)).is_err());
            }
        }

        /// Whatever a transmitter signs is a signal or an error that says what to change.
        #[test]
        fn whatever_is_signed_is_understood_or_refused(changes in any_json(), body in any_json(), subject in any_json(), risk in any::<bool>()) {
            let event = if risk { "https://schemas.openid.net/secevent/caep/event-type/risk-level-change" } else { SESSION_REVOKED };
            let mut claims = claims(event, body);
            claims["sub_id"] = subject;
            if let Value::Object(changes) = changes {
                claims.as_object_mut().unwrap().extend(changes);
            }
            if let Err(error) = interpret(claims) {
                prop_assert!(error.code().is_some());
            }
        }
    }
}
