//! What is accepted, and what is not.

use serde_json::{Value, json};

use super::cutoff::{Cutoff, Selector};
use super::testing::{
    AUDIENCE, ISSUER, ManualClock, SigningKey, claims_of, key, keys, later, seconds, start,
};
use super::*;

struct Fixture {
    state: State,
    clock: ManualClock,
    key: SigningKey,
}

fn settings() -> Settings {
    Settings {
        evidence: Some(Evidence::none()),
        ..Settings::new(ISSUER, AUDIENCE)
    }
}

fn fixture() -> Fixture {
    let clock = ManualClock::at(start());
    let read = clock.clone();
    let state = State::new(settings(), Box::new(move || read.now())).unwrap();
    let key = key();
    *state.keys.write().unwrap() = Arc::new(keys(&[&key]));
    state.as_of.send_replace(Some(start()));
    Fixture { state, clock, key }
}

impl Fixture {
    fn check(&self, claims: &Value) -> Result<Claims, Refusal> {
        self.state.check(&self.key.sign(TYP, claims))
    }
}

fn good() -> Value {
    claims_of("support-bot", start(), 1)
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

#[test]
fn accepts_a_good_token_for_what_it_permits_and_for_nothing_else() {
    let claims = fixture().check(&good()).unwrap();
    assert_eq!(claims.demand("read", Some("customers/42")), Ok(()));
    let refusal = claims.demand("write", Some("customers/42")).unwrap_err();
    assert_eq!(
        (refusal.status(), refusal.error()),
        (403, Some("insufficient_scope"))
    );
    assert_eq!(claims.user(), Some("user-of-support-bot"));
}

#[test]
fn refuses_each_claim_that_is_not_as_it_has_to_be() {
    let fixture = fixture();
    let secs = seconds(start());
    for (name, value, wanted) in [
        ("iss", json!("https://other.example.org"), Refusal::OtherIssuer),
        ("iss", json!(format!("{ISSUER}/")), Refusal::OtherIssuer),
        ("aud", json!("https://crm.example.org"), Refusal::OtherAudience),
        ("cnf", json!({"jkt": "x"}), Refusal::Bound),
        ("exp", json!(secs), Refusal::Expired),
        ("exp", json!(0), Refusal::Expired),
        ("nbf", json!(secs + 31), Refusal::NotYetValid),
        ("iat", json!(secs + 31), Refusal::NotYetValid),
        ("exp", json!(secs + 3601), Refusal::TooLongLived),
    ] {
        assert_eq!(
            fixture.check(&with(name, value.clone())),
            Err(wanted),
            "{name} {value}"
        );
    }
    let detail = |name: &str, value: Value| {
        let mut detail = good()["authorization_details"][0].clone();
        detail[name] = value;
        json!([detail])
    };
    for (name, value) in [
        ("aud", json!([AUDIENCE])),
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("jti", json!("lse_1")),
        ("jti", claims_of("support-bot", start(), 2)["jti"].clone()),
        ("sub", json!("a\nb")),
        ("sub", json!(" ")),
        ("authorization_details", detail("type", json!("other"))),
        ("authorization_details", detail("only", json!("x"))),
        (
            "authorization_details",
            detail("resources", json!(["customers/.."])),
        ),
    ] {
        let outcome = fixture.check(&with(name, value.clone()));
        let malformed = matches!(outcome, Err(Refusal::Token(InvalidToken::Malformed(..))));
        assert!(malformed, "{name} {value}: {outcome:?}");
    }
}

#[test]
fn refuses_a_token_without_a_claim_that_it_needs() {
    let fixture = fixture();
    for name in [
        "iss",
        "sub",
        "sub_profile",
        "aud",
        "client_id",
        "iat",
        "nbf",
        "exp",
        "jti",
        "txn",
        "authorization_details",
        "https://dayfly.dev/claims",
    ] {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name).unwrap();
        assert!(fixture.check(&claims).is_err(), "{name}");
    }
}

#[test]
fn a_detail_for_another_place_permits_nothing_here() {
    let details =
        json!([{"type": "dayfly_access", "locations": ["https://other.example.org"], "actions": ["read"]}]);
    let claims = fixture().check(&with("authorization_details", details)).unwrap();
    assert!(claims.demand("read", None).is_err());
}

#[test]
fn refuses_other_kinds_of_tokens_and_other_keys() {
    let fixture = fixture();
    for typ in ["JWT", "dpop+jwt", "secevent+jwt", ""] {
        let token = fixture.key.sign(typ, &good());
        assert_eq!(fixture.state.check(&token), Err(Refusal::OtherType), "{typ}");
    }
    let stranger = key().sign(TYP, &good());
    assert_eq!(fixture.state.check(&stranger), Err(InvalidToken::NoKey.into()));
    let liar = key().renamed(fixture.key.kid()).sign(TYP, &good());
    assert_eq!(fixture.state.check(&liar), Err(InvalidToken::BadSignature.into()));
    assert_eq!(
        fixture.state.check("x").unwrap_err().error(),
        Some("invalid_token")
    );
    let long = "a".repeat(LONGEST_TOKEN + 1);
    assert_eq!(
        fixture.state.check(&long),
        Err(InvalidToken::TooLong(LONGEST_TOKEN).into())
    );
}

#[test]
fn the_skew_of_clocks_delays_nothing_and_prolongs_nothing() {
    let fixture = fixture();
    let token = fixture.key.sign(TYP, &good());
    for (at, wanted) in [
        (start() - Duration::from_secs(30), None),
        (start() - Duration::from_secs(31), Some(Refusal::NotYetValid)),
        (start() + Duration::from_millis(299_999), None),
        (later(300), Some(Refusal::Expired)),
    ] {
        fixture.clock.set(at);
        fixture.state.as_of.send_replace(Some(at));
        assert_eq!(fixture.state.check(&token).err(), wanted, "{at:?}");
    }
}

#[test]
fn a_cutoff_refuses_a_token_at_once() {
    let fixture = fixture();
    assert!(fixture.check(&good()).is_ok());
    let cutoff = Cutoff {
        selector: Selector::Agent("support-bot".to_owned()),
        up_to: start(),
        at: start(),
        cause: "revoked".into(),
    };
    fixture
        .state
        .denied
        .write()
        .unwrap()
        .apply(&cutoff, start())
        .unwrap();
    assert_eq!(fixture.check(&good()), Err(Refusal::Revoked("revoked".into())));
    assert!(fixture.check(&claims_of("billing-bot", start(), 2)).is_ok());
}

#[test]
fn refuses_everything_when_the_feed_was_not_read_lately() {
    let fixture = fixture();
    let token = fixture.key.sign(TYP, &good());
    fixture.clock.set(later(10));
    assert!(fixture.state.check(&token).is_ok());
    fixture.clock.set(later(10) + Duration::from_millis(1));
    let refusal = fixture.state.check(&token).unwrap_err();
    assert_eq!((&refusal, refusal.status()), (&Refusal::Stale, 503));
    fixture.state.as_of.send_replace(None);
    assert_eq!(fixture.state.check(&token), Err(Refusal::Stale), "never read");
}

#[tokio::test]
async fn refuses_settings_that_would_weaken_it() {
    type Change = fn(&mut Settings);
    let changes: [Change; 5] = [
        |settings| settings.skew = Duration::from_secs(61),
        |settings| settings.max_staleness = Duration::from_secs(4),
        |settings| settings.audience = String::new(),
        |settings| settings.feed = "not a url".into(),
        |settings| {
            settings.feed = "http://dayfly.example.org/v1/revocations".into();
            settings.evidence = Some(Evidence::text("eyJ"));
        },
    ];
    assert!(Verifier::follow(settings()).is_ok());
    for (number, change) in changes.into_iter().enumerate() {
        let mut bad = settings();
        change(&mut bad);
        assert!(Verifier::follow(bad).is_err(), "{number}");
    }
}

#[test]
fn a_verifier_needs_a_runtime_and_says_so() {
    assert!(Verifier::follow(settings()).is_err());
}
