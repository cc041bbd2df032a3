//! The Vault provider: the contract against the twin and, where there is one, against a real server;
//! and what only this provider promises.

mod promises;

use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use async_trait::async_trait;
use dayfly::clock::{Clock, ManualClock, SystemClock};
use dayfly::entropy::OsEntropy;
use dayfly::keys::Algorithm;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::model::access::Access;
use dayfly::model::credential::Credential;
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::provider::Provider;
use dayfly::provider::vault::{Login, Reach, Settings, VaultProvider};
use serde_json::{Value, json};

use super::{Subject, a_tool};
use crate::world::vault::{ROOT, VaultTwin};
use crate::world::{ISSUER, MORNING, access};

/// A server, the provider before it, and a tool.
pub(crate) struct Vault {
    /// Where its token is.
    file: std::path::PathBuf,
    address: String,
    clock: Arc<dyn Clock>,
    moved: Option<Arc<ManualClock>>,
    twin: Option<VaultTwin>,
    provider: Arc<VaultProvider>,
    parameters: Value,
    wanted: &'static str,
    /// The file with Dayfly's own token.
    _folder: tempfile::TempDir,
}

/// The policy that the guide tells people to give Dayfly.
fn policy_of_the_guide() -> String {
    let guide = include_str!("../../../../docs/guides/vault.md");
    let policy = guide.split("```hcl\n").nth(1).unwrap();
    policy.split("```").next().unwrap().to_owned()
}

/// Asks a server; answers the status and the body.
async fn ask(address: &str, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
    let client = reqwest::ClientBuilder::new()
        .no_proxy()
        .tls_certs_only([])
        .timeout(Duration::from_secs(8))
        .build()
        .unwrap();
    let method = method.parse().unwrap();
    let mut request = client
        .request(method, format!("{address}/v1/{path}"))
        .header("x-vault-token", token);
    if !body.is_null() {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// Policies, a token role, and a token for Dayfly with nothing but the policy of the guide.
async fn furnish(address: &str, root: &str) -> String {
    let policy = json!({ "policy": policy_of_the_guide() });
    let tool = "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }\n\
                path \"database/creds/*\" { capabilities = [\"read\"] }\n\
                path \"kv/data/*\" { capabilities = [\"read\"] }\n\
                path \"kv1/*\" { capabilities = [\"read\"] }\n\
                path \"pki/issue/+\" { capabilities = [\"update\"] }\n\
                path \"aws/sts/+\" { capabilities = [\"update\"] }\n";
    let role = json!({
        "orphan": true, "renewable": true, "token_type": "service",
        "allowed_policies": ["dayfly-orders"],
    });
    for (path, body) in [
        ("sys/policies/acl/dayfly", policy),
        ("sys/policies/acl/dayfly-orders", json!({ "policy": tool })),
        ("auth/token/roles/dayfly", role),
    ] {
        let (status, answer) = ask(address, root, "POST", path, body).await;
        assert!(status < 300, "{path}: {status} {answer}");
    }
    let wanted = json!({ "policies": ["dayfly"], "ttl": "768h" });
    let (status, answer) = ask(address, root, "POST", "auth/token/create-orphan", wanted).await;
    assert_eq!(status, 200, "{answer}");
    answer["auth"]["client_token"].as_str().unwrap().to_owned()
}

fn reach(address: &str) -> Reach {
    Reach {
        address: address.to_owned(),
        authorities: None,
        namespace: None,
        timeout: Duration::from_secs(8),
        concurrency: 32.try_into().unwrap(),
    }
}

fn settings(address: &str, login: Login) -> Settings {
    Settings {
        reach: reach(address),
        login,
        issuer: ISSUER.into(),
        token_role: Some("dayfly".into()),
        margin: Duration::ZERO,
        most: Ttl::from_secs(86_400).unwrap(),
    }
}

fn keys() -> Arc<KeyRing> {
    let signer = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
    Arc::new(KeyRing::of(Arc::new(signer)))
}

fn install_tls() {
    // Another test may have been first.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// The parameters of a tool whose every action has this secret.
fn parameters(secret: &Value) -> Value {
    json!({
        "policies": ["dayfly-orders"], "renew_for": "12h",
        "secret": { "read": secret, "write": secret },
    })
}

impl Vault {
    async fn at(
        address: String,
        root: &str,
        clock: Arc<dyn Clock>,
        (moved, twin): (Option<Arc<ManualClock>>, Option<VaultTwin>),
        (parameters, wanted): (Value, &'static str),
    ) -> Self {
        install_tls();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, furnish(&address, root).await).unwrap();
        let settings = settings(&address, Login::Token { file: file.clone() });
        let provider = Arc::new(VaultProvider::new(settings, Arc::clone(&clock)).unwrap());
        Self {
            address,
            file,
            clock,
            moved,
            twin,
            provider,
            parameters,
            wanted,
            _folder: folder,
        }
    }

    /// Before a twin, with a tool of these parameters.
    async fn twin(parameters: Value, wanted: &'static str) -> Self {
        install_tls();
        let clock = Arc::new(ManualClock::at(MORNING));
        let twin = VaultTwin::start(clock.clone(), keys()).await;
        let roles = [("orders-eu".to_owned(), (7200, 86_400))];
        twin.inside().database_roles.extend(roles);
        let address = twin.address.clone();
        let outside = (Some(clock.clone()), Some(twin));
        Self::at(address, ROOT, clock, outside, (parameters, wanted)).await
    }

    /// Logins of a database.
    pub(crate) async fn database() -> Self {
        let secret = json!({ "kind": "leased", "path": "database/creds/orders-{resource}" });
        Self::twin(parameters(&secret), "orders:read@eu").await
    }

    /// Tokens of the server.
    pub(crate) async fn token() -> Self {
        Self::twin(parameters(&json!({ "kind": "token" })), "orders:read").await
    }

    /// Tokens of a real server.
    async fn server(address: String, root: String) -> Self {
        let wanted = (parameters(&json!({ "kind": "token" })), "orders:read");
        Self::at(address, &root, Arc::new(SystemClock::new()), (None, None), wanted).await
    }
}

/// Where the real server is, if there is one.
fn server() -> Option<impl Future<Output = Vault>> {
    static SAID: Once = Once::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "the only thing that tells where servers are"
    )]
    let variable = |name: &str| std::env::var(name).ok();
    let found = variable("DAYFLY_TEST_VAULT_ADDR").zip(variable("DAYFLY_TEST_VAULT_TOKEN"));
    if found.is_none() {
        SAID.call_once(|| {
            use std::io::Write as _;
            let line = "DAYFLY_TEST_VAULT_ADDR is not set: nothing is tested against a real Vault\n";
            drop(std::io::stderr().write_all(line.as_bytes()));
        });
    }
    found.map(|(address, root)| Vault::server(address, root))
}

#[async_trait]
impl Subject for Vault {
    fn provider(&self) -> Arc<dyn Provider> {
        self.provider.clone()
    }

    fn reborn(&self) -> Arc<dyn Provider> {
        let file = self.file.clone();
        let settings = settings(&self.address, Login::Token { file });
        Arc::new(VaultProvider::new(settings, Arc::clone(&self.clock)).unwrap())
    }

    fn is_timed(&self) -> bool {
        self.moved.is_some()
    }

    fn tool(&self) -> Tool {
        a_tool("vault", self.parameters.clone())
    }

    fn access(&self) -> Access {
        access(self.wanted)
    }

    fn unfit(&self) -> Option<Access> {
        Some(access("orders:read@eu/a~b"))
    }

    async fn works(&self, credential: &Credential) -> bool {
        match credential {
            Credential::Bearer(token) => {
                let path = "auth/token/lookup-self";
                ask(&self.address, token.expose(), "GET", path, Value::Null)
                    .await
                    .0
                    == 200
            }
            Credential::Fields(fields) => {
                let twin = self.twin.as_ref().unwrap();
                let [username, password] = ["username", "password"].map(|name| fields[name].expose());
                twin.inside().lets_in(username, password)
            }
            _ => false,
        }
    }

    fn begins_at(&self) -> Timestamp {
        self.clock.now()
    }

    async fn pass(&self, by: Duration) -> bool {
        if let Some(clock) = &self.moved {
            clock.advance(by);
        }
        self.moved.is_some()
    }

    async fn fail_half_way(&self) -> bool {
        let Some(twin) = self.twin.as_ref().filter(|_| self.wanted.contains('@')) else {
            return false;
        };
        twin.inside().jam = true;
        true
    }
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

provider_contract!(vault_database, Some(super::Vault::database()));
provider_contract!(vault_token, Some(super::Vault::token()));
provider_contract!(vault_server, super::server());
