//! Leases, and the engines that make secrets: a database, certificates, sessions, key/value stores.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Answered, Inside, Lease, data, envelope, random, refused, seconds};

impl Inside {
    pub(super) fn leases(&mut self, verb: &str, body: &Value) -> Answered {
        let id = body["lease_id"].as_str().unwrap_or_default().to_owned();
        if id.is_empty() {
            return refused(400, "lease_id must be specified");
        }
        let now = self.now();
        let Some(lease) = self.leases.get_mut(&id) else {
            return match verb {
                "lookup" => refused(400, "invalid lease"),
                "renew" => refused(400, "lease not found"),
                _ => Ok(Value::Null),
            };
        };
        match verb {
            "lookup" => data(json!({
                "id": id, "issue_time": lease.issued.to_string(), "expire_time": lease.expires.to_string(),
                "last_renewal": null, "renewable": lease.renewable, "ttl": lease.expires.since(now).as_secs(),
            })),
            "renew" if !lease.renewable => refused(400, "lease is not renewable"),
            "renew" => {
                let left = lease.issued.plus(lease.longest).since(now).as_secs();
                let ttl = seconds(&body["increment"]).min(left);
                lease.expires = now.plus(Duration::from_secs(ttl));
                let mut answer = envelope(Value::Null);
                answer["lease_id"] = id.into();
                answer["lease_duration"] = ttl.into();
                answer["renewable"] = true.into();
                Ok(Value::Object(answer))
            }
            _ => {
                self.end_lease(&id);
                Ok(Value::Null)
            }
        }
    }

    pub(super) fn end_lease(&mut self, id: &str) {
        if let Some(user) = self.leases.remove(id).and_then(|lease| lease.user) {
            self.users.remove(&user);
        }
    }

    pub(super) fn engine(&mut self, operation: &str, path: &str, token: &str, body: &Value) -> Answered {
        let (mount, rest) = path.split_once('/').unwrap_or((path, ""));
        match (mount, operation) {
            ("database", "read") => self.database(path, rest.trim_start_matches("creds/"), token),
            ("pki", "update") => {
                let expiration = self.now().as_secs() + seconds(&body["ttl"]);
                data(json!({
                    "certificate": format!("-----BEGIN CERTIFICATE-----{}", random()), "private_key": random(),
                    "private_key_type": "ec", "serial_number": random(), "expiration": expiration,
                    "common_name": body["common_name"], "ca_chain": ["a", "b"],
                }))
            }
            // STS: what the engine calls a lease ends nothing at AWS, so there is none.
            ("aws", "update") => {
                let mut answer = envelope(json!({
                    "access_key": random(), "secret_key": random(), "security_token": random(), "arn": null,
                }));
                answer["lease_duration"] = seconds(&body["ttl"]).max(900).into();
                Ok(Value::Object(answer))
            }
            ("kv" | "kv1", "read") => match self.kv.get(path) {
                None => Err((404, Vec::new())),
                Some(found) if mount == "kv" => data(json!({
                    "data": found, "metadata": { "version": 1, "destroyed": false, "deletion_time": "" },
                })),
                Some(found) => {
                    let mut answer = envelope(json!(found));
                    answer["lease_duration"] = 2_764_800.into();
                    Ok(Value::Object(answer))
                }
            },
            ("database" | "pki" | "aws" | "kv" | "kv1", _) => {
                refused(405, "1 error occurred:\n\t* unsupported operation\n\n")
            }
            _ => refused(
                404,
                &format!("no handler for route \"{path}\". route entry not found."),
            ),
        }
    }

    fn database(&mut self, path: &str, role: &str, token: &str) -> Answered {
        let Some((default, longest)) = self.database_roles.get(role).copied() else {
            return refused(400, &format!("unknown role: {role}"));
        };
        let (username, password) = (format!("v-token-{role}-{}", random()), random());
        let user = format!("{username}:{password}");
        self.users.insert(user.clone());
        let now = self.now();
        let id = format!("{path}/{}", random());
        let lease = Lease {
            token: token.to_owned(),
            issued: now,
            expires: now.plus(Duration::from_secs(default)),
            longest: Duration::from_secs(longest),
            renewable: true,
            user: Some(user),
        };
        self.leases.insert(id.clone(), lease);
        if std::mem::take(&mut self.jam) {
            return refused(
                500,
                &format!("1 error occurred:\n\t* lost the database, password {password}\n\n"),
            );
        }
        let mut answer = envelope(json!({ "username": username, "password": password }));
        answer["lease_id"] = id.into();
        answer["lease_duration"] = default.into();
        answer["renewable"] = true.into();
        Ok(Value::Object(answer))
    }
}
