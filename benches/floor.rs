//! The hand-made floor: the least that a service could do that issues a JWT by policy and keeps it in Redis, written
//! for nothing else. Evidence that was verified before is known by its hash; one Cedar decision is made on policies
//! that are parsed already, on entities built for it; the token is signed with ES256 by ring; one script puts the
//! lease into Redis. There is no journal, no budget, no deadline, no cutoff, no reaper, no trace, no metric.
//!
//! It answers the requests of `dayfly bench --mix issue`, as long as a broker does, so both are measured in one run:
//!
//! `cargo bench --bench floor -- --config DAYFLY.TOML --redis URL [--listen ADDRESS]`, and then
//! `dayfly bench --mix issue --rate max --beside http://127.0.0.1:8441 --beside-pid PID --server-pid PID …`. The
//! configuration is that of the broker: it says who vouches for evidence.

#![expect(clippy::unwrap_used, reason = "a benchmark has nobody to report to")]
#![expect(clippy::print_stdout, reason = "this is how it reports")]
#![expect(
    clippy::disallowed_methods,
    reason = "written by hand: it takes time and randomness where they are"
)]

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::{Path as Segment, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};
use dayfly::app::identity;
use dayfly::clock::{Clock as _, SystemClock};
use dayfly::config;
use dayfly::identity::Evidence;
use dayfly::identity::verifiers::Verifiers;
use redis::aio::MultiplexedConnection;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde::Deserialize;
use serde_json::{Value, json};

// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TTL: u64 = 300;

/// What concerns the agent, as in the examples: three that forbid and four that permit.
const POLICIES: &str = r#"
forbid(principal, action, resource) unless { principal.environment == resource.environment };
forbid(principal, action, resource) when { resource.sensitivity_rank >= 3 && principal.autonomy < 3 };
forbid(principal, action, resource) when { resource.risk_rank >= 2 && context.requested_ttl > 300 };
permit(principal in Role::"support", action == Action::"crm:read", resource in Tool::"crm");
permit(principal in Role::"support", action == Action::"crm:comment", resource in Tool::"crm");
permit(principal in Role::"support", action == Action::"payments:read", resource in Tool::"payments");
permit(principal, action in Action::"read", resource)
when { resource.sensitivity_rank <= 1 && resource.risk_rank == 0 };
"#;

/// One step: the lease, when it ends, and what is out for the task.
const SCRIPT: &str = r"
redis.call('HSET', KEYS[1], 'task', ARGV[1], 'tool', ARGV[2], 'access', ARGV[3], 'expires', ARGV[4])
redis.call('PEXPIREAT', KEYS[1], ARGV[4] + 60000)
redis.call('ZADD', KEYS[2], ARGV[4], KEYS[1])
return 1
";

struct Service {
    verifiers: Verifiers,
    /// By hash, until when.
    known: RwLock<HashMap<Vec<u8>, u64>>,
    policies: PolicySet,
    authorizer: Authorizer,
    agent: EntityUid,
    role: EntityUid,
    key: EcdsaKeyPair,
    random: SystemRandom,
    redis: MultiplexedConnection,
    script: redis::Script,
    prefix: String,
    issuer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    tool: String,
    actions: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    ttl: Option<u64>,
}

fn millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.parse().unwrap(), id.parse().unwrap())
}

impl Service {
    async fn new(configuration: &Path, url: &str) -> Self {
        let config = config::load(configuration).unwrap();
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let client = redis::Client::open(url).unwrap();
        let this = Self {
            verifiers: identity::build(&config.identity, None).unwrap(),
            known: RwLock::default(),
            policies: POLICIES.parse().unwrap(),
            authorizer: Authorizer::new(),
            agent: uid("Agent", "support-bot"),
            role: uid("Role", "support"),
            key: EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap(),
            random,
            redis: client.get_multiplexed_async_connection().await.unwrap(),
            script: redis::Script::new(SCRIPT),
            prefix: String::new(),
            issuer: "https://dayfly.example.org".to_owned(),
        };
        let prefix = format!("floor-{}", this.id(""));
        Self { prefix, ..this }
    }

    fn id(&self, kind: &str) -> String {
        let mut random = [0; 16];
        self.random.fill(&mut random).unwrap();
        format!("{kind}{:026x}", u128::from_be_bytes(random) >> 24)
    }

    /// Whether the bearer is known; whoever is new has to prove it.
    async fn is_known(&self, headers: &HeaderMap) -> bool {
        let Some(token) = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok()) else {
            return false;
        };
        let token = token.trim_start_matches("Bearer ");
        let hash = digest(&SHA256, token.as_bytes());
        let now = millis();
        let known = self.known.read().unwrap().get(hash.as_ref()).copied();
        if let Some(until) = known
            && now < until
        {
            return true;
        }
        let evidence = Evidence::bearer(token).unwrap();
        let proven = self.verifiers.appraise(&evidence, SystemClock::new().now()).await;
        let mut known = self.known.write().unwrap();
        known.insert(hash.as_ref().to_vec(), now + 60_000);
        proven.is_ok()
    }

    fn permits(&self, ask: &Ask) -> bool {
        let (resource, tool) = (ask.resources.first(), uid("Tool", &ask.tool));
        let resource = uid(
            "Resource",
            &format!("{}/{}", ask.tool, resource.map_or("", String::as_str)),
        );
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let agent = HashMap::from([
            ("environment".to_owned(), text("production")),
            ("autonomy".to_owned(), RestrictedExpression::new_long(3)),
        ]);
        let about = HashMap::from([
            ("environment".to_owned(), text("production")),
            ("sensitivity_rank".to_owned(), RestrictedExpression::new_long(2)),
            ("risk_rank".to_owned(), RestrictedExpression::new_long(1)),
        ]);
        let none = HashSet::new;
        let entities = [
            Entity::new(self.agent.clone(), agent, [self.role.clone()].into()).unwrap(),
            Entity::new(self.role.clone(), HashMap::new(), none()).unwrap(),
            Entity::new(resource.clone(), about, [tool.clone()].into()).unwrap(),
            Entity::new(tool, HashMap::new(), none()).unwrap(),
        ];
        let entities = Entities::from_entities(entities, None).unwrap();
        ask.actions.iter().all(|action| {
            let ttl = i64::try_from(ask.ttl.unwrap_or(TTL)).unwrap();
            let context = [
                ("requested_ttl".to_owned(), RestrictedExpression::new_long(ttl)),
                ("purpose".to_owned(), text("a load by dayfly bench")),
            ];
            let context = Context::from_pairs(context).unwrap();
            let action = uid("Action", &format!("{}:{action}", ask.tool));
            let request = Request::new(self.agent.clone(), action, resource.clone(), context, None);
            let answer = self
                .authorizer
                .is_authorized(&request.unwrap(), &self.policies, &entities);
            answer.decision() == Decision::Allow
        })
    }

    fn sign(&self, claims: &Value) -> String {
        let header = r#"{"alg":"ES256","kid":"kA8mS0y7RCq3yQ0H3ZkVtQxkq0q3JmJmB0kq2mE0x9A","typ":"at+jwt"}"#;
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self.key.sign(&self.random, token.as_bytes()).unwrap();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_ref(), &mut token);
        token
    }
}

type Served = State<Arc<Service>>;

async fn open(State(service): Served, Json(_): Json<Value>) -> impl IntoResponse {
    // Nothing is kept of tasks. The id has the form of a broker's.
    let id = service.id("tsk_");
    (StatusCode::CREATED, Json(json!({ "id": id, "state": "open" })))
}

async fn issue(
    State(service): Served,
    Segment(task): Segment<String>,
    headers: HeaderMap,
    Json(ask): Json<Ask>,
) -> Result<impl IntoResponse, StatusCode> {
    if !service.is_known(&headers).await {
        return Err(StatusCode::UNAUTHORIZED);
    }
    if !service.permits(&ask) {
        return Err(StatusCode::FORBIDDEN);
    }
    let (lease, decision, now) = (service.id("lse_"), service.id("dec_"), millis());
    let life = ask.ttl.unwrap_or(TTL);
    let until = now + life * 1000;
    let access = format!("{}@{}", ask.actions.join(","), ask.resources.join(","));
    let audience = format!("https://{}.example.org", ask.tool);
    let token = service.sign(&json!({
        "iss": service.issuer, "sub": "support-bot", "sub_profile": "ai_agent", "aud": audience,
        "client_id": "support-bot", "iat": now / 1000, "nbf": now / 1000, "exp": until / 1000,
        "jti": lease, "txn": task, "scope": access,
        "authorization_details": [{"type": "dayfly_access", "locations": [audience], "actions": ask.actions,
            "resources": ask.resources}],
        "dayfly": {"task": task, "lease": lease, "agent": "support-bot", "tool": ask.tool,
            "environment": "production", "trust_domain": "example.org", "decision": decision},
    }));
    let mut script = service.script.prepare_invoke();
    script
        .key(format!("{}:{{1}}:{lease}", service.prefix))
        .key(format!("{}:{{1}}:expiry", service.prefix))
        .arg(&task)
        .arg(&ask.tool)
        .arg(&access)
        .arg(until);
    let kept: redis::RedisResult<i64> = script.invoke_async(&mut service.redis.clone()).await;
    kept.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let at = "2026-01-01T00:00:00.000Z";
    let answer = json!({
        "credential": {"type": "bearer_token", "token": token},
        "lease": {"id": lease, "task": task, "agent": "support-bot", "tool": ask.tool, "actions": ask.actions,
            "resources": ask.resources, "provider": "jwt", "handle": lease, "revocation": "deny_listed",
            "decision": decision, "issued_at": at, "expires_at": at, "bounded_by": "tool", "state": "active"},
        "requested": life, "granted": life, "bounded_by": "tool", "revocation": "deny_listed",
        "expires_at": at, "decision": decision, "origins": [audience],
    });
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn complete() -> impl IntoResponse {
    Json(json!({}))
}

/// What follows a flag.
fn given(flag: &str) -> Option<String> {
    std::env::args().skip_while(|argument| argument != flag).nth(1)
}

#[tokio::main]
async fn main() {
    let (Some(configuration), Some(url)) = (given("--config"), given("--redis")) else {
        println!(
            "a server, to be measured by `dayfly bench --beside`: give it --config FILE and --redis URL"
        );
        return;
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let service = Service::new(Path::new(&configuration), &url).await;
    let routes = Router::new()
        .route("/v1/tasks", post(open))
        .route("/v1/tasks/{task}/credentials", post(issue))
        .route("/v1/tasks/{task}/complete", post(complete))
        .with_state(Arc::new(service));
    let address = given("--listen").unwrap_or_else(|| "127.0.0.1:8441".to_owned());
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    println!(
        "http://{} as process {}",
        listener.local_addr().unwrap(),
        std::process::id()
    );
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
    axum::serve(listener, routes).await.unwrap();
}
