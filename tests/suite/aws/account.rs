//! An AWS account in this process: STS and IAM as far as Dayfly calls them, over HTTP with the query
//! protocol, strict about what the API reference says of each parameter. It has a clock of its own and
//! decides by [`super::iam`]. It does not check signatures: moto does ([`super::enforced`]).
//!
//! It can trust an OpenID Connect provider, and hand out keys as a container's agent does.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get as get_route;
use dayfly::clock::{Clock as _, ManualClock};
use dayfly::entropy::OsEntropy;
use dayfly::keys::Algorithm;
use dayfly::keys::key_ring::KeyRing;
use dayfly::keys::ring_keys::RingSigner;
use dayfly::model::credential::Credential;
use dayfly::model::time::Timestamp;
use dayfly::model::ttl::Ttl;
use dayfly::provider::aws_sts::{AwsSts, DenySlot, Settings, WayIn};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::iam::{self, Request};
use super::oidc::{self, Trust};
use crate::world::MORNING;

pub(crate) const ROLE: &str = "arn:aws:iam::123456789012:role/agents/data-reader";
pub(crate) const EXTERNAL_ID: &str = "acme-4711";
/// Dayfly's own key.
pub(crate) const OWN_KEY: &str = "AKIAOWNOWNOWNOWNOWN1";
/// What a container shows to the agent beside it.
pub(crate) const CONTAINER_TOKEN: &str = "Bearer of the container";
/// The secret half of Dayfly's own key.
pub(crate) const OWN_SECRET: &str = "own/secret+own/secret+own/secret+own/sec";

pub(crate) struct Account {
    pub(crate) clock: Arc<ManualClock>,
    state: Mutex<Inside>,
    url: String,
    folder: TempDir,
}

#[derive(Default)]
struct Inside {
    /// Inline policies of the one role, by name.
    inline: BTreeMap<String, String>,
    sessions: Vec<Session>,
    calls: Vec<String>,
    fault: Option<(u16, &'static str, String)>,
    /// Runs once, between a read of the slot and what comes after.
    meddle: Option<String>,
    /// Who else may come in as Dayfly's role.
    trust: Option<Trust>,
    /// Keys of Dayfly's own, and the token that goes with each.
    own: BTreeMap<String, String>,
}

pub(crate) struct Session {
    key: String,
    secret: String,
    token: String,
    pub(crate) name: String,
    pub(crate) tags: BTreeMap<String, String>,
    policy: Value,
    pub(crate) source_identity: String,
    issued_at: Timestamp,
    expires_at: Timestamp,
}

impl Account {
    pub(crate) async fn open() -> Arc<Self> {
        Self::at(MORNING).await
    }

    pub(crate) async fn at(now: Timestamp) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("id"), format!("{OWN_KEY}\n")).unwrap();
        fs::write(folder.path().join("secret"), format!("{OWN_SECRET}\n")).unwrap();
        let account = Arc::new(Self {
            clock: Arc::new(ManualClock::at(now)),
            state: Mutex::default(),
            url: format!("http://{}", listener.local_addr().unwrap()),
            folder,
        });
        account.inside().own.insert(OWN_KEY.into(), String::new());
        account.inside().inline.insert(
            "what-the-role-may".into(),
            json!({"Version": "2012-10-17", "Statement": [
                {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]})
            .to_string(),
        );
        let router = Router::new()
            .route("/container", get_route(container))
            .fallback(answer)
            .with_state(Arc::clone(&account));
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, router).await });
        account
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Lets the tokens of a provider in as Dayfly's own role.
    pub(crate) fn trust(&self, trust: Trust) {
        self.inside().trust = Some(trust);
    }

    pub(crate) fn settings(&self, deny_slot: Option<DenySlot>) -> Settings {
        Settings {
            region: "eu-central-1".parse().unwrap(),
            endpoint_url: Some(self.url.clone()),
            roles: [ROLE.parse().unwrap()].into(),
            deny_slot,
            max_session: Ttl::from_secs(3600).unwrap(),
            way_in: WayIn::Static {
                access_key_id: self.folder.path().join("id"),
                secret_access_key: self.folder.path().join("secret"),
            },
        }
    }

    /// A Dayfly's provider; several of them are several replicas.
    pub(crate) fn provider(&self, deny_slot: Option<DenySlot>) -> Arc<AwsSts> {
        let entropy = OsEntropy::new();
        let key = RingSigner::generate(Algorithm::Es256, &entropy).unwrap();
        let keys = Arc::new(KeyRing::of(Arc::new(key)));
        let settings = self.settings(deny_slot);
        Arc::new(AwsSts::new(settings, self.clock.clone(), Arc::new(entropy), keys))
    }

    /// Whether a session with this credential may do this now.
    pub(crate) fn lets(&self, credential: &Credential, action: &str, resource: &str) -> bool {
        let Credential::AwsSession {
            access_key_id,
            secret_access_key,
            session_token,
            ..
        } = credential
        else {
            return false;
        };
        let inside = self.inside();
        let session = inside.sessions.iter().find(|session| {
            session.key == *access_key_id
                && session.secret == secret_access_key.expose()
                && session.token == session_token.expose()
        });
        let now = self.clock.now();
        let Some(session) = session.filter(|session| now < session.expires_at) else {
            return false;
        };
        let role: Vec<Value> = inside
            .inline
            .values()
            .map(|text| serde_json::from_str(text).unwrap())
            .collect();
        let mut request =
            Request::new(action, resource, now).with("aws:TokenIssueTime", &session.issued_at.to_string());
        for (key, value) in &session.tags {
            request = request.with(&format!("aws:PrincipalTag/{key}"), value);
        }
        iam::allows(&role, &session.policy, &request)
    }

    pub(crate) fn latest<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        look(self.inside().sessions.last().unwrap())
    }

    pub(crate) fn calls(&self, action: &str) -> usize {
        self.inside().calls.iter().filter(|call| *call == action).count()
    }

    pub(crate) fn slot(&self) -> Option<String> {
        self.inside().inline.get("dayfly-deny").cloned()
    }

    pub(crate) fn set_policy(&self, name: &str, text: &str) {
        self.inside().inline.insert(name.into(), text.into());
    }

    /// Every call fails like this until further notice.
    pub(crate) fn fail(&self, fault: Option<(u16, &'static str, &str)>) {
        self.inside().fault = fault.map(|(status, code, message)| (status, code, message.to_owned()));
    }

    /// Right after the next write, somebody else overwrites the slot.
    pub(crate) fn overwrite_next(&self, text: &str) {
        self.inside().meddle = Some(text.into());
    }

    pub(crate) fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }
}

pub(super) type Fault = (u16, &'static str, String);

impl Inside {
    /// Whether a request is made with a key of Dayfly's own, and with the token that goes with it.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        let signature = text("authorization");
        let key = signature
            .split_once("Credential=")
            .and_then(|(_, rest)| rest.split('/').next());
        let token = key.and_then(|key| self.own.get(key));
        token.is_some_and(|token| token == text("x-amz-security-token"))
    }

    /// A session of Dayfly's own role, as STS tells it.
    fn own_session(&mut self, now: Timestamp) -> String {
        let number = self.own.len();
        let (key, token) = (format!("ASIAOWN{number:013}"), format!("own{number:0100}"));
        self.own.insert(key.clone(), token.clone());
        let ends = now.plus(Duration::from_secs(3600));
        format!(
            "<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{OWN_SECRET}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{ends}</Expiration></Credentials>"
        )
    }
}

/// What the agent beside a container answers that has a role.
async fn container(State(account): State<Arc<Account>>, headers: HeaderMap) -> Response {
    if headers
        .get("authorization")
        .is_none_or(|token| token != CONTAINER_TOKEN)
    {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut inside = account.inside();
    let (key, token) = ("ASIACONTAINER0000000", "of the container");
    inside.own.insert(key.into(), token.into());
    let ends = account.clock.now().plus(Duration::from_secs(3600));
    let answer =
        json!({"AccessKeyId": key, "SecretAccessKey": OWN_SECRET, "Token": token, "Expiration": ends});
    axum::Json(answer).into_response()
}

pub(super) fn invalid(what: &str) -> Fault {
    (400, "ValidationError", format!("{what} is not valid"))
}

async fn answer(State(account): State<Arc<Account>>, headers: HeaderMap, body: String) -> Response {
    let url = reqwest::Url::parse(&format!("http://x/?{body}")).unwrap();
    let parameters: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
    let action = parameters.get("Action").cloned().unwrap_or_default();
    let trust = account.inside().trust.clone();
    let visitor = match action.as_str() {
        "AssumeRoleWithWebIdentity" => {
            assert!(!headers.contains_key("authorization"), "nobody has a key yet");
            Some(oidc::visitor(trust.as_ref(), &parameters, account.clock.now()).await)
        }
        _ => None,
    };
    let mut inside = account.inside();
    inside.calls.push(action.clone());
    let result = match (&inside.fault, visitor, inside.knows(&headers)) {
        (Some(fault), ..) => Err(fault.clone()),
        (None, Some(visitor), _) => visitor.map(|()| inside.own_session(account.clock.now())),
        (None, None, false) => Err((403, "InvalidClientTokenId", "unsigned".into())),
        (None, None, true) => match action.as_str() {
            "GetCallerIdentity" => Ok("<Arn>arn:aws:iam::123456789012:role/dayfly</Arn>\
                <UserId>AROA</UserId><Account>123456789012</Account>"
                .into()),
            "AssumeRole" => assume(&mut inside, &parameters, account.clock.now()),
            "GetRolePolicy" => get(&inside, &parameters),
            "PutRolePolicy" => put(&mut inside, &parameters),
            _ => Err((400, "InvalidAction", action.clone())),
        },
    };
    match result {
        Ok(inner) => format!(
            "<{action}Response><{action}Result>{inner}</{action}Result>\
             <ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
        )
        .into_response(),
        Err((status, code, message)) => {
            let body = format!(
                "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>\
                 <RequestId>1</RequestId></ErrorResponse>"
            );
            (StatusCode::from_u16(status).unwrap(), body).into_response()
        }
    }
}

/// Letters, digits and these.
pub(super) fn only(text: &str, least: usize, most: usize, more: &str) -> bool {
    (least..=most).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

fn list(parameters: &BTreeMap<String, String>, prefix: &str, suffix: &str) -> Vec<String> {
    let member = |n: usize| parameters.get(&format!("{prefix}.member.{n}{suffix}")).cloned();
    (1..).map_while(member).collect()
}

fn assume(
    inside: &mut Inside,
    parameters: &BTreeMap<String, String>,
    now: Timestamp,
) -> Result<String, Fault> {
    let get = |name: &str| parameters.get(name).cloned().unwrap_or_default();
    if get("RoleArn") != ROLE || get("ExternalId") != EXTERNAL_ID {
        let message = format!(
            "User: dayfly is not authorized to perform: sts:AssumeRole on resource: {}",
            get("RoleArn")
        );
        return Err((403, "AccessDenied", message));
    }
    let (name, source) = (get("RoleSessionName"), get("SourceIdentity"));
    for (what, text) in [("RoleSessionName", &name), ("SourceIdentity", &source)] {
        if !only(text, 2, 64, "_=,.@-") {
            return Err(invalid(what));
        }
    }
    let duration: u64 = get("DurationSeconds")
        .parse()
        .map_err(|_| invalid("DurationSeconds"))?;
    if !(900..=3600).contains(&duration) {
        return Err(invalid("DurationSeconds"));
    }
    let text = get("Policy");
    let in_alphabet = text
        .chars()
        .all(|c| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{ff}'));
    if !(1..=2048).contains(&text.len()) || !in_alphabet {
        return Err(invalid("Policy"));
    }
    let policy: Value =
        serde_json::from_str(&text).map_err(|_| (400, "MalformedPolicyDocument", String::new()))?;
    let keys = list(parameters, "Tags", ".Key");
    let values = list(parameters, "Tags", ".Value");
    let good = |text: &String, most| only(text, 1, most, " _.:/=+-@");
    if keys.len() > 50
        || !keys.iter().all(|key| good(key, 128))
        || !values.iter().all(|value| good(value, 256))
    {
        return Err(invalid("Tags"));
    }
    let tags: BTreeMap<String, String> = keys.into_iter().zip(values).collect();
    if !list(parameters, "TransitiveTagKeys", "")
        .iter()
        .all(|key| tags.contains_key(key))
    {
        return Err(invalid("TransitiveTagKeys"));
    }
    let number = inside.sessions.len();
    let session = Session {
        key: format!("ASIA{number:016}"),
        secret: format!("secret{number:034}"),
        token: format!("token{number:0200}"),
        name,
        tags,
        policy,
        source_identity: source,
        issued_at: now,
        expires_at: now.plus(Duration::from_secs(duration)),
    };
    let answer = format!(
        "<Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{}</Expiration></Credentials>",
        session.key, session.secret, session.token, session.expires_at
    );
    inside.sessions.push(session);
    Ok(answer)
}

fn named(parameters: &BTreeMap<String, String>) -> Result<&String, Fault> {
    if parameters
        .get("RoleName")
        .is_none_or(|role| role != "data-reader")
    {
        return Err((404, "NoSuchEntity", "The role cannot be found.".into()));
    }
    Ok(&parameters["PolicyName"])
}

fn get(inside: &Inside, parameters: &BTreeMap<String, String>) -> Result<String, Fault> {
    let name = named(parameters)?;
    let missing = || (404, "NoSuchEntity", "The role policy cannot be found.".to_owned());
    let text = inside.inline.get(name).ok_or_else(missing)?;
    let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Ok(format!(
        "<RoleName>data-reader</RoleName><PolicyName>{name}</PolicyName><PolicyDocument>{encoded}</PolicyDocument>"
    ))
}

fn put(inside: &mut Inside, parameters: &BTreeMap<String, String>) -> Result<String, Fault> {
    let (name, text) = (named(parameters)?.clone(), parameters["PolicyDocument"].clone());
    let policy: Value =
        serde_json::from_str(&text).map_err(|_| (400, "MalformedPolicyDocument", String::new()))?;
    // Reads all of it, and panics at what no policy may hold.
    iam::says(&policy, "Deny", &Request::new("a:b", "c", Timestamp::EPOCH));
    let others = inside.inline.iter().filter(|(other, _)| **other != name);
    let size = others.map(|(_, text)| text).chain([&text]);
    let size: usize = size
        .map(|text| text.chars().filter(|c| !c.is_whitespace()).count())
        .sum();
    if size > 10_240 {
        return Err((
            409,
            "LimitExceeded",
            "Maximum policy size of 10240 bytes exceeded".into(),
        ));
    }
    inside.inline.insert(name.clone(), text);
    if let Some(other) = inside.meddle.take() {
        inside.inline.insert(name, other);
    }
    Ok(String::new())
}
