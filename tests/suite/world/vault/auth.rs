//! The login methods: JWT by our published keys, Kubernetes, AppRole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use dayfly::keys::jose::Unverified;
use dayfly::keys::key_ring::KeyRing;
use serde_json::{Value, json};

use super::tokens::Token;
use super::{Answered, Inside, random, refused};

/// Whom the methods let in.
pub(crate) struct Logins {
    keys: Arc<KeyRing>,
    /// `iss` and `sub` that the role of the JWT method is bound to, and the `aud`.
    pub(crate) bound: Option<(String, String)>,
    /// Tokens of service accounts.
    pub(crate) service_accounts: BTreeSet<String>,
    /// Role id and secret id.
    pub(crate) app_role: Option<(String, String)>,
    /// What those get who are let in.
    pub(crate) policies: Vec<String>,
    /// For how many seconds.
    pub(crate) ttl: u64,
}

impl Logins {
    pub(super) fn new(keys: Arc<KeyRing>) -> Self {
        Self {
            keys,
            bound: None,
            service_accounts: BTreeSet::new(),
            app_role: None,
            policies: Vec::new(),
            ttl: 3600,
        }
    }

    fn knows_jwt(&self, jwt: &str, now: u64) -> bool {
        let Ok(token) = Unverified::parse(jwt, 4096) else {
            return false;
        };
        if token.verify_with(&self.keys.key_set()).is_err() {
            return false;
        }
        let claims: Value = token.claims().unwrap();
        self.bound.as_ref().is_some_and(|(subject, audience)| {
            claims["iss"] == **subject
                && claims["sub"] == **subject
                && claims["aud"] == **audience
                && claims["exp"]
                    .as_u64()
                    .is_some_and(|exp| now < exp && exp <= now + 120)
        })
    }
}

impl Inside {
    pub(super) fn log_in(&mut self, mount: &str, body: &Value) -> Answered {
        let now = self.now();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let logins = &self.logins;
        let known = match mount {
            "jwt" => text("role") == "dayfly" && logins.knows_jwt(&text("jwt"), now.as_secs()),
            "kubernetes" => text("role") == "dayfly" && logins.service_accounts.contains(&text("jwt")),
            "approle" => logins.app_role == Some((text("role_id"), text("secret_id"))),
            _ => return refused(403, "permission denied"),
        };
        if !known {
            return match mount {
                "kubernetes" => refused(403, "permission denied"),
                "approle" => refused(400, "invalid role or secret ID"),
                _ => refused(
                    400,
                    "error validating token: verifying token with configured keys",
                ),
            };
        }
        let token = Token {
            policies: logins.policies.clone(),
            path: format!("auth/{mount}/login"),
            meta: json!({ "role": "dayfly" }),
            expires: Some(now.plus(Duration::from_secs(logins.ttl))),
            explicit_max: Some(Duration::from_secs(logins.ttl * 2)),
            renewable: true,
            ..Token::root(now)
        };
        let ttl = logins.ttl;
        let id = format!("hvs.{}", random());
        self.tokens.insert(id.clone(), token);
        Ok(self.auth(&id, ttl))
    }
}

impl Inside {
    /// Ends every token that a login gave.
    pub(crate) fn forget_logins(&mut self) {
        let given = self
            .tokens
            .iter()
            .filter(|(_, token)| token.path.ends_with("/login"));
        let given: Vec<String> = given.map(|(id, _)| id.clone()).collect();
        for id in given {
            self.end_token(&id);
        }
    }
}
