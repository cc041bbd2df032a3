//! The helpers by their protocols, inside of `exec` and on their own.

use std::fs;
use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use super::{Stage, notes, run, said, wait};

const GIT: &str = "protocol=https\nhost=crm.example.org\npath=team/repo.git\n\n";

/// Asks a helper on its own.
async fn ask(stage: &Stage, arguments: &[&str], question: &str) -> Output {
    let mut command = stage.dayfly();
    command.arg("credential").args(arguments).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(question.as_bytes())
        .unwrap();
    wait(child).await
}

async fn leases(stage: &Stage) -> Vec<Value> {
    let (status, answer) = stage.api().await.get("/v1/leases").await.unwrap();
    assert_eq!(status, 200, "{answer}");
    answer["leases"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_helper_on_its_own_opens_a_task_or_takes_the_one_that_is_named() {
    let stage = Stage::new().await;
    let own = ["--purpose", "update the docs", "--access", "crm:read"];
    let output = ask(&stage, &[&["git"], &own[..], &["get"]].concat(), GIT).await;
    assert!(output.status.success(), "{output:?}");
    assert!(
        said(&output).starts_with("username=x-access-token\npassword=eyJ"),
        "{}",
        said(&output)
    );

    let body = json!({"purpose": "named", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (_, task) = stage.api().await.post("/v1/tasks", &body).await.unwrap();
    let id = task["id"].as_str().unwrap();
    let named = ["docker", "--task", id, "--access", "crm:read", "get"];
    let output = ask(&stage, &named, "crm.example.org\n").await;
    let answer: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(answer["ServerURL"], "crm.example.org");
    assert!(answer["Secret"].as_str().unwrap().starts_with("eyJ"));
    let of_task = leases(&stage)
        .await
        .iter()
        .filter(|lease| lease["task"] == id)
        .count();
    assert_eq!(of_task, 1);

    let unnamed = ask(&stage, &["git", "--access", "crm:read", "get"], GIT).await;
    assert_eq!(unnamed.status.code(), Some(1));
    assert!(notes(&unnamed).contains("--purpose"), "{unnamed:?}");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_words_of_each_protocol() {
    let stage = Stage::new().await;
    let own = ["--purpose", "export", "--access", "crm:export@customers/42"];
    let git = ask(&stage, &[&["git"], &own[..], &["get"]].concat(), GIT).await;
    assert_eq!((said(&git).as_str(), git.status.code()), ("quit=1\n", Some(4)));
    assert!(notes(&git).contains("data-steward"), "{git:?}");
    let docker = ask(
        &stage,
        &[&["docker"], &own[..], &["get"]].concat(),
        "crm.example.org",
    )
    .await;
    assert_eq!(docker.status.code(), Some(1));
    assert!(
        said(&docker).contains("data-steward"),
        "docker reads it from there: {docker:?}"
    );
    let mut kubectl = stage.dayfly();
    let info = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "spec": {"interactive": false, "cluster": {"server": "https://crm.example.org"}}});
    kubectl
        .args(["credential", "kubectl"])
        .args(own)
        .env("KUBERNETES_EXEC_INFO", info.to_string());
    let kubectl = run(kubectl).await;
    assert_eq!((said(&kubectl).as_str(), kubectl.status.code()), ("", Some(4)));
    let aws = ask(&stage, &[&["aws"], &own[..]].concat(), "").await;
    assert_eq!((said(&aws).as_str(), aws.status.code()), ("", Some(4)));
}

#[tokio::test]
async fn a_token_for_another_place_is_not_given_and_given_back() {
    let stage = Stage::new().await;
    let own = ["--purpose", "update the docs", "--access", "crm:read"];
    let elsewhere = GIT.replace("crm.example.org", "evil.example.org");
    let git = ask(&stage, &[&["git"], &own[..], &["get"]].concat(), &elsewhere).await;
    assert_eq!((said(&git).as_str(), git.status.code()), ("", Some(0)), "{git:?}");
    let docker = ask(
        &stage,
        &[&["docker"], &own[..], &["get"]].concat(),
        "evil.example.org",
    )
    .await;
    assert_eq!(said(&docker), "credentials not found in native keychain\n");
    assert_eq!(docker.status.code(), Some(1));
    let aws = ask(&stage, &[&["aws"], &own[..]].concat(), "").await;
    assert!(notes(&aws).contains("gives a bearer token"), "{aws:?}");
    let all = leases(&stage).await;
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|lease| lease["state"] != "active"), "{all:?}");

    let inside = "printf 'protocol=https\\nhost=evil.example.org\\n\\n' | git-credential-dayfly get; \
                  echo evil.example.org | docker-credential-dayfly get";
    let output = run(stage.exec(&[], inside)).await;
    assert_eq!(
        said(&output),
        "credentials not found in native keychain\n",
        "{output:?}"
    );
}

#[tokio::test]
async fn what_is_not_asked_for_does_nothing() {
    let stage = Stage::new().await;
    for (arguments, question, answer, code) in [
        (&["git", "store"][..], GIT, "", 0),
        (&["git", "erase"], GIT, "", 0),
        (&["git", "some-new-verb"], GIT, "", 0),
        (&["git", "get"], "protocol=ssh\nhost=crm.example.org\n\n", "", 0),
        (&["docker", "list"], "", "{}\n", 0),
        (&["docker", "store"], "{}", "", 0),
        (&["docker", "erase"], "crm.example.org", "", 0),
        (&["docker", "some-new-verb"], "", "", 2),
    ] {
        let output = ask(&stage, arguments, question).await;
        assert_eq!(
            (said(&output).as_str(), output.status.code()),
            (answer, Some(code)),
            "{arguments:?}: {output:?}"
        );
    }
    assert!(leases(&stage).await.is_empty());
}

#[tokio::test]
async fn a_helper_whose_exec_is_gone_says_so() {
    let stage = Stage::new().await;
    let output = run(stage.exec(&[], "echo $DAYFLY_EXEC_SOCKET > socket")).await;
    assert!(output.status.success());
    let socket = fs::read_to_string(stage.path("socket")).unwrap();
    let mut command = stage.dayfly();
    command
        .args(["credential", "aws"])
        .env("DAYFLY_EXEC_SOCKET", socket.trim());
    let output = run(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        notes(&output).contains("`dayfly exec` that this ran in is gone"),
        "{output:?}"
    );
}
