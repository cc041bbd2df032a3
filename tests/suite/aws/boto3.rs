//! A workload as most are: it asks Dayfly over HTTP, and uses what it gets with boto3.

use std::io::Write as _;
use std::process::{Command, Stdio};

use dayfly::model::ids::LeaseId;
use serde_json::{Value, json};

use super::account::EXTERNAL_ID;
use super::moto::{Estate, variable};
use super::ways_in::{Way, installation};

/// How each of the calls went.
pub(crate) fn use_with_boto3(estate: &Estate, credential: &Value, calls: &Value) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/aws/client.py");
    let mut python = Command::new(variable("DAYFLY_TEST_AWS_PYTHON").unwrap())
        .arg(script)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let order = json!({"endpoint": estate.url, "credential": credential, "calls": calls});
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(order.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_works_with_what_the_api_gives_until_the_task_is_complete() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let bucket = estate.bucket();
    let administrator = variable("DAYFLY_TEST_AWS_KEY").unwrap();
    let (id, secret) = administrator.split_once(':').unwrap();
    let region = "eu-central-1";
    let prepared = use_with_boto3(
        &estate,
        &json!({"type": "aws_session", "access_key_id": id, "secret_access_key": secret,
            "session_token": null, "region": region}),
        &json!([
            ["s3", "create_bucket",
                {"Bucket": bucket, "CreateBucketConfiguration": {"LocationConstraint": region}}],
            ["s3", "put_object", {"Bucket": bucket, "Key": "customers/42/name", "Body": "Ada"}],
        ]),
    );
    assert_eq!(prepared, ["ok", "ok"]);

    let arn = format!("arn:aws:s3:::{bucket}/{{resource}}/*");
    let way = Way {
        endpoint: &estate.url,
        role: &estate.role_arn(),
        external_id: EXTERNAL_ID,
        deny_slot: true,
        resource: &arn,
        credentials: "credentials = \"default\"",
    };
    let files = installation(&way);
    let [id, secret] = estate
        .key_files()
        .map(|path| std::fs::read_to_string(path).unwrap());
    let mut site = files.broker();
    site.environment = Some(vec![
        ("AWS_ACCESS_KEY_ID".into(), id),
        ("AWS_SECRET_ACCESS_KEY".into(), secret),
    ]);
    let broker = site.start().await;
    let agent = files.api("support-bot", &site).await;
    let body = json!({"purpose": "answer ticket 4711",
        "scope": [{"tool": "crm", "actions": ["read"], "resources": ["customers/42"]}]});
    let (status, task) = agent.post("/v1/tasks", &body).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let body = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
    let (status, issued) = agent.post(&format!("{path}/credentials"), &body).await.unwrap();
    assert_eq!(status, 201, "{issued} {}", broker.log());
    assert_eq!(issued["revocation"], "immediate");

    let read = json!(["s3", "get_object", {"Bucket": bucket, "Key": "customers/42/name"}]);
    let calls = json!([
        read,
        ["s3", "list_objects_v2", {"Bucket": bucket, "Prefix": "customers/42/"}],
        ["s3", "put_object", {"Bucket": bucket, "Key": "customers/42/name", "Body": "Eve"}],
        ["s3", "delete_object", {"Bucket": bucket, "Key": "customers/42/name"}],
        ["iam", "list_users", {}],
        ["sts", "assume_role", {"RoleArn": estate.role_arn(), "RoleSessionName": "lse_another",
            "ExternalId": EXTERNAL_ID}],
        ["sts", "get_caller_identity", {}],
    ]);
    let credential = &issued["credential"];
    let denied = "AccessDenied";
    assert_eq!(
        use_with_boto3(&estate, credential, &calls),
        ["ok", "ok", denied, denied, denied, denied, "ok"],
        "what the role may, and nothing else"
    );

    let complete = format!("{path}/complete?wait=20s");
    let body = json!({"outcome": "completed"});
    let (status, done) = agent.post(&complete, &body).await.unwrap();
    assert_eq!(status, 200, "{done}");
    assert_eq!(done["settled"], true, "{done} {}", broker.log());
    assert_eq!(done["leases"][0]["proof"], "verified_absent", "{done}");
    assert_eq!(use_with_boto3(&estate, credential, &json!([read])), [denied]);
    let lease: LeaseId = issued["lease"]["id"].as_str().unwrap().parse().unwrap();
    assert!(estate.slot().await.contains(&lease.to_string()));
    broker.stop().await;
}
