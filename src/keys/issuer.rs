//! The issuer: the name that tokens carry as `iss`, with the keys that sign in it. What it signed it knows
//! again.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::KeyError;
use super::jose::{self, Unverified};
use super::key_ring::KeyRing;
use crate::model::token::{AccessToken, TYP};

/// Who signs.
pub struct Issuer {
    url: String,
    keys: Arc<KeyRing>,
}

impl Issuer {
    /// The longest token that is looked at, in bytes. Those of this issuer are shorter.
    pub const LONGEST_TOKEN: usize = 8 << 10;

    /// The issuer of this URL, with the keys of this ring.
    pub fn new(url: impl Into<String>, keys: Arc<KeyRing>) -> Self {
        Self {
            url: url.into(),
            keys,
        }
    }

    /// The `iss` of what it signs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The claims of an access token that it signed itself, by a key that is published still. `None` for
    /// whatever else this text may be: whoever shows it is not told why. Whether the token has expired, and
    /// whether it was revoked, is not looked at.
    pub fn recognise(&self, token: &str) -> Option<AccessToken> {
        let token = Unverified::parse(token, Self::LONGEST_TOKEN).ok()?;
        let header = token.header();
        if !header.is_typ(TYP) || header.kid.is_none() {
            return None;
        }
        token.verify_with(&self.keys.key_set()).ok()?;
        token
            .claims::<AccessToken>()
            .ok()
            .filter(|claims| claims.iss == self.url)
    }

    /// Signs claims, which say themselves who issued them, as a token of this `typ`.
    pub async fn sign<C: Serialize + Sync>(&self, typ: &str, claims: &C) -> Result<String, KeyError> {
        jose::sign(&*self.keys.current(), typ, claims).await
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
    use serde_json::{Value, json};

    use super::*;
    use crate::entropy::OsEntropy;
    use crate::keys::Algorithm;
    use crate::keys::ring_keys::RingSigner;
    use crate::model::ids::{DecisionId, LeaseId, TaskId};
    use crate::model::time::Timestamp;

    const URL: &str = "https://dayfly.example.org";
    const AT: Timestamp = Timestamp::from_secs(1_795_329_000);

    fn issuer(url: &str) -> Issuer {
        let key = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
        Issuer::new(url, Arc::new(KeyRing::of(Arc::new(key))))
    }

    fn claims() -> Value {
        let task = TaskId::new(AT, [1; 10]);
        let lease = LeaseId::new(task, AT, [2; 10]);
        json!({
            "iss": URL, "aud": "https://crm.example.org", "sub": "support-bot", "sub_profile": "ai_agent",
            "client_id": "support-bot", "iat": 1, "nbf": 1, "exp": 2, "jti": lease, "txn": task, "scope": "crm:read",
            "authorization_details": [{
                "type": "dayfly_access", "locations": ["https://crm.example.org"], "actions": ["read"],
            }],
            "https://dayfly.dev/claims": {
                "task": task, "lease": lease, "agent": "support-bot", "tool": "crm", "environment": "production",
                "decision": DecisionId::new(AT, [3; 10]),
            },
        })
    }

    #[tokio::test]
    async fn knows_what_it_signed_whether_or_not_it_has_expired() {
        let issuer = issuer(URL);
        let token = issuer.sign(TYP, &claims()).await.unwrap();
        let known = issuer.recognise(&token).unwrap();
        assert_eq!(serde_json::to_value(known).unwrap(), claims());
    }

    #[tokio::test]
    async fn knows_nothing_else() {
        let ours = issuer(URL);
        let elsewhere = Issuer::new("https://other.example.org", ours.keys.clone());
        let token = ours.sign(TYP, &claims()).await.unwrap();
        assert!(issuer(URL).recognise(&token).is_none(), "other keys");
        assert!(
            elsewhere.recognise(&token).is_none(),
            "another name, the same keys"
        );
        for typ in ["JWT", "token-introspection+jwt", "preflight+jwt", ""] {
            let token = ours.sign(typ, &claims()).await.unwrap();
            assert!(ours.recognise(&token).is_none(), "{typ}");
        }
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (_, payload) = signed.split_once('.').unwrap();
        let part = |json: Value| BASE64URL.encode(json.to_string());
        let none = part(json!({"alg": "none", "typ": TYP}));
        let mut exaggerated = claims();
        exaggerated["exp"] = json!(9_999_999_999_u64);
        let header = token.split('.').next().unwrap();
        for forged in [
            format!("{none}.{payload}."),
            format!("{none}.{payload}.{signature}"),
            format!("{header}.{}.{signature}", part(exaggerated)),
            format!("{token}A"),
            signed.to_owned(),
            String::new(),
            "postgres://user:password@db".to_owned(),
            "a".repeat(100_000),
        ] {
            assert!(ours.recognise(&forged).is_none(), "{:.80}", forged);
        }
    }
}
