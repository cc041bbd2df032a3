//! What is signed can be verified with the verifier key alone, and nothing else can.

use serde_json::{Value, json};

use super::*;
use crate::entropy::OsEntropy;
use crate::journal::note::Note;
use crate::keys::Algorithm;
use crate::keys::jose;
use crate::keys::ring_keys::RingSigner;
use crate::model::ids::DecisionId;
use crate::model::lease::Ending;
use crate::model::ttl::Bound;

const ISSUER: &str = "https://dayfly.example.org";
const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);

/// What the tests below sign, byte for byte: Ed25519 signatures are deterministic (RFC 8032 §5.1.6), and
/// what is kept of a receipt is of use only as long as its text is made again just so.
const SIGNED: &str = "eyJhbGciOiJFZERTQSIsImtpZCI6IjNkODI3YTBiIiwidHlwIjoiZGF5Zmx5LXJlY2VpcHQrand0In0.eyJpc3MiOiJodHRwczovL2RheWZseS5leGFtcGxlLm9yZyIsImlhdCI6MTc5NTMyOTAwMCwibGVhc2UiOiJsc2VfMDFtODB6NTBzdGU0MHI0MGcyMDgxMDQwZzIiLCJ0YXNrIjoidHNrXzAxbTgwejUwc3RlNDByMjA4MTA0MGcyMDgxIiwiYWdlbnQiOiJzdXBwb3J0LWJvdCIsInRvb2wiOiJjcm0iLCJwcm92aWRlciI6ImNybS1kYiIsImhhbmRsZSI6ImRheWZseV8wYTFiIiwiY2F1c2UiOiJyZXZva2VkIiwicHJvb2YiOiJ2ZXJpZmllZF9hYnNlbnQiLCJwcm92ZW5fYXQiOiIyMDI2LTExLTIyVDA2OjMwOjAwLjI1MFoifQ.1BSktwxG4nDDURDk2OpCHTVjzeNRlAKtmZjQe3StFSxXbOAWE7aOD1F_G7ZOPLQCcrN-HrxOZR2hjz01P6GYAg";

fn signer() -> NoteSigner {
    NoteSigner::from_seed("dayfly.test/journal", &[7; 32]).unwrap()
}

fn key() -> [NoteVerifier; 1] {
    [signer().verifier()]
}

fn lease() -> Lease {
    let task = TaskId::new(AT, [1; 10]);
    Lease {
        id: LeaseId::new(task, AT, [2; 10]),
        task,
        agent: "support-bot".parse().unwrap(),
        environment: "production".parse().unwrap(),
        trust_domain: None,
        on_behalf_of: Some("user-4711".parse().unwrap()),
        delegators: Vec::new(),
        tool: "crm".parse().unwrap(),
        actions: ["read".parse().unwrap()].into(),
        resources: [].into(),
        provider: "crm-db".parse().unwrap(),
        handle: Some(Handle("dayfly_0a1b".to_owned())),
        ending: Ending::Immediate,
        decision: DecisionId::new(AT, [3; 10]),
        issued_at: AT,
        expires_at: AT,
        bounded_by: Bound::Policy,
        requested: None,
        vouched: None,
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Active,
    }
}

fn sign(lease: &Lease) -> Signed {
    let receipt = Receipt::VerifiedAbsent { at: AT };
    let signer = ReceiptSigner::new(ISSUER, signer());
    signer.sign(lease, Cause::Revoked, receipt, AT).unwrap()
}

/// A JWS of this header and these claims, signed by the audit key.
fn forged(header: &Value, claims: &Value) -> String {
    let input = format!(
        "{}.{}",
        BASE64URL.encode(header.to_string()),
        BASE64URL.encode(claims.to_string())
    );
    let signature = signer().sign_jws(&input).unwrap();
    format!("{input}.{}", BASE64URL.encode(signature))
}

fn header() -> Value {
    json!({"alg": "EdDSA", "kid": kid(signer().id()), "typ": TYP})
}

fn claims() -> Value {
    Unverified::parse(&sign(&lease()).text, LONGEST)
        .unwrap()
        .claims()
        .unwrap()
}

fn refusal(text: &str) -> InvalidReceipt {
    verify(text, &key()).unwrap_err()
}

#[test]
fn a_receipt_states_what_the_lease_and_its_end_say() {
    let lease = lease();
    let text = sign(&lease).text;
    let keys = key();
    let (claims, by) = verify(&text, &keys).unwrap();
    let expected = Claims {
        issuer: ISSUER.to_owned(),
        at: Timestamp::from_secs(AT.as_secs()),
        lease: lease.id,
        task: lease.task,
        agent: lease.agent,
        tool: lease.tool,
        provider: lease.provider,
        handle: lease.handle,
        cause: Cause::Revoked,
        receipt: Receipt::VerifiedAbsent { at: AT },
    };
    assert_eq!(claims, expected);
    assert_eq!(by, &keys[0]);
    assert!(!text.contains("user-4711"), "for whom is nobody else's to know");
}

#[test]
fn its_form_is_fixed() {
    assert_eq!(sign(&lease()).text, SIGNED);
}

#[test]
fn every_kind_of_proof_and_cause_can_be_stated_and_made_again_from_the_lease() {
    let signer = ReceiptSigner::new(ISSUER, signer());
    let kinds = [
        "verified_absent",
        "denied_at",
        "expires_at",
        "outlived",
        "abandoned",
    ];
    for receipt in kinds.map(|word| Receipt::of(word, AT).unwrap()) {
        for cause in Cause::ALL {
            let mut lease = lease();
            let signed = signer.sign(&lease, cause, receipt, AT).unwrap();
            let (claims, _) = verify(&signed.text, &key()).unwrap();
            assert_eq!((claims.cause, claims.receipt), (cause, receipt));
            assert_eq!(compact(&lease), None);
            lease.state = LeaseState::Ended {
                cause,
                at: AT,
                receipt,
                signed: Some(signed.signature),
            };
            assert_eq!(compact(&lease), Some(signed.text));
        }
    }
    assert_eq!(Receipt::of("gone", AT), None);
}

#[test]
fn an_end_of_before_receipts_were_signed_has_none() {
    let mut lease = lease();
    lease.state = LeaseState::Ended {
        cause: Cause::Expired,
        at: AT,
        receipt: Receipt::ExpiresAt { at: AT },
        signed: None,
    };
    assert_eq!(compact(&lease), None);
}

#[test]
fn a_handle_that_says_no_more_than_the_id_or_is_too_long_is_left_out() {
    let mut lease = lease();
    let stated = |lease: &Lease| verify(&sign(lease).text, &key()).unwrap().0.handle;
    lease.handle = Some(Handle(lease.id.to_string()));
    assert_eq!(stated(&lease), None);
    lease.handle = Some(Handle("\"".repeat(LONGEST_HANDLE)));
    assert_eq!(stated(&lease), lease.handle);
    lease.handle = Some(Handle("h".repeat(LONGEST_HANDLE + 1)));
    assert_eq!(stated(&lease), None);
    lease.handle = None;
    assert_eq!(stated(&lease), None);
}

#[test]
fn a_receipt_that_was_changed_in_one_letter_is_refused() {
    let text = sign(&lease()).text;
    for place in 0..text.len() {
        let mut bytes = text.as_bytes().to_vec();
        bytes[place] = if bytes[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(verify(&changed, &key()).is_err(), "letter {place}");
    }
}

#[test]
fn neither_a_note_nor_a_receipt_can_be_taken_for_the_other() {
    // The same key, and the signature of one put under the text of the other.
    let text = sign(&lease()).text;
    let (input, signature) = text.rsplit_once('.').unwrap();
    let bytes = BASE64URL.decode(signature).unwrap();
    let line = |bytes: &[u8]| {
        let id = signer().id();
        base64::engine::general_purpose::STANDARD.encode([&id, bytes].concat())
    };
    let as_note = format!("{input}\n\n\u{2014} dayfly.test/journal {}\n", line(&bytes));
    let note: Note = as_note.parse().unwrap();
    assert!(
        signer().verifier().verify(&note).is_err(),
        "the text of a note has a newline more"
    );

    let note = signer().sign(&format!("{input}\n")).unwrap();
    let signed = note.trim_end().rsplit(' ').next().unwrap();
    let signed = base64::engine::general_purpose::STANDARD.decode(signed).unwrap();
    let as_receipt = format!("{input}.{}", BASE64URL.encode(&signed[4..]));
    assert_eq!(refusal(&as_receipt), InvalidReceipt::Jws(JoseError::BadSignature));

    // And neither side signs what the other would take.
    assert!(signer().sign(input).is_err());
    assert!(signer().sign_jws(&format!("{input}\n")).is_err());
    assert!(signer().sign_jws("dayfly.test/journal\n1\nroot\n").is_err());
}

#[test]
fn only_the_keys_that_were_given_are_trusted() {
    let text = sign(&lease()).text;
    let stranger = NoteSigner::from_seed("dayfly.test/journal", &[8; 32])
        .unwrap()
        .verifier();
    let renamed = NoteSigner::from_seed("other.test/journal", &[7; 32])
        .unwrap()
        .verifier();
    for keys in [vec![], vec![stranger.clone()], vec![renamed]] {
        assert_eq!(verify(&text, &keys), Err(InvalidReceipt::OtherKey));
    }
    let keys = [stranger, signer().verifier()];
    assert_eq!(verify(&text, &keys).unwrap().1, &keys[1]);
}

#[test]
fn the_header_is_ours_to_the_letter() {
    assert!(verify(&forged(&header(), &claims()), &key()).is_ok());
    let with = |name: &str, value: Value| {
        let mut header = header();
        header[name] = value;
        refusal(&forged(&header, &claims()))
    };
    for typ in ["JWT", "at+jwt", "dayfly-webhook+jwt", "DAYFLY-RECEIPT+JWT", ""] {
        assert_eq!(with("typ", json!(typ)), InvalidReceipt::OtherType, "{typ}");
    }
    for alg in ["none", "HS256", "eddsa"] {
        assert_eq!(
            with("alg", json!(alg)),
            JoseError::UnknownAlgorithm.into(),
            "{alg}"
        );
    }
    assert_eq!(
        with("alg", json!("ES256")),
        JoseError::OtherAlgorithm(Algorithm::Es256).into()
    );
    assert_eq!(with("kid", json!("")), InvalidReceipt::OtherKey);
    assert_eq!(
        with("jwk", json!(signer().verifier().jwk())),
        InvalidReceipt::OtherHeader
    );
    assert_eq!(with("crit", json!(["exp"])), JoseError::Critical.into());
    for missing in ["kid", "typ"] {
        let mut header = header();
        header.as_object_mut().unwrap().remove(missing);
        assert!(verify(&forged(&header, &claims()), &key()).is_err(), "{missing}");
    }
}

#[test]
fn the_claims_are_ours_and_all_of_them() {
    let refused = |claims: &Value| refusal(&forged(&header(), claims)) == InvalidReceipt::OtherClaims;
    for name in claims()
        .as_object()
        .unwrap()
        .keys()
        .filter(|name| *name != "handle")
    {
        let mut less = claims();
        less.as_object_mut().unwrap().remove(name);
        assert!(refused(&less), "{name}");
        let mut odd = claims();
        odd[name] = json!([]);
        assert!(refused(&odd), "{name}");
    }
    for (name, value) in [
        ("sub", "a"),
        ("proof", "gone"),
        ("cause", "bored"),
        ("proven_at", "today"),
    ] {
        let mut other = claims();
        other[name] = json!(value);
        assert!(refused(&other), "{name}");
    }
    let twice = claims().to_string().replacen('{', r#"{"proof":"outlived","#, 1);
    let input = format!(
        "{}.{}",
        BASE64URL.encode(header().to_string()),
        BASE64URL.encode(twice)
    );
    let signature = BASE64URL.encode(signer().sign_jws(&input).unwrap());
    assert!(verify(&format!("{input}.{signature}"), &key()).is_err());
}

#[test]
fn what_is_no_receipt_is_refused_before_it_is_read() {
    let text = sign(&lease()).text;
    for other in [
        "",
        "a.b.c",
        &format!(" {text}"),
        &format!("{text}\n"),
        &format!("{text}.{text}"),
    ] {
        assert!(verify(other, &key()).is_err());
    }
    assert_eq!(
        refusal(&"A".repeat(LONGEST + 1)),
        JoseError::TooLong(LONGEST).into()
    );
}

#[tokio::test]
async fn a_token_is_no_receipt_though_its_claims_say_so() {
    let keys = RingSigner::generate(Algorithm::EdDsa, &OsEntropy::new()).unwrap();
    let token = jose::sign(&keys, "at+jwt", &claims()).await.unwrap();
    assert_eq!(refusal(&token), InvalidReceipt::OtherType);
    let token = jose::sign(&keys, TYP, &claims()).await.unwrap();
    assert_eq!(refusal(&token), InvalidReceipt::OtherKey);
}
