//! Status lists as tools see them: what a token says, what its list says, and how late.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use axum::response::Response;
use dayfly::broker::Settings;
use dayfly::keys::jose::Unverified;
use dayfly::keys::jwk::KeySet;
use dayfly::ledger::lineage::Loss;
use dayfly::model::cutoff::{Cutoff, Selector};
use dayfly::model::ids::LeaseId;
use dayfly::model::lease::Cause;
use dayfly::model::recheck::{Progress, Recheck, Work};
use dayfly::model::status_list::{ListClaims, MEDIA_TYPE, Reference, TYP};
use dayfly::model::task::{Task, TaskChange};
use dayfly::model::time::Timestamp;
use dayfly::model::token::AccessToken;
use dayfly::model::ttl::Ttl;
use dayfly::provider::jwt::JwtProvider;
use dayfly_client::resource::Keys;
use dayfly_client::resource::status_list::{self, TokenStatus, VerifiedList};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::http::{Api, read};
use crate::process::{Installation, until};
use crate::redis_servers;
use crate::world::gated::{Gated, Slow};
use crate::world::{ISSUER, Plan, World, token};

/// How old a list may be when it is given out.
const FRESH: Duration = Duration::from_secs(1);

fn claims_of(token: &str) -> AccessToken {
    Unverified::parse(token, 8192).unwrap().claims().unwrap()
}

fn reference_of(token: &str) -> Reference {
    claims_of(token).status.expect("a status").status_list
}

async fn out(world: &World, task: &Task) -> (LeaseId, Reference) {
    let issued = world
        .issue("support-bot", task.charter.id, "crm:read")
        .await
        .unwrap();
    (issued.lease.id, reference_of(token(&issued)))
}

async fn opened(world: &World) -> Task {
    world.open("support-bot", &["crm:read"]).await
}

fn path(uri: &str) -> &str {
    uri.strip_prefix(ISSUER).expect("an address of the issuer")
}

async fn get(api: &Api, uri: &str, headers: &[(header::HeaderName, &str)]) -> Response {
    let mut request = Request::get(path(uri));
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    api.send(request.body(Body::empty()).unwrap()).await
}

async fn text(response: Response) -> String {
    assert_eq!(response.status(), 200);
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.into()).unwrap()
}

/// What the list says of this token now, as a tool finds out that has nothing but the keys.
pub(crate) async fn status(api: &Api, reference: &Reference) -> TokenStatus {
    let list = text(get(api, &reference.uri, &[]).await).await;
    let (keys, now) = (published(&api.world.keys.key_set()), instant(api.world.now()));
    let list = VerifiedList::verify(&list, &reference.uri, &keys, now).unwrap();
    list.status(&named(reference), now).unwrap()
}

/// The keys as tools read them.
fn published(keys: &KeySet) -> Keys {
    Keys::parse(keys.to_json().as_bytes()).unwrap()
}

/// The entry as tools name it.
fn named(reference: &Reference) -> status_list::Reference {
    let (idx, uri) = (reference.idx, reference.uri.clone());
    status_list::Reference { idx, uri }
}

/// An instant as tools have it.
pub(crate) fn instant(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at.as_millis())
}

fn later(world: &World, time: Duration) -> Timestamp {
    let then = world.now().plus(time);
    world.clock.set(then);
    then
}

async fn slug(response: Response) -> (u16, String) {
    let (status, problem) = read(response).await;
    let slug = problem["type"].as_str().unwrap().rsplit('/').next().unwrap();
    (status.as_u16(), slug.to_owned())
}

#[tokio::test]
async fn a_token_names_an_entry_that_says_when_it_was_ended() {
    let api = Api::new();
    let world = &api.world;
    let [kept, completed, suspended] = [opened(world).await, opened(world).await, opened(world).await];
    let (_, spared) = out(world, &kept).await;
    let (revoked, of_revoked) = out(world, &kept).await;
    let (_, of_completed) = out(world, &completed).await;
    let (_, of_suspended) = out(world, &suspended).await;
    let all = [&spared, &of_revoked, &of_completed, &of_suspended];
    let distinct: HashSet<(&str, u64)> = all.iter().map(|at| (at.uri.as_str(), at.idx)).collect();
    assert_eq!(distinct.len(), 4);
    for reference in all {
        assert_eq!(status(&api, reference).await, TokenStatus::Valid);
    }

    let ledger = &world.ledger;
    ledger.revoke(revoked, Cause::Revoked, world.now()).await.unwrap();
    let end = TaskChange::End(dayfly::model::task::Outcome::Completed);
    ledger
        .advance(completed.charter.id, end, world.now())
        .await
        .unwrap();
    let suspend = TaskChange::Suspend;
    ledger
        .advance(suspended.charter.id, suspend, world.now())
        .await
        .unwrap();
    assert_eq!(
        status(&api, &of_revoked).await,
        TokenStatus::Valid,
        "one second is the price of asking the ledger once for all"
    );
    later(world, FRESH);
    for reference in [&of_revoked, &of_completed, &of_suspended] {
        assert_eq!(status(&api, reference).await, TokenStatus::Invalid);
    }
    // The token of a suspended task does not come back with it: the task gets new ones.
    ledger
        .advance(suspended.charter.id, TaskChange::Resume, world.now())
        .await
        .unwrap();
    let (_, next) = out(world, &suspended).await;
    later(world, FRESH);
    assert_eq!(status(&api, &of_suspended).await, TokenStatus::Invalid);
    assert_eq!(status(&api, &next).await, TokenStatus::Valid);
    assert_eq!(status(&api, &spared).await, TokenStatus::Valid);
}

#[tokio::test]
async fn a_renewed_token_keeps_the_entry_of_its_lease() {
    let api = Api::new();
    let task = opened(&api.world).await;
    let (lease, first) = out(&api.world, &task).await;
    let caller = api.world.caller("support-bot").await;
    let renewed = api
        .world
        .broker
        .renew(caller, lease, None, api.world.request())
        .await
        .unwrap();
    assert_eq!(reference_of(token(&renewed)), first);
}

#[tokio::test]
async fn a_list_says_what_the_standard_asks_of_it() {
    let api = Api::new();
    let task = opened(&api.world).await;
    let (_, reference) = out(&api.world, &task).await;
    let response = get(&api, &reference.uri, &[(header::ACCEPT, MEDIA_TYPE)]).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=1");
    let etag = response.headers()[header::ETAG].to_str().unwrap().to_owned();
    let list = text(response).await;
    let unverified = Unverified::parse(&list, 1 << 20).unwrap();
    assert!(unverified.header().is_typ(TYP));
    assert!(unverified.header().kid.is_some());
    let claims: ListClaims = unverified.claims().unwrap();
    let now = api.world.now().as_secs();
    assert_eq!(
        (claims.sub.as_str(), claims.iat, claims.ttl, claims.exp),
        (reference.uri.as_str(), now, Some(15), Some(now + 60))
    );
    assert_eq!(claims.status_list.bits, 1);
    assert!(
        list.len() < 1000,
        "a list on which little was ended is short: {}",
        list.len()
    );

    let known = [(header::IF_NONE_MATCH, etag.as_str())];
    assert_eq!(get(&api, &reference.uri, &known).await.status(), 304);
    later(&api.world, FRESH);
    assert_eq!(get(&api, &reference.uri, &known).await.status(), 200);

    // Where all of them are, as the metadata says.
    let response = get(
        &api,
        &format!("{ISSUER}/.well-known/oauth-authorization-server"),
        &[],
    )
    .await;
    let (_, metadata) = read(response).await;
    let all = metadata["status_list_aggregation_endpoint"].as_str().unwrap();
    assert_eq!(claims.status_list.aggregation_uri.as_deref(), Some(all));
    let (_, all) = read(get(&api, all, &[]).await).await;
    assert_eq!(all, json!({"status_lists": [reference.uri]}));
}

#[tokio::test]
async fn what_is_no_list_is_refused_with_what_that_means() {
    let api = Api::new();
    let task = opened(&api.world).await;
    let (_, reference) = out(&api.world, &task).await;
    let (front, _) = reference.uri.rsplit_once('-').unwrap();
    let (base, epoch_and_hour) = front.rsplit_once('/').unwrap();
    let (epoch, hour) = epoch_and_hour.split_once('-').unwrap();
    let number = u64::from_str_radix(epoch, 16).unwrap();
    for (name, expected) in [
        (format!("{epoch}-{hour}-1"), (404, "not-found")),
        (format!("{epoch}-{hour}-00"), (404, "not-found")),
        (format!("{epoch}-{hour}"), (404, "not-found")),
        (format!("{epoch}-999999-0"), (404, "not-found")),
        (format!("{:016x}-{hour}-0", number + 1), (404, "not-found")),
        ("x".repeat(300), (404, "not-found")),
        (format!("{:016x}-{hour}-0", number - 1), (410, "gone")),
        (format!("{epoch}-1-0"), (410, "gone")),
    ] {
        let (status, slug) = slug(get(&api, &format!("{base}/{name}"), &[]).await).await;
        assert_eq!((status, slug.as_str()), expected, "{name}");
    }
    let cwt = [(header::ACCEPT, "application/statuslist+cwt")];
    let refused = slug(get(&api, &reference.uri, &cwt).await).await;
    assert_eq!(refused, (406, "not-acceptable".to_owned()));
    let past = format!("{}?time=1795329000", reference.uri);
    let refused = slug(get(&api, &past, &[]).await).await;
    assert_eq!(refused, (501, "not-implemented".to_owned()));

    // A list is over with the last of its tokens, whether or not the ledger has forgotten it.
    later(&api.world, Duration::from_secs(7200 + 300));
    assert_eq!(get(&api, &reference.uri, &[]).await.status(), 410);
    let (_, all) = read(get(&api, base, &[]).await).await;
    assert_eq!(all, json!({"status_lists": []}));
    api.world.reap().await;
    assert_eq!(get(&api, &reference.uri, &[]).await.status(), 410);
}

#[tokio::test]
async fn a_kill_order_is_on_the_lists_before_it_has_come_to_the_leases() {
    let api = Api::new();
    let world = &api.world;
    let task = opened(world).await;
    let (lease, before) = out(world, &task).await;
    let now = world.now();
    let cutoff = Cutoff {
        selector: Selector::Agent(task.charter.agent.clone()),
        up_to: now,
        at: now,
        cause: Cause::Cutoff,
    };
    // As the order stands when the broker that took it dies at once.
    let order = Recheck {
        whom: cutoff.selector.clone(),
        work: Work::Cut {
            cutoff: cutoff.clone(),
        },
        why: "a test".to_owned(),
        ordered_at: now,
        progress: Progress::default(),
    };
    world.ledger.order_recheck(&order).await.unwrap();
    world.ledger.cut(&cutoff).await.unwrap();
    later(world, FRESH);
    let (_, after) = out(world, &opened(world).await).await;
    assert_eq!(status(&api, &before).await, TokenStatus::Invalid);
    assert_eq!(status(&api, &after).await, TokenStatus::Valid);
    let state = world.ledger.lease(lease).await.unwrap().unwrap().state;
    assert_eq!(state.as_str(), "active", "nobody has come to it");
}

/// Keeps who reads lists waiting, but for the first so many.
fn slow(but_for: usize) -> (Api, Arc<Slow>) {
    let slow = Slow::at("parts");
    slow.released.add_permits(but_for);
    let gate = Arc::clone(&slow);
    let world = World::of(Plan {
        ledger: Box::new(|ledger| Arc::new(Gated { ledger, gate })),
        ..Plan::default()
    });
    (Api::of(world), slow)
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_while_lists_are_read_have_what_was_read() {
    let (api, slow) = slow(0);
    let all = format!("{ISSUER}/v1/status-lists");
    let mut asking: Vec<_> = (0..4).map(|_| Box::pin(get(&api, &all, &[]))).collect();
    for asked in &mut asking {
        assert!(futures_util::poll!(asked.as_mut()).is_pending());
    }
    // It takes longer than it is good for, and who asked first does not wait for it.
    later(&api.world, FRESH * 3);
    drop(asking.remove(0));
    slow.released.add_permits(2);
    for asked in asking {
        assert_eq!(asked.await.status(), 200);
    }
    assert_eq!(slow.inside.available_permits(), 1);
    assert_eq!(get(&api, &all, &[]).await.status(), 200);
    assert_eq!(slow.inside.available_permits(), 2, "it was old by then");
}

#[tokio::test(start_paused = true)]
async fn lists_wait_for_kill_orders_without_reading_them_again_for_each_who_asks() {
    let (api, slow) = slow(2);
    let world = &api.world;
    let now = world.now();
    for user in 0..=1_000 {
        let whom = Selector::User(format!("user-{user}").parse().unwrap());
        let order = Recheck {
            whom: whom.clone(),
            work: Work::Cut {
                cutoff: Cutoff {
                    selector: whom,
                    up_to: now,
                    at: now,
                    cause: Cause::Cutoff,
                },
            },
            why: "a test".to_owned(),
            ordered_at: now,
            progress: Progress::default(),
        };
        world.ledger.order_recheck(&order).await.unwrap();
    }
    let all = format!("{ISSUER}/v1/status-lists");
    for _ in 0..3 {
        let response = get(&api, &all, &[]).await;
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(slug(response).await, (503, "busy".to_owned()));
    }
    assert_eq!(slow.inside.available_permits(), 1);
    later(world, FRESH * 5);
    assert_eq!(get(&api, &all, &[]).await.status(), 503);
    assert_eq!(slow.inside.available_permits(), 2);
}

/// Its first walk is still under way: until that is over the two are one order.
#[tokio::test]
async fn a_kill_order_that_is_given_again_is_on_the_lists_as_well() {
    let api = Api::new();
    let world = &api.world;
    let task = opened(world).await;
    let (_, before) = out(world, &task).await;
    let order = |at: Timestamp| Cutoff {
        selector: Selector::Agent(task.charter.agent.clone()),
        up_to: at,
        at,
        cause: Cause::Cutoff,
    };
    let recheck = |cutoff: Cutoff| Recheck {
        whom: cutoff.selector.clone(),
        ordered_at: cutoff.at,
        work: Work::Cut { cutoff },
        why: "a test".to_owned(),
        progress: Progress::default(),
    };
    let first = order(world.now());
    world.ledger.order_recheck(&recheck(first.clone())).await.unwrap();
    world.ledger.cut(&first).await.unwrap();
    let hold = Duration::from_secs(60);
    let revision = world.broker.rules().current().revision.clone();
    let claim = world.ledger.claim_recheck(world.now(), hold, &revision);
    claim.await.unwrap().expect("somebody begins");
    later(world, FRESH);
    let (_, meanwhile) = out(world, &opened(world).await).await;
    later(world, FRESH);
    let again = order(world.now());
    world.ledger.order_recheck(&recheck(again.clone())).await.unwrap();
    world.ledger.cut(&again).await.unwrap();
    later(world, FRESH);
    for reference in [&before, &meanwhile] {
        assert_eq!(status(&api, reference).await, TokenStatus::Invalid);
    }
}

#[tokio::test]
async fn a_lost_ledger_has_no_lists() {
    let api = Api::new();
    let task = opened(&api.world).await;
    let (_, reference) = out(&api.world, &task).await;
    assert_eq!(status(&api, &reference).await, TokenStatus::Valid);
    api.world.ledger.condemn(Loss::RolledBack).await.unwrap();
    // At once, also what was read before.
    for uri in [reference.uri.as_str(), &format!("{ISSUER}/v1/status-lists")] {
        let response = get(&api, uri, &[]).await;
        assert!(response.headers().contains_key(header::RETRY_AFTER));
        assert_eq!(slug(response).await, (503, "quarantine".to_owned()));
    }
}

#[tokio::test]
async fn whoever_wants_no_lists_has_none() {
    let plan = Plan::default();
    let settings = Settings {
        status_list_ttl: None,
        ..Settings::default()
    };
    let api = Api::of(World::of(Plan { settings, ..plan }));
    let keys = api.world.keys.clone();
    let jwt = JwtProvider::new(ISSUER, keys, Ttl::from_secs(3600).unwrap()).unwrap();
    let broker = api.world.restarted(Arc::new(jwt.without_status_lists()));
    let task = opened(&api.world).await;
    let order = dayfly::broker::issue::IssueOrder {
        task: task.charter.id,
        access: crate::world::access("crm:read"),
        ttl: None,
        key: None,
    };
    let caller = api.world.caller("support-bot").await;
    let issued = broker.issue(caller, order, api.world.request()).await.unwrap();
    assert_eq!(claims_of(token(&issued)).status, None);
    assert_eq!(
        get(&api, &format!("{ISSUER}/v1/status-lists"), &[])
            .await
            .status(),
        404
    );
    let response = get(
        &api,
        &format!("{ISSUER}/.well-known/oauth-authorization-server"),
        &[],
    )
    .await;
    let (_, metadata) = read(response).await;
    assert_eq!(metadata.get("status_list_aggregation_endpoint"), None);
}

/// Two brokers on one Redis: what ends at the one is on the list of the other. The latency is printed, not judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_knows_what_the_other_ended() {
    use std::io::Write as _;
    let Some(mode) = redis_servers::single() else {
        return;
    };
    let files = Installation::on(mode);
    let sites = [files.broker(), files.replica()];
    let brokers = [sites[0].start().await, sites[1].start().await];
    let agent = files.api("support-bot", &sites[0]).await;
    let body = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (status, task) = agent.post("/v1/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let task = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let ask = json!({"tool": "crm", "actions": ["read"]});
    let (status, issued) = agent.post(&format!("{task}/credentials"), &ask).await.unwrap();
    assert_eq!(status, 201, "{issued}");
    let reference = reference_of(issued["credential"]["token"].as_str().unwrap());

    let client = reqwest::Client::builder().timeout(Duration::from_secs(10));
    let client = client.build().unwrap();
    let there = |path: &str| format!("http://{}{path}", sites[1].address);
    let fetch = async |path: &str| {
        let response = client.get(there(path)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.text().await.unwrap()
    };
    let keys = Keys::parse(fetch("/.well-known/jwks.json").await.as_bytes()).unwrap();
    let path = reference.uri.strip_prefix(&files.issuer()).unwrap().to_owned();
    let look = async || {
        let list = fetch(&path).await;
        let claims: Value = Unverified::parse(&list, 1 << 20).unwrap().claims().unwrap();
        let now = instant(Timestamp::from_secs(claims["iat"].as_u64().unwrap()));
        let list = VerifiedList::verify(&list, &reference.uri, &keys, now).unwrap();
        list.status(&named(&reference), now).unwrap()
    };
    assert_eq!(look().await, TokenStatus::Valid);
    let (status, done) = agent
        .post(&format!("{task}/complete"), &json!({"outcome": "completed"}))
        .await
        .unwrap();
    assert!(status < 300, "{done}");
    let began = Instant::now();
    until("the other replica says so", async || {
        (look().await == TokenStatus::Invalid).then_some(())
    })
    .await;
    let took = began.elapsed();
    writeln!(
        std::io::stderr(),
        "on the list of the other replica after {took:.1?}"
    )
    .unwrap();
    assert!(took < FRESH + Duration::from_secs(4), "{took:?}");
    for broker in brokers {
        broker.stop().await;
    }
}
