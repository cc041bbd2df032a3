//! boto3 and the command line of AWS, before an account that checks signatures.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::super::{Stage, notes, run, said};
use crate::aws::account::EXTERNAL_ID;
use crate::aws::boto3::use_with_boto3;
use crate::aws::moto::{Estate, variable};
use crate::aws::ways_in::{Way, installation};

const REGION: &str = "eu-central-1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sdks_and_the_command_line_find_their_session_and_no_other() {
    let Some(estate) = Estate::new() else { return };
    let estate = estate.await;
    let bucket = estate.bucket();
    let administrator = variable("DAYFLY_TEST_AWS_KEY").unwrap();
    let (id, secret) = administrator.split_once(':').unwrap();
    let prepared = use_with_boto3(
        &estate,
        &json!({"type": "aws_session", "access_key_id": id, "secret_access_key": secret,
            "session_token": null, "region": REGION}),
        &json!([
            ["s3", "create_bucket",
                {"Bucket": bucket, "CreateBucketConfiguration": {"LocationConstraint": REGION}}],
            ["s3", "put_object", {"Bucket": bucket, "Key": "customers/42/name", "Body": "Ada"}],
        ]),
    );
    assert_eq!(prepared, ["ok", "ok"]);
    let arn = format!("arn:aws:s3:::{bucket}/{{resource}}/*");
    let files = installation(&Way {
        endpoint: &estate.url,
        role: &estate.role_arn(),
        external_id: EXTERNAL_ID,
        deny_slot: true,
        resource: &arn,
        credentials: "credentials = \"default\"",
    });
    let [own_id, own_secret] = estate.key_files().map(|path| fs::read_to_string(path).unwrap());
    let mut site = files.broker();
    site.environment = Some(vec![
        ("AWS_ACCESS_KEY_ID".into(), own_id),
        ("AWS_SECRET_ACCESS_KEY".into(), own_secret),
    ]);
    let stage = Stage::at(files, site).await;
    // What lies around: somebody's keys in the usual place, and in the environment.
    fs::create_dir(stage.path(".aws")).unwrap();
    let others = "[default]\naws_access_key_id = AKIAOTHERSOTHERSOTHE\naws_secret_access_key = others\n";
    fs::write(stage.path(".aws/credentials"), others).unwrap();

    let python = variable("DAYFLY_TEST_AWS_PYTHON").unwrap();
    let aws = Path::new(&python).with_file_name("aws");
    let client = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite/exec/programs/client.py");
    let script = format!(
        "{python} {client} {bucket}; {aws} s3 cp --quiet s3://{bucket}/customers/42/name -; echo; \
         {aws} --profile crm s3 cp --quiet s3://{bucket}/customers/42/name -; echo; \
         {aws} --profile crm s3 rm s3://{bucket}/customers/42/name; echo $?",
        aws = aws.display()
    );
    let mut command = stage.exec(&["--access", "crm:read@customers/42"], &script);
    command
        .env("HOME", stage.folder.path())
        .env("AWS_ENDPOINT_URL", &estate.url)
        .env("AWS_ACCESS_KEY_ID", "AKIAOTHERSOTHERSOTHE")
        .env("AWS_SECRET_ACCESS_KEY", "others")
        .env("NO_PROXY", "127.0.0.1");
    let output = run(command).await;
    assert!(output.status.success(), "{output:?}");
    let said = said(&output);
    let lines: Vec<&str> = said.lines().collect();
    let told: Value = serde_json::from_str(lines[0]).unwrap();
    assert_eq!(told["method"], "container-role");
    assert_eq!(told["calls"], json!(["Ada", "AccessDenied"]));
    assert_eq!(told["refused"], json!([403, 403, 403]));
    // The SDK asks before each call, since its sessions are short.
    assert!(told["slowest"].as_f64().unwrap() < 0.5, "{told}");
    assert_eq!(lines[1..3], ["Ada", "Ada"]);
    assert_eq!(lines[3], "1", "{said}");
    let notes = notes(&output);
    assert!(notes.contains("proofs: 1 verified_absent"), "{notes}");
    assert!(notes.contains("AccessDenied"), "{notes}");
}
