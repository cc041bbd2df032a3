//! Accounts on a moto server, where the environment names one: an AWS that is not of this project. It
//! checks signatures and the policies of users and roles. It reads neither session policies nor
//! conditions (but `StringEquals` of an external id), and ends no session: that is for [`super::account`].
//!
//! Each estate is a user that Dayfly works as and an agents' role, with the policies of the guide.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use dayfly::clock::{Clock as _, ManualClock, SystemClock};
use dayfly::entropy::{OsEntropy, draw};
use dayfly::keys::Algorithm;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::model::credential::Credential;
use dayfly::model::secret::Secret;
use dayfly::model::tool::Tool;
use dayfly::model::ttl::Ttl;
use dayfly::provider::aws_sts::{AwsSts, DenySlot, Settings, WayIn};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::account::EXTERNAL_ID;
use crate::contract::provider::a_tool;

/// The account that moto begins with.
pub(crate) const ACCOUNT: &str = "123456789012";
const REGION: &str = "eu-central-1";

#[expect(
    clippy::disallowed_methods,
    reason = "the only thing that tells where a server is"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A variable of the server, or nothing, said once and past the test harness, which would swallow it.
pub(crate) fn server(name: &str) -> Option<String> {
    static SAID: Once = Once::new();
    let found = variable(name);
    if found.is_none() {
        SAID.call_once(|| {
            let line = b"DAYFLY_TEST_AWS is not set: nothing of the AWS provider is tested against moto\n";
            std::io::stderr().write_all(line).unwrap();
        });
    }
    found
}

/// A user for Dayfly and a role for agents.
pub(crate) struct Estate {
    pub(crate) url: String,
    /// As the administrator of the account.
    pub(crate) iam: aws_sdk_iam::Client,
    pub(crate) clock: Arc<ManualClock>,
    /// The name of the role.
    pub(crate) role: String,
    user: String,
    files: TempDir,
}

impl Estate {
    /// `None` where there is no server.
    pub(crate) fn new() -> Option<impl Future<Output = Self>> {
        let url = server("DAYFLY_TEST_AWS")?;
        Some(Self::on(url, variable("DAYFLY_TEST_AWS_KEY").unwrap()))
    }

    async fn on(url: String, key: String) -> Self {
        let (id, secret) = key.split_once(':').unwrap();
        let random: [u8; 5] = draw(&OsEntropy::new()).unwrap();
        let mark: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let estate = Self {
            iam: aws_sdk_iam::Client::new(&signing_as(&url, id, secret, None)),
            url,
            clock: Arc::new(ManualClock::at(SystemClock::new().now())),
            role: format!("reader-{mark}"),
            user: format!("dayfly-{mark}"),
            files: TempDir::new().unwrap(),
        };
        estate.furnish().await;
        estate
    }

    /// As the guide says.
    async fn furnish(&self) {
        let [own, trust, ..] = &policies_of_the_guide()[..] else {
            panic!("the guide has no policies");
        };
        self.iam.create_user().user_name(&self.user).send().await.unwrap();
        self.grant(own).await;
        let key = self.iam.create_access_key().user_name(&self.user).send().await;
        let key = key.unwrap().access_key.unwrap();
        self.keep_key(key.access_key_id(), key.secret_access_key());
        let mut trust = trust.clone();
        trust["Statement"][0]["Principal"]["AWS"] = self.principal().into();
        trust["Statement"][0]["Condition"]["StringEquals"] = json!({ "sts:ExternalId": EXTERNAL_ID });
        let role = self.iam.create_role().role_name(&self.role).path("/agents/");
        let role = role.assume_role_policy_document(trust.to_string());
        role.send().await.unwrap();
        let may = json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "iam:GetRole", "Resource": format!("arn:aws:iam::{ACCOUNT}:role/agents/*")},
            {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"],
             "Resource": [format!("arn:aws:s3:::{}", self.bucket()), format!("arn:aws:s3:::{}/*", self.bucket())]}]});
        self.set_policy("what-the-role-may", &may).await;
    }

    /// What Dayfly's own user may do, in place of what it could before.
    pub(crate) async fn grant(&self, policy: &Value) {
        let put = self.iam.put_user_policy().user_name(&self.user);
        let put = put.policy_name("dayfly").policy_document(policy.to_string());
        put.send().await.unwrap();
    }

    /// An inline policy of the role.
    pub(crate) async fn set_policy(&self, name: &str, policy: &Value) {
        let put = self.iam.put_role_policy().role_name(&self.role);
        let put = put.policy_name(name).policy_document(policy.to_string());
        put.send().await.unwrap();
    }

    /// The document of the deny slot as IAM has it.
    pub(crate) async fn slot(&self) -> String {
        let get = self.iam.get_role_policy().role_name(&self.role);
        let answer = get.policy_name("dayfly-deny").send().await.unwrap();
        let document = reqwest::Url::parse(&format!(
            "http://x/?d={}",
            answer.policy_document.replace('+', "%2B")
        ));
        let document = document.unwrap();
        document.query_pairs().next().unwrap().1.into_owned()
    }

    /// Who Dayfly is.
    pub(crate) fn principal(&self) -> String {
        format!("arn:aws:iam::{ACCOUNT}:user/{}", self.user)
    }

    pub(crate) fn role_arn(&self) -> String {
        format!("arn:aws:iam::{ACCOUNT}:role/agents/{}", self.role)
    }

    /// A bucket that the role may read. Nobody made it yet.
    pub(crate) fn bucket(&self) -> String {
        format!("acme-{}", self.role)
    }

    /// The files with Dayfly's own key: its id, and its secret.
    pub(crate) fn key_files(&self) -> [PathBuf; 2] {
        ["id", "secret"].map(|name| self.files.path().join(name))
    }

    pub(crate) fn keep_key(&self, id: &str, secret: &str) {
        let [id_file, secret_file] = self.key_files();
        fs::write(id_file, id).unwrap();
        fs::write(secret_file, secret).unwrap();
    }

    pub(crate) fn settings(&self, deny_slot: Option<DenySlot>) -> Settings {
        let [access_key_id, secret_access_key] = self.key_files();
        Settings {
            region: REGION.parse().unwrap(),
            endpoint_url: Some(self.url.clone()),
            roles: [self.role_arn().parse().unwrap()].into(),
            deny_slot,
            max_session: Ttl::from_secs(3600).unwrap(),
            way_in: WayIn::Static {
                access_key_id,
                secret_access_key,
            },
        }
    }

    /// A Dayfly's provider with a deny slot; several of them are several replicas.
    pub(crate) fn provider(&self) -> Arc<AwsSts> {
        self.with(self.settings(Some(super::STRICT)))
    }

    pub(crate) fn with(&self, settings: Settings) -> Arc<AwsSts> {
        Arc::new(AwsSts::new(
            settings,
            self.clock.clone(),
            Arc::new(OsEntropy::new()),
            keys(),
        ))
    }

    /// A tool whose `read` looks at roles.
    pub(crate) fn tool(&self) -> Tool {
        let resources = [format!("arn:aws:iam::{ACCOUNT}:role/agents/{{resource}}")];
        let parameters = json!({
            "role_arn": self.role_arn(),
            "external_id": EXTERNAL_ID,
            "statements": {
                "read": {"actions": ["iam:GetRole"], "resources": resources},
                "write": {"actions": ["iam:TagRole"], "resources": resources},
            },
        });
        a_tool("aws", parameters)
    }

    /// The same for the catalogue's `crm`, as TOML.
    pub(crate) fn crm(&self, external_id: &str) -> String {
        let statement = |action: &str, call: &str| {
            format!(
                "[parameters.statements.{action}]\nactions = [\"{call}\"]\n\
                 resources = [\"arn:aws:iam::{ACCOUNT}:role/agents/{{resource}}\"]\n"
            )
        };
        format!(
            "\n[parameters]\nrole_arn = \"{}\"\nexternal_id = \"{external_id}\"\n{}{}{}{}",
            self.role_arn(),
            statement("read", "iam:GetRole"),
            statement("comment", "iam:TagRole"),
            statement("export", "iam:ListRolePolicies"),
            statement("delete", "iam:DeleteRole"),
        )
    }

    /// Whether a session may look at its own role. Whatever it is refused for is the reason.
    pub(crate) async fn lets(&self, credential: &Credential) -> Result<(), String> {
        let look = self.session(credential).get_role().role_name(&self.role);
        match look.send().await {
            Ok(answer) => {
                assert_eq!(answer.role.unwrap().arn, self.role_arn());
                Ok(())
            }
            Err(error) => Err(reason(&error)),
        }
    }

    /// IAM, as whoever has this credential.
    pub(crate) fn session(&self, credential: &Credential) -> aws_sdk_iam::Client {
        aws_sdk_iam::Client::new(&self.config(credential))
    }

    /// Who AWS takes somebody with this credential for.
    pub(crate) async fn who(&self, credential: &Credential) -> String {
        let sts = aws_sdk_sts::Client::new(&self.config(credential));
        let answer = sts.get_caller_identity().send().await.unwrap();
        answer.arn.unwrap()
    }

    fn config(&self, credential: &Credential) -> SdkConfig {
        let Credential::AwsSession {
            access_key_id,
            secret_access_key,
            session_token,
            ..
        } = credential
        else {
            panic!("no session: {credential:?}");
        };
        let token = Some(session_token.expose());
        signing_as(&self.url, access_key_id, secret_access_key.expose(), token)
    }
}

/// The code of an error. moto puts it deeper into the answer than AWS does, where the SDK finds none.
pub(crate) fn reason<E>(error: &SdkError<E, HttpResponse>) -> String {
    let body = error.raw_response().unwrap().body().bytes().unwrap();
    let body = std::str::from_utf8(body).unwrap();
    let code = body
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once('<'));
    code.unwrap_or_else(|| panic!("{body}")).0.to_owned()
}

/// The same credential with something else in place of its secret key, or of its token.
pub(crate) fn tampered(credential: &Credential, token: bool) -> Credential {
    let mut changed = credential.clone();
    if let Credential::AwsSession {
        secret_access_key,
        session_token,
        ..
    } = &mut changed
    {
        let place = if token { session_token } else { secret_access_key };
        *place = Secret::new("x".repeat(place.expose().len()));
    }
    assert_ne!(changed, *credential);
    changed
}

/// The policies in the guide, in their order: Dayfly's own, what an agents' role trusts, what the role
/// of `web_identity` trusts.
pub(crate) fn policies_of_the_guide() -> Vec<Value> {
    let guide = include_str!("../../../docs/guides/aws.md");
    let blocks = guide.split("```json\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    blocks.map(|block| serde_json::from_str(block).unwrap()).collect()
}

pub(crate) fn keys() -> Arc<KeyRing> {
    let key = RingSigner::generate(Algorithm::Es256, &OsEntropy::new()).unwrap();
    Arc::new(KeyRing::of(Arc::new(key)))
}

/// The SDK as its users have it.
fn signing_as(url: &str, id: &str, secret: &str, token: Option<&str>) -> SdkConfig {
    let credentials = Credentials::new(id, secret, token.map(str::to_owned), None, "a test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(url)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}
