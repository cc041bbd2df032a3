//! For the tests of this seam: a stream whose transmitter signs whatever it is told to.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};

use super::identifier::Format;
use super::mapping::{Confinement, Mapping, Template};
use super::rules::Rules;
use super::{Stream, Terms};
use crate::entropy::OsEntropy;
use crate::identity::claims::{Audiences, Skew};
use crate::identity::key_source::{Freshness, KeySource, Origin};
use crate::identity::oidc::Issuer;
use crate::keys::jwk::KeyUse;
use crate::keys::ring_keys::RingSigner;
use crate::keys::{Algorithm, Signer as _};
use crate::model::secret::Secret;
use crate::model::time::Timestamp;

pub(super) const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
pub(super) const US: &str = "https://dayfly.example.org";
pub(super) const IDP: &str = "https://idp.example.org";
pub(super) const SESSION_REVOKED: &str =
    "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// The second that is `offset` away from [`NOW`].
pub(super) fn at(offset: i64) -> i64 {
    i64::try_from(NOW.as_secs()).unwrap() + offset
}

pub(super) fn mapping() -> Mapping {
    let users = [
        (Format::IssSub, "idp|{sub}"),
        (Format::Email, "{email}"),
        (Format::Opaque, "{id}"),
    ];
    let template = |(format, text)| (format, Template::parse(format, text).unwrap());
    Mapping {
        users: users.map(template).into(),
        issuers: vec![IDP.into()],
        our_issuer: US.into(),
        tenants: [].into(),
    }
}

pub(super) fn terms() -> Terms {
    Terms {
        issuer: IDP.into(),
        audiences: Audiences::new([US]).unwrap(),
        algorithms: Issuer::ALGORITHMS.into(),
        skew: Skew::default(),
        oldest: Duration::from_secs(3600),
        mapping: mapping(),
        confinement: Confinement::default(),
        rules: Rules::beginning(Duration::from_secs(86_400)).unwrap(),
        silence: Some(Duration::from_secs(600)),
    }
}

/// A transmitter and the stream that listens to it.
pub(super) struct Idp {
    signer: RingSigner,
    pub(super) stream: Stream,
}

impl Idp {
    pub(super) fn new() -> Self {
        Self::with(terms())
    }

    pub(super) fn with(terms: Terms) -> Self {
        let signer = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        let mut jwk = serde_json::to_value(signer.public_key().to_jwk()).unwrap();
        jwk["use"] = "sig".into();
        let jwks = json!({ "keys": [jwk] }).to_string();
        let freshness = Freshness::default();
        let keys = KeySource::new(IDP, KeyUse::Signature, Origin::Inline(jwks), freshness).unwrap();
        let secret = Some(Secret::new("hunter2"));
        let stream = Stream::new("idp".parse().unwrap(), terms, Arc::new(keys), secret, NOW).unwrap();
        Self { signer, stream }
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": "ES256", "kid": self.signer.key_id().0, "typ": "secevent+jwt"})
    }

    pub(super) async fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), &claims.to_string()).await
    }

    pub(super) async fn sign_with(&self, header: &Value, claims: &str) -> String {
        let header = BASE64URL.encode(header.to_string());
        let signed = format!("{header}.{}", BASE64URL.encode(claims));
        let signature = self.signer.sign(signed.as_bytes()).await.unwrap();
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}

/// The claims of a token about a user, with this event.
pub(super) fn claims(event: &str, body: Value) -> Value {
    json!({
        "iss": IDP, "aud": US, "iat": at(0), "jti": "set-1",
        "sub_id": {"format": "iss_sub", "iss": IDP, "sub": "ann"},
        "events": {event: body},
    })
}

/// Copies `value` with these members changed; `null` removes one.
pub(super) fn with(value: &Value, changes: Value) -> Value {
    let mut value = value.clone();
    let members = value.as_object_mut().unwrap();
    for (name, change) in changes.as_object().unwrap() {
        match change {
            Value::Null => members.remove(name),
            _ => members.insert(name.clone(), change.clone()),
        };
    }
    value
}
