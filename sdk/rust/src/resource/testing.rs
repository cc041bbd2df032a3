//! Tokens and keys for the tests of this module.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _,
};
use serde_json::{Value, json};

use super::claims::Claims;
use super::jws::Keys;

/// When everything here begins.
pub(super) fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_329_000)
}
pub(super) const ISSUER: &str = "http://127.0.0.1:9";
pub(super) const AUDIENCE: &str = "https://crm.example.org/api";

pub(super) fn later(seconds: u64) -> SystemTime {
    start() + Duration::from_secs(seconds)
}

pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn id(prefix: &str, made_at: SystemTime, seed: u8) -> String {
    let millis = made_at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let mut rest = millis << 80 | 7 << 76 | 2 << 62 | u128::from(seed);
    let mut digits = vec![b'0'; 26];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdefghjkmnpqrstvwxyz"[usize::try_from(rest & 31).unwrap()];
        rest >>= 5;
    }
    format!("{prefix}_{}", String::from_utf8(digits).unwrap())
}

pub(super) fn claims_of(agent: &str, made_at: SystemTime, seed: u8) -> Value {
    let (task, lease) = (id("tsk", made_at, seed), id("lse", made_at, seed));
    let at = seconds(made_at);
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": format!("user-of-{agent}"), "sub_profile": "user",
        "client_id": agent, "iat": at, "nbf": at, "exp": at + 300, "jti": lease, "txn": task, "scope": "crm:read",
        "authorization_details": [{
            "type": "dayfly_access", "locations": [AUDIENCE], "actions": ["read"], "resources": ["customers/42"],
        }],
        "act": {"sub": agent, "iss": ISSUER, "sub_profile": "ai_agent"},
        "https://dayfly.dev/claims": {
            "task": task, "lease": lease, "agent": agent, "tool": format!("tool-of-{agent}"),
            "environment": format!("environment-of-{agent}"), "trust_domain": format!("{agent}.example.org"),
            "decision": id("dec", made_at, seed),
        },
    })
}

pub(super) fn token_of(agent: &str, made_at: SystemTime, seed: u8) -> Claims {
    serde_json::from_value(claims_of(agent, made_at, seed)).unwrap()
}

/// What a planner of another trust domain handed on to the support-bot.
pub(super) fn handed_on() -> Claims {
    let mut claims = claims_of("support-bot", start(), 1);
    claims["act"]["act"] = json!({"sub": "planner", "iss": ISSUER, "sub_profile": "ai_agent"});
    let marks = &mut claims["https://dayfly.dev/claims"];
    marks["parents"] = json!([id("tsk", start(), 9)]);
    marks["parent_trust_domains"] = json!(["partner.example"]);
    serde_json::from_value(claims).unwrap()
}

/// A key that signs.
pub(super) struct SigningKey {
    kid: String,
    pair: Pair,
}

enum Pair {
    Ec(&'static str, &'static str, EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

#[expect(clippy::disallowed_methods, reason = "keys of tests are random")]
fn random() -> SystemRandom {
    SystemRandom::new()
}

impl SigningKey {
    fn new(pair: Pair) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        Self {
            kid: format!("key-{number}"),
            pair,
        }
    }

    pub(super) fn es256() -> Self {
        let (how, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, random());
        let pair = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(how, pair.as_ref(), &random).unwrap();
        Self::new(Pair::Ec("ES256", "P-256", pair))
    }

    pub(super) fn es384() -> Self {
        let (how, random) = (&ECDSA_P384_SHA384_FIXED_SIGNING, random());
        let pair = EcdsaKeyPair::generate_pkcs8(how, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(how, pair.as_ref(), &random).unwrap();
        Self::new(Pair::Ec("ES384", "P-384", pair))
    }

    pub(super) fn ed25519() -> Self {
        let pair = Ed25519KeyPair::generate_pkcs8(&random()).unwrap();
        Self::new(Pair::Ed(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap()))
    }

    pub(super) fn kid(&self) -> &str {
        &self.kid
    }

    pub(super) fn alg(&self) -> &'static str {
        match &self.pair {
            Pair::Ec(alg, ..) => alg,
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The same key by another name.
    pub(super) fn renamed(mut self, kid: &str) -> Self {
        self.kid = kid.to_owned();
        self
    }

    pub(super) fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| BASE64URL.encode(bytes);
        match &self.pair {
            Pair::Ec(alg, crv, pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": crv, "x": text(x), "y": text(y), "kid": self.kid, "alg": alg, "use": "sig"})
            }
            Pair::Ed(pair) => {
                let x = text(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.kid, "alg": "EdDSA"})
            }
        }
    }

    pub(super) fn sign(&self, typ: &str, claims: &Value) -> String {
        let header = json!({"alg": self.alg(), "kid": self.kid, "typ": typ});
        self.sign_raw(&header.to_string(), &claims.to_string())
    }

    pub(super) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let signed = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload));
        let signature = match &self.pair {
            Pair::Ec(.., pair) => {
                let signature = pair.sign(&random(), signed.as_bytes()).unwrap();
                BASE64URL.encode(signature.as_ref())
            }
            Pair::Ed(pair) => BASE64URL.encode(pair.sign(signed.as_bytes()).as_ref()),
        };
        format!("{signed}.{signature}")
    }
}

pub(super) fn key() -> SigningKey {
    SigningKey::es256()
}

/// The set of these keys, as a broker publishes it.
pub(super) fn jwks(of: &[&SigningKey]) -> String {
    let keys: Vec<Value> = of.iter().map(|key| key.jwk()).collect();
    json!({ "keys": keys }).to_string()
}

pub(super) fn keys(of: &[&SigningKey]) -> Keys {
    Keys::parse(jwks(of).as_bytes()).unwrap()
}

/// A clock that stands still until it is set.
#[derive(Clone)]
pub(super) struct ManualClock(Arc<Mutex<SystemTime>>);

impl ManualClock {
    pub(super) fn at(at: SystemTime) -> Self {
        Self(Arc::new(Mutex::new(at)))
    }

    pub(super) fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }

    pub(super) fn set(&self, at: SystemTime) {
        *self.0.lock().unwrap() = at;
    }
}
