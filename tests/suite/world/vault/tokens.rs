//! The token store, and wrapping, which is made of tokens.

use std::time::Duration;

use dayfly::model::time::Timestamp;
use serde_json::{Map, Value, json};

use super::{Answered, Inside, Refused, Request, data, envelope, random, refused, seconds};

/// A token as it is kept.
pub(super) struct Token {
    pub(super) accessor: String,
    pub(super) policies: Vec<String>,
    pub(super) parent: Option<String>,
    pub(super) meta: Value,
    pub(super) display_name: String,
    pub(super) path: String,
    pub(super) made: Timestamp,
    pub(super) expires: Option<Timestamp>,
    pub(super) explicit_max: Option<Duration>,
    pub(super) renewable: bool,
    /// What an unwrapping answers.
    pub(super) wrapped: Option<Value>,
}

/// The longest life that the mount of tokens allows.
const MOUNT_MOST: u64 = 32 * 24 * 3600;

impl Token {
    pub(super) fn root(now: Timestamp) -> Self {
        Self {
            accessor: random(),
            policies: vec!["root".into()],
            parent: None,
            meta: Value::Null,
            display_name: "root".into(),
            path: "auth/token/root".into(),
            made: now,
            expires: None,
            explicit_max: None,
            renewable: false,
            wrapped: None,
        }
    }
}

impl Inside {
    pub(super) fn token_store(&mut self, operation: &str, rest: &str, token: &str, body: &Value) -> Answered {
        match (operation, rest) {
            ("list", "accessors") => {
                let keys: Vec<&str> = self
                    .tokens
                    .values()
                    .map(|token| token.accessor.as_str())
                    .collect();
                data(json!({ "keys": keys }))
            }
            ("read", "lookup-self") => data(self.describe(token, true)),
            ("update", "renew-self") => self.renew(token, body),
            ("update", "lookup-accessor") => {
                let id = self.by_accessor(body)?;
                data(self.describe(&id, false))
            }
            ("update", "renew-accessor") => {
                let id = self.by_accessor(body)?;
                let mut answer = self.renew(&id, body)?;
                answer["auth"]["client_token"] = "".into();
                Ok(answer)
            }
            ("update", "revoke-accessor") => {
                let id = self.by_accessor(body)?;
                self.end_token(&id);
                Ok(Value::Null)
            }
            ("update", "create") => self.create(token, None, false, body),
            ("update", "create-orphan") => self.create(token, None, true, body),
            ("update", path) if path.starts_with("roles/") => {
                let role = path.trim_start_matches("roles/").to_owned();
                self.token_roles.insert(role, body.clone());
                Ok(Value::Null)
            }
            ("update", path) if path.starts_with("create/") => {
                let role = path.trim_start_matches("create/").to_owned();
                match self.token_roles.get(&role).cloned() {
                    None => refused(400, &format!("unknown role {role}")),
                    Some(terms) => self.create(token, Some((role, terms)), false, body),
                }
            }
            _ => refused(405, "1 error occurred:\n\t* unsupported operation\n\n"),
        }
    }

    fn by_accessor(&self, body: &Value) -> Result<String, Refused> {
        let accessor = body["accessor"].as_str().unwrap_or_default();
        if accessor.is_empty() {
            return refused(400, "missing accessor");
        }
        let found = self.tokens.iter().find(|(_, token)| token.accessor == accessor);
        found.map_or_else(|| refused(400, "invalid accessor"), |(id, _)| Ok(id.clone()))
    }

    fn create(
        &mut self,
        parent: &str,
        role: Option<(String, Value)>,
        orphan: bool,
        body: &Value,
    ) -> Answered {
        let words = |value: &Value| -> Vec<String> {
            let words = value.as_array().into_iter().flatten();
            words.map(|word| word.as_str().unwrap().to_owned()).collect()
        };
        let mut policies = words(&body["policies"]);
        let no_default = body["no_default_policy"].as_bool().unwrap_or(false);
        let own = &self.tokens[parent].policies;
        let is_root = own.contains(&"root".to_owned());
        match &role {
            Some((_, terms)) => {
                let mut allowed = words(&terms["allowed_policies"]);
                if !no_default {
                    allowed.push("default".into());
                }
                if let Some(policy) = policies.iter().find(|policy| !allowed.contains(policy)) {
                    return refused(
                        400,
                        &format!(
                            "token policies ([{policy:?}]) must be subset of the role's allowed policies ({allowed:?}) or glob policies ([])"
                        ),
                    );
                }
                if policies.is_empty() {
                    policies = allowed;
                }
            }
            None if policies.is_empty() => policies.clone_from(own),
            None if !is_root && !policies.iter().all(|policy| own.contains(policy)) => {
                return refused(400, "child policies must be subset of parent");
            }
            None => {}
        }
        policies.retain(|policy| !no_default || policy != "default");
        if !no_default && !policies.contains(&"default".to_owned()) {
            policies.push("default".into());
        }
        let terms = role.as_ref().map_or(&Value::Null, |(_, terms)| terms);
        let period = seconds(&terms["token_period"]);
        let explicit = seconds(&body["explicit_max_ttl"]);
        let asked = match seconds(&body["ttl"]) {
            0 => MOUNT_MOST,
            ttl => ttl,
        };
        let mut ttl = asked.min(MOUNT_MOST);
        if explicit > 0 {
            ttl = ttl.min(explicit);
        }
        if period > 0 {
            ttl = period;
        }
        let batch = terms["token_type"] == "batch";
        let orphan = orphan || terms["orphan"] == true;
        let now = self.now();
        let name = body["display_name"]
            .as_str()
            .map_or("token".into(), |name| format!("token-{name}"));
        let made = Token {
            accessor: if batch { String::new() } else { random() },
            policies,
            parent: (!orphan).then(|| parent.to_owned()),
            meta: body["meta"].clone(),
            display_name: name,
            path: match &role {
                Some((role, _)) => format!("auth/token/create/{role}"),
                None => "auth/token/create".into(),
            },
            made: now,
            expires: Some(now.plus(Duration::from_secs(ttl))),
            explicit_max: (explicit > 0).then(|| Duration::from_secs(explicit)),
            renewable: body["renewable"].as_bool().unwrap_or(true) && !batch,
            wrapped: None,
        };
        let id = format!("hvs.{}", random());
        self.tokens.insert(id.clone(), made);
        Ok(self.auth(&id, ttl))
    }

    /// An answer with a token in it.
    pub(super) fn auth(&self, id: &str, ttl: u64) -> Value {
        let token = &self.tokens[id];
        let mut answer = envelope(Value::Null);
        answer["auth"] = json!({
            "client_token": id, "accessor": token.accessor, "policies": token.policies,
            "token_policies": token.policies, "metadata": token.meta, "lease_duration": ttl,
            "renewable": token.renewable, "entity_id": "", "token_type": "service",
            "orphan": token.parent.is_none(), "mfa_requirement": null, "num_uses": 0,
        });
        Value::Object(answer)
    }

    fn describe(&self, id: &str, own: bool) -> Value {
        let token = &self.tokens[id];
        let now = self.now();
        json!({
            "id": if own { id } else { "" }, "accessor": token.accessor, "policies": token.policies,
            "path": token.path, "meta": token.meta, "display_name": token.display_name, "num_uses": 0,
            "orphan": token.parent.is_none(), "creation_time": token.made.as_secs(),
            "creation_ttl": 0, "expire_time": token.expires.map(|at| at.to_string()),
            "ttl": token.expires.map_or(0, |at| at.since(now).as_secs()),
            "explicit_max_ttl": token.explicit_max.map_or(0, |most| most.as_secs()),
            "entity_id": "", "type": "service", "renewable": token.renewable,
        })
    }

    fn renew(&mut self, id: &str, body: &Value) -> Answered {
        let now = self.now();
        let token = self.tokens.get_mut(id).unwrap();
        if !token.renewable {
            return refused(400, "lease is not renewable");
        }
        let increment = match seconds(&body["increment"]) {
            0 => token.expires.map_or(0, |at| at.since(token.made).as_secs()),
            increment => increment,
        };
        let most = token.explicit_max.unwrap_or(Duration::from_secs(MOUNT_MOST));
        let left = token.made.plus(most).since(now).as_secs();
        let ttl = increment.min(left);
        token.expires = Some(now.plus(Duration::from_secs(ttl)));
        Ok(self.auth(id, ttl))
    }

    /// Ends a token, the tokens that it made, and the leases of each.
    pub(super) fn end_token(&mut self, id: &str) {
        self.tokens.remove(id);
        let children = self
            .tokens
            .iter()
            .filter(|(_, token)| token.parent.as_deref() == Some(id));
        let children: Vec<String> = children.map(|(id, _)| id.clone()).collect();
        let leases = self.leases.iter().filter(|(_, lease)| lease.token == id);
        let leases: Vec<String> = leases.map(|(id, _)| id.clone()).collect();
        for lease in leases {
            self.end_lease(&lease);
        }
        for child in children {
            self.end_token(&child);
        }
    }

    pub(super) fn wrap(&mut self, answer: Value, path: &str, ttl: u64) -> Value {
        let now = self.now();
        let id = format!("hvs.{}", random());
        let token = Token {
            policies: vec!["response-wrapping".into()],
            path: path.to_owned(),
            expires: Some(now.plus(Duration::from_secs(ttl))),
            wrapped: Some(answer),
            ..Token::root(now)
        };
        let mut envelope: Map<String, Value> = envelope(Value::Null);
        envelope["wrap_info"] = json!({
            "token": id, "accessor": token.accessor, "ttl": ttl,
            "creation_time": now.to_string(), "creation_path": path,
        });
        self.tokens.insert(id, token);
        Value::Object(envelope)
    }

    /// Once.
    pub(super) fn unwrap(&mut self, request: &Request) -> Answered {
        let body = request.json()?;
        let id = body["token"]
            .as_str()
            .map(str::to_owned)
            .or_else(|| request.token.clone());
        let found = id.and_then(|id| self.tokens.get(&id)?.wrapped.clone().map(|answer| (id, answer)));
        match found {
            None => refused(400, "wrapping token is not valid or does not exist"),
            Some((id, answer)) => {
                self.end_token(&id);
                Ok(answer)
            }
        }
    }
}
