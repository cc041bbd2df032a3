//! Sessions of AWS roles: what they allow, when they end, and how they are ended early.

pub(crate) mod account;
pub(crate) mod boto3;
mod enforced;
mod guide;
pub(crate) mod iam;
pub(crate) mod moto;
pub(crate) mod oidc;
pub(crate) mod ways_in;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use dayfly::clock::ManualClock;
use dayfly::model::access::Access;
use dayfly::model::ids::{LeaseId, TaskId};
use dayfly::model::lease::{Ending, Held};
use dayfly::model::time::Timestamp;
use dayfly::model::tool::Tool;
use dayfly::provider::aws_sts::{AwsSts, DenySlot};
use dayfly::provider::{Presence, Provider, ProviderError};
use futures_util::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};

use self::account::{Account, EXTERNAL_ID, OWN_SECRET, ROLE};
use self::iam::{Request, like, says};
use crate::contract::provider::a_tool;
use crate::world::{MORNING, access};

const STRICT: DenySlot = DenySlot {
    role_wide_when_full: false,
};

/// The tool `orders`, which is a bucket.
pub(crate) fn tool() -> Tool {
    a_tool(
        "aws",
        json!({
            "role_arn": ROLE,
            "external_id": EXTERNAL_ID,
            "statements": {
                "read": [
                    {"actions": ["s3:GetObject"],
                     "resources": ["arn:aws:s3:::acme/{resource}", "arn:aws:s3:::acme/{resource}/*"]},
                    {"actions": ["s3:ListBucket"], "resources": ["arn:aws:s3:::acme"],
                     "conditions": {"StringLike": {"s3:prefix": ["{resource}/*"]}}},
                ],
                "write": {"actions": ["s3:PutObject"], "resources": ["arn:aws:s3:::acme/{resource}"],
                     "resources_all": ["arn:aws:s3:::acme/*"]},
            },
        }),
    )
}

fn held(n: u8, ends: Timestamp) -> Held {
    let task = TaskId::new(MORNING, [1; 10]);
    Held {
        lease: LeaseId::new(task, MORNING, [n; 10]),
        handle: None,
        expires_at: Some(ends),
    }
}

fn later(secs: u64) -> Timestamp {
    MORNING.plus(Duration::from_secs(secs))
}

#[tokio::test]
async fn promises_no_more_than_it_can_do() {
    let account = Account::open().await;
    let without = account.provider(None);
    assert_eq!(without.promise(&tool()).ending, Ending::AtExpiry);
    without.revoke(&held(1, later(300))).await.unwrap();
    assert_eq!(
        without.probe(&held(1, later(300))).await.unwrap(),
        Presence::Unknown
    );
    assert_eq!(without.probe(&held(1, MORNING)).await.unwrap(), Presence::Unknown);
    assert_eq!(account.slot(), None);
    assert_eq!(
        account.provider(Some(STRICT)).promise(&tool()).ending,
        Ending::Immediate
    );
}

#[tokio::test]
async fn what_ends_at_its_own_time_costs_no_call_and_claims_no_proof() {
    let account = Account::open().await;
    let provider = account.provider(Some(STRICT));
    provider.revoke(&held(1, MORNING)).await.unwrap();
    assert_eq!(
        provider.probe(&held(1, MORNING)).await.unwrap(),
        Presence::Unknown
    );
    assert_eq!(account.calls("PutRolePolicy") + account.calls("GetRolePolicy"), 0);
}

#[tokio::test]
async fn many_ends_are_few_writes() {
    let account = Account::open().await;
    let provider = account.provider(Some(STRICT));
    let all: Vec<Held> = (0..100).map(|n| held(n, later(300))).collect();
    for end in join_all(all.iter().map(|held| provider.revoke(held))).await {
        end.unwrap();
    }
    for held in &all {
        assert_eq!(provider.probe(held).await.unwrap(), Presence::Absent);
    }
    let writes = account.calls("PutRolePolicy");
    assert!(writes <= 3, "{writes} writes");
}

#[tokio::test]
async fn replicas_that_write_at_the_same_time_lose_nothing() {
    let account = Account::open().await;
    let (one, other) = (account.provider(Some(STRICT)), account.provider(Some(STRICT)));
    let ends = (0..40).map(|n| {
        let provider = if n % 2 == 0 { &one } else { &other };
        let held = held(n, later(300));
        async move { provider.revoke(&held).await }
    });
    for end in join_all(ends).await {
        end.unwrap();
    }
    // What was overwritten comes back with the next write of whoever wrote it.
    one.revoke(&held(100, later(300))).await.unwrap();
    other.revoke(&held(101, later(300))).await.unwrap();
    for n in (0..40).chain([100, 101]) {
        assert_eq!(
            one.probe(&held(n, later(300))).await.unwrap(),
            Presence::Absent,
            "{n}"
        );
    }
}

#[tokio::test]
async fn an_entry_that_is_overwritten_is_written_again_before_it_counts() {
    let account = Account::open().await;
    let (one, other) = (account.provider(Some(STRICT)), account.provider(Some(STRICT)));
    other.preflight().await.unwrap();
    let empty = account.slot().unwrap();
    account.overwrite_next(&empty);
    one.revoke(&held(1, later(300))).await.unwrap();
    assert_eq!(other.probe(&held(1, later(300))).await.unwrap(), Presence::Absent);
    assert_eq!(account.calls("PutRolePolicy"), 3);
}

/// Neither who looks nor who starts writes where somebody is at it: between their reading and their writing an entry
/// could come, and would be gone.
#[tokio::test]
async fn nobody_writes_over_live_denials_to_see_whether_they_could() {
    let account = Account::open().await;
    let (one, other) = (account.provider(Some(STRICT)), account.provider(Some(STRICT)));
    other.look().await.unwrap();
    assert_eq!(account.calls("PutRolePolicy"), 0);
    other.preflight().await.unwrap();
    assert_eq!(account.calls("PutRolePolicy"), 1);
    one.revoke(&held(1, later(300))).await.unwrap();
    let writes = account.calls("PutRolePolicy");
    other.look().await.unwrap();
    other.preflight().await.unwrap();
    assert_eq!(account.calls("PutRolePolicy"), writes);
    account.pass(Duration::from_secs(900));
    other.preflight().await.unwrap();
    assert_eq!(account.calls("PutRolePolicy"), writes + 1);
}

#[tokio::test]
async fn entries_go_once_their_sessions_are_over() {
    let account = Account::open().await;
    let provider = account.provider(Some(STRICT));
    provider.revoke(&held(1, later(60))).await.unwrap();
    account.pass(Duration::from_secs(400));
    provider.revoke(&held(2, later(900))).await.unwrap();
    let slot = account.slot().unwrap();
    assert!(!slot.contains(&held(1, MORNING).lease.to_string()), "{slot}");
    assert!(slot.contains(&held(2, MORNING).lease.to_string()), "{slot}");
}

/// Leaves room for so few leases that the next one is too many.
fn crowd(account: &Account) {
    let filler = json!({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "s3:*", "Resource": format!("arn:aws:s3:::{}", "x".repeat(9_500))}]});
    account.set_policy("filler", &filler.to_string());
}

#[tokio::test]
async fn a_full_slot_is_said_and_nothing_is_claimed() {
    let account = Account::open().await;
    let provider = account.provider(Some(STRICT));
    crowd(&account);
    let ends: Vec<Held> = (0..20).map(|n| held(n, later(300))).collect();
    let mut refused = 0;
    for held in &ends {
        match provider.revoke(held).await {
            Ok(()) => assert_eq!(provider.probe(held).await.unwrap(), Presence::Absent),
            Err(ProviderError::Refused(reason)) => {
                assert!(reason.contains("is full"), "{reason}");
                assert_eq!(provider.probe(held).await.unwrap(), Presence::Unknown);
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0 && refused < 20, "{refused}");
}

#[tokio::test]
async fn a_full_slot_can_end_the_whole_role() {
    let account = Account::open().await;
    let provider = account.provider(Some(DenySlot {
        role_wide_when_full: true,
    }));
    crowd(&account);
    for n in 0..20 {
        account.pass(Duration::from_secs(1));
        provider.revoke(&held(n, later(300))).await.unwrap();
        assert_eq!(
            provider.probe(&held(n, later(300))).await.unwrap(),
            Presence::Absent
        );
    }
    assert!(account.slot().unwrap().contains("aws:TokenIssueTime"));
}

#[tokio::test]
async fn a_slot_that_somebody_changed_is_no_proof() {
    let account = Account::open().await;
    let provider = account.provider(Some(STRICT));
    provider.revoke(&held(1, later(300))).await.unwrap();
    account.set_policy(
        "dayfly-deny",
        &account.slot().unwrap().replace("Deny\"", "Allow\""),
    );
    let error = account
        .provider(Some(STRICT))
        .probe(&held(1, later(300)))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("delete it, and Dayfly writes it anew"),
        "{error}"
    );
}

#[tokio::test]
async fn faults_are_told_as_what_they_are_and_without_secrets() {
    let account = Account::open().await;
    let provider = account.provider(Some(STRICT));
    let long = "FwoGZXIvYXdzE".repeat(20);
    for (fault, expected) in [
        ((400, "Throttling", "Rate exceeded"), "too much to do"),
        ((429, "SlowDown", ""), "too much to do"),
        (
            (403, "AccessDenied", "User: x is not authorized"),
            "the provider refuses",
        ),
        (
            (403, "SignatureDoesNotMatch", long.as_str()),
            "does not take our signature",
        ),
        ((503, "ServiceUnavailable", ""), "unavailable"),
        ((400, "RegionDisabledException", ""), "set another `region`"),
    ] {
        account.fail(Some(fault));
        let error = provider.preflight().await.unwrap_err();
        let told = format!("{error} {error:?} {provider:?}");
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
        for secret in [OWN_SECRET, "FwoG", "AKIA", "Signature="] {
            assert!(!told.contains(secret), "{told}");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_a_missing_key_is_said() {
    let account = Account::open().await;
    let mut settings = account.settings(None);
    settings.endpoint_url = Some("http://127.0.0.1:1".into());
    let error = of(settings, &account).preflight().await.unwrap_err();
    assert!(matches!(error, ProviderError::Unavailable(_)), "{error}");
    let mut settings = account.settings(None);
    settings.way_in = dayfly::provider::aws_sts::WayIn::Static {
        access_key_id: "/nonexistent/id".into(),
        secret_access_key: "/nonexistent/secret".into(),
    };
    let error = of(settings, &account).preflight().await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/id"), "{error}");
    assert!(matches!(error, ProviderError::Refused(_)), "{error}");
}

fn of(settings: dayfly::provider::aws_sts::Settings, account: &Account) -> AwsSts {
    let entropy = dayfly::entropy::OsEntropy::new();
    let key =
        dayfly::keys::ring_keys::RingSigner::generate(dayfly::keys::Algorithm::Es256, &entropy).unwrap();
    let keys = Arc::new(dayfly::keys::key_ring::KeyRing::of(Arc::new(key)));
    AwsSts::new(settings, account.clock.clone(), Arc::new(entropy), keys)
}

/// A provider that calls nobody, at nine in the morning.
static OFFLINE: LazyLock<AwsSts> = LazyLock::new(|| {
    let entropy = dayfly::entropy::OsEntropy::new();
    let key =
        dayfly::keys::ring_keys::RingSigner::generate(dayfly::keys::Algorithm::Es256, &entropy).unwrap();
    let settings = dayfly::provider::aws_sts::Settings {
        region: "eu-central-1".parse().unwrap(),
        endpoint_url: None,
        roles: [ROLE.parse().unwrap()].into(),
        deny_slot: None,
        max_session: dayfly::model::ttl::Ttl::from_secs(3600).unwrap(),
        way_in: dayfly::provider::aws_sts::WayIn::Chain,
    };
    let keys = Arc::new(dayfly::keys::key_ring::KeyRing::of(Arc::new(key)));
    AwsSts::new(
        settings,
        Arc::new(ManualClock::at(MORNING)),
        Arc::new(entropy),
        keys,
    )
});

/// The session policy for an access, and when it ends.
fn explained(access: &Access) -> Result<(Value, Timestamp), ProviderError> {
    let mut tool = tool();
    tool.default_ttl = dayfly::model::ttl::Ttl::from_secs(300).unwrap();
    Ok((OFFLINE.explain(&tool, access)?.unwrap(), later(300)))
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab:.=]{1,2}", 1..3)
        .prop_map(|segments| segments.join("/"))
        .prop_filter("a path", |path| {
            path.parse::<dayfly::model::access::ResourcePath>().is_ok()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_session_policy_allows_what_the_templates_say_and_nothing_else(
        actions in prop::sample::subsequence(vec!["read", "write"], 1..=2),
        resources in prop::collection::btree_set(path(), 1..4),
        action in prop::sample::select(vec!["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:DeleteObject", "iam:PassRole"]),
        asked in path(), below in prop::bool::ANY, bucket in prop::sample::select(vec!["acme", "acme2", "acm"]),
        offset in 0_u64..600,
    ) {
        let list: Vec<&str> = resources.iter().map(String::as_str).collect();
        let (policy, ends) = explained(&access(&format!("orders:{}@{}", actions.join(","), list.join(",")))).unwrap();
        let key = if below { format!("{asked}/x") } else { asked.clone() };
        let (arn, at) = match action {
            "s3:ListBucket" => (format!("arn:aws:s3:::{bucket}"), later(offset)),
            _ => (format!("arn:aws:s3:::{bucket}/{key}"), later(offset)),
        };
        let request = Request::new(action, &arn, at).with("s3:prefix", &key);
        let covers = |key: &str| resources.iter().any(|r| key == r || like(&format!("{r}/*"), key));
        let templated = bucket == "acme" && match action {
            "s3:GetObject" => actions.contains(&"read") && covers(&key),
            "s3:ListBucket" => actions.contains(&"read") && resources.iter().any(|r| key.starts_with(&format!("{r}/"))),
            "s3:PutObject" => actions.contains(&"write") && resources.contains(&key),
            _ => false,
        };
        let allowed = says(&policy, "Allow", &request) && !says(&policy, "Deny", &request);
        prop_assert_eq!(allowed, templated && at < ends);
        prop_assert!(policy.to_string().len() <= 2048);
    }

    #[test]
    fn the_order_of_asking_changes_nothing(mut resources in prop::collection::vec(path(), 1..5)) {
        let one = explained(&access(&format!("orders:write,read@{}", resources.join(",")))).unwrap().0;
        resources.reverse();
        let other = explained(&access(&format!("orders:read,write@{}", resources.join(",")))).unwrap().0;
        prop_assert_eq!(one.to_string(), other.to_string());
    }
}

#[test]
fn an_access_to_everything_is_given_only_where_the_tool_says_so() {
    let (policy, _) = explained(&access("orders:write")).unwrap();
    let put = Request::new("s3:PutObject", "arn:aws:s3:::acme/any/thing", MORNING);
    assert!(says(&policy, "Allow", &put));
    assert!(matches!(
        explained(&access("orders:read")),
        Err(ProviderError::Unfit { .. })
    ));
}

#[test]
fn tools_are_refused_at_load() {
    for (change, expected) in [
        (
            json!({"role_arn": "arn:aws:iam::123456789012:role/other"}),
            "is none of the `roles`",
        ),
        (json!({"role_arn": 3}), "invalid type"),
        (
            json!({"external_id": "\"}, {\"Effect\": \"Allow\""}),
            "`parameters.external_id`",
        ),
    ] {
        let mut tool = tool();
        for (key, value) in change.as_object().unwrap() {
            tool.binding.parameters.insert(key.clone(), value.clone());
        }
        let error = OFFLINE.accepts(&tool).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(OFFLINE.accepts(&tool()).is_ok());
}

#[tokio::test]
async fn nothing_can_be_listed() {
    assert_eq!(OFFLINE.inventory().await.unwrap(), []);
}
