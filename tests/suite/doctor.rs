//! `dayfly doctor`, on installations of which it is known what is wrong with them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::process::{Installation, dayfly};
use crate::redis_servers;

/// What it found, by what it looked at, and its exit code.
fn examined(files: &Installation) -> (BTreeMap<String, Value>, Option<i32>) {
    let configuration = files.configuration();
    let output = dayfly(&[
        "--json".as_ref(),
        "doctor".as_ref(),
        "--config".as_ref(),
        configuration.as_os_str(),
    ]);
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let finding = |line: &str| {
        let finding: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{text}{errors}"));
        (finding["about"].as_str().unwrap().to_owned(), finding)
    };
    (text.lines().map(finding).collect(), output.status.code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_what_is_only_good_for_trying_things_out() {
    let files = Installation::new();
    let (found, code) = examined(&files);
    assert_eq!(found["listener: [server]"]["verdict"], "fine", "{found:?}");
    assert_eq!(found["ledger"]["verdict"], "fine", "{found:?}");
    assert_eq!(
        found["trust domain: example.org"]["verdict"], "unsafe",
        "{found:?}"
    );
    // Looking makes no keys.
    assert_eq!(found["providers"]["verdict"], "unsafe", "{found:?}");
    assert!(!files.path("data/keys").exists());
    assert_eq!(code, Some(7));

    let broker = files.broker().start().await;
    let (found, _) = examined(&files);
    assert_eq!(found["provider: jwt"]["verdict"], "fine", "{found:?}");
    broker.stop().await;
    for finding in found.values().filter(|finding| finding["verdict"] != "fine") {
        assert!(
            finding["remedy"]
                .as_str()
                .is_some_and(|remedy| !remedy.is_empty()),
            "{finding}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_in_plaintext_and_keys_that_cannot_be_had_are_named() {
    let files = Installation::new();
    files.change("dayfly.toml", |text| {
        let listen = text
            .lines()
            .find(|line| line.starts_with("listen"))
            .unwrap()
            .to_owned();
        text.replace(
            &listen,
            "listen = \"127.0.0.1:8440\"\ndanger_plaintext_listen = true",
        ) + "\n[server.operators]\nlisten = \"0.0.0.0:8442\"\n[telemetry.traces]\nendpoint = \"http://127.0.0.1:1\"\n\n[[identity.oidc]]\nissuer = \"https://127.0.0.1:1\"\njwks_url = \"https://127.0.0.1:1/keys\"\n"
    });
    let (found, code) = examined(&files);
    assert_eq!(found["listener: [server]"]["verdict"], "fine", "{found:?}");
    let operators = &found["listener: [server.operators]"];
    assert_eq!(operators["verdict"], "unsafe", "{found:?}");
    assert_eq!(found["traces: collector"]["verdict"], "broken", "{found:?}");
    assert_eq!(found["journal: disk"]["verdict"], "fine", "{found:?}");
    let authority = found.iter().find(|(about, _)| about.contains("127.0.0.1:1"));
    assert_eq!(authority.unwrap().1["verdict"], "broken", "{found:?}");
    assert_eq!(code, Some(7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_forgets_is_named() {
    let Some(mode) = redis_servers::single() else {
        return;
    };
    let files = Installation::on(mode);
    let (found, code) = examined(&files);
    assert_eq!(found["redis: eviction"]["verdict"], "fine", "{found:?}");
    assert_eq!(found["redis: persistence"]["verdict"], "unsafe", "{found:?}");
    assert_eq!(found["redis: user"]["verdict"], "unsafe", "{found:?}");
    assert!(!found.contains_key("redis: rights of `default`"), "{found:?}");
    assert_eq!(found["redis: way"]["verdict"], "fine", "{found:?}");
    assert_eq!(found["clock"]["verdict"], "fine", "{found:?}");
    assert_eq!(code, Some(7));

    // One that cannot be reached.
    files.change("dayfly.toml", |text| {
        let urls = text
            .lines()
            .find(|line| line.starts_with("urls"))
            .unwrap()
            .to_owned();
        text.replace(&urls, "urls = [\"redis://127.0.0.1:1\"]")
    });
    let (found, _) = examined(&files);
    assert_eq!(found["redis"]["verdict"], "broken", "{found:?}");
}
