//! The example of the guide, as the command line explains it: the policy that the guide shows is the one
//! that AWS would get, and nothing more than the access needs.

use std::fs;
use std::time::Duration;

use dayfly::clock::{Clock as _, SystemClock};
use dayfly::model::time::Timestamp;
use serde_json::{Value, json};

use super::iam::{Request, says};
use super::moto::policies_of_the_guide;
use crate::process::{Installation, dayfly};

/// The blocks of the guide in this language.
fn blocks(language: &str) -> Vec<&'static str> {
    let guide = include_str!("../../../docs/guides/aws.md");
    let opening = format!("```{language}\n");
    let blocks = guide.split(&opening).skip(1);
    blocks.map(|block| block.split("```").next().unwrap()).collect()
}

/// An installation with the provider and the tool of the guide.
fn installation() -> Installation {
    let [provider, tool] = blocks("toml")[..] else {
        panic!("the guide has a provider and a tool");
    };
    let files = Installation::new();
    files.change("dayfly.toml", |text| format!("{text}\n{provider}"));
    fs::write(files.path("tools/data.toml"), tool).unwrap();
    files
}

/// What the command of the guide prints.
fn explained(access: &str) -> Result<Value, String> {
    let files = installation();
    let configuration = files.configuration();
    let words = ["tool", "explain", "data", "--access", access, "--config"];
    let mut words: Vec<&std::ffi::OsStr> = words.iter().map(std::convert::AsRef::as_ref).collect();
    words.push(configuration.as_os_str());
    let output = dayfly(&words);
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn the_example_of_the_guide_is_explained_as_the_guide_says() {
    let command = blocks("sh").concat();
    let access = command
        .split_whitespace()
        .skip_while(|word| *word != "--access")
        .nth(1);
    assert!(command.contains("dayfly tool explain data "), "{command}");
    let before = SystemClock::new().now();
    let mut policy = explained(access.unwrap()).unwrap();
    let instant = "/Statement/2/Condition/DateGreaterThanEquals/aws:CurrentTime";
    let pin = policy.pointer(instant).unwrap().as_str().unwrap().to_owned();
    let pin: Timestamp = pin.parse().unwrap();
    let life = pin.since(before);
    assert!(
        (Duration::from_secs(299)..Duration::from_secs(330)).contains(&life),
        "{life:?}"
    );
    let shown = policies_of_the_guide().remove(3);
    *policy.pointer_mut(instant).unwrap() = shown.pointer(instant).unwrap().clone();
    assert_eq!(policy, shown);
}

/// Without any one part of it, something that was asked for would be refused.
#[test]
fn nothing_in_it_can_be_left_out() {
    let policy = policies_of_the_guide().remove(3);
    let now = Timestamp::from_secs(0);
    let asked = [
        Request::new("s3:GetObject", "arn:aws:s3:::acme-data/customers/42", now),
        Request::new("s3:GetObject", "arn:aws:s3:::acme-data/customers/42/name", now),
        Request::new("s3:ListBucket", "arn:aws:s3:::acme-data", now).with("s3:prefix", "customers/42/"),
    ];
    let allowed = |policy: &Value| {
        let given = asked.iter().filter(|request| says(policy, "Allow", request));
        given.count()
    };
    assert_eq!(allowed(&policy), asked.len());
    let statements = policy["Statement"].as_array().unwrap();
    let mut parts = 0;
    for (index, statement) in statements.iter().enumerate().take(statements.len() - 1) {
        assert_eq!(statement["Effect"], "Allow");
        for element in ["Action", "Resource"] {
            let Some(values) = statement[element].as_array() else {
                continue;
            };
            for left_out in 0..values.len() {
                let mut less = policy.clone();
                less["Statement"][index][element]
                    .as_array_mut()
                    .unwrap()
                    .remove(left_out);
                assert!(allowed(&less) < asked.len(), "{less}");
                parts += 1;
            }
        }
        let mut less = policy.clone();
        less["Statement"][index] = json!({"Effect": "Allow", "Action": "none:Of", "Resource": "*"});
        assert!(allowed(&less) < asked.len(), "{less}");
        parts += 1;
    }
    assert_eq!(parts, 4);
}

#[test]
fn what_it_cannot_be_for_is_said() {
    for (access, expected) in [
        ("data:write@customers/42", "the tool `data` has no action `write`"),
        (
            "data:list",
            "is not given on the tool as a whole: name the resources",
        ),
        ("crm:read", "the access is for `crm`, not for `data`"),
    ] {
        let told = explained(access).unwrap_err();
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
}
