//! What outlives what: the program, what it started, `exec` and the task.

use std::fs;
use std::process::Stdio;

use serde_json::json;
use tokio::time::Instant;

use super::{Stage, notes, run, runs, signal, task_in, wait};
use crate::process::{PATIENCE, until};

async fn gone(pid: &str) {
    until("it runs on", async || (!runs(pid)).then_some(())).await;
}

#[tokio::test]
async fn what_the_program_left_behind_is_ended_however_it_hid_unless_it_may_stay() {
    let stage = Stage::new().await;
    // One in a session of its own with its parent gone, one that ignores being asked, one below that.
    let script = "setsid sh -c 'sleep 61 & echo $! > hidden; exit' & \
                  sh -c 'trap \"\" TERM; sleep 62 & echo $! > below; echo $$ > stubborn; while :; do sleep 1; done' & \
                  while ! [ -s stubborn ] || ! [ -s hidden ]; do sleep 0.05; done; exit 4";
    let began = Instant::now();
    let output = run(stage.exec(&["--grace", "1s"], script)).await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(began.elapsed() < PATIENCE);
    assert!(
        notes(&output).contains("ended what the program left running"),
        "{}",
        notes(&output)
    );
    for name in ["hidden", "stubborn", "below"] {
        let pid = fs::read_to_string(stage.path(name)).unwrap();
        assert!(!runs(pid.trim()), "{name}");
    }
    assert_eq!(stage.live(&task_in(&notes(&output))).await, 0);

    let script = "sleep 63 >/dev/null 2>&1 & echo $! > stays";
    let output = run(stage.exec(&["--leave-children"], script)).await;
    assert!(output.status.success(), "{output:?}");
    let pid = fs::read_to_string(stage.path("stays")).unwrap();
    assert!(runs(pid.trim()));
    assert_eq!(stage.live(&task_in(&notes(&output))).await, 0);
    signal("-KILL", pid.trim().parse().unwrap());
}

#[tokio::test]
async fn who_is_asked_to_end_while_it_clears_away_hurries_and_still_ends_the_task() {
    let stage = Stage::new().await;
    // What is left behind does not end when it is asked to.
    let script = "sh -c 'trap \"\" TERM; echo $$ > left; while :; do sleep 1; done' >/dev/null 2>&1 & \
                  while ! [ -s left ]; do sleep 0.05; done; echo $$ > pid; exit 4";
    for revoked in [false, true] {
        let log = fs::File::create(stage.path("notes")).unwrap();
        let mut command = stage.exec(&["--grace", "10m", "--heartbeat", "9s"], script);
        let mut child = command.stderr(Stdio::from(log)).spawn().unwrap();
        gone(&stage.written("pid").await).await;
        let left = stage.written("left").await;
        let id = task_in(&stage.written("notes").await);
        if revoked {
            let body = json!({"reason": "it does what nobody asked for"});
            let path = format!("/v1/tasks/{id}/revoke");
            let (status, answer) = stage.api().await.post(&path, &body).await.unwrap();
            assert_eq!(status, 200, "{answer}");
            let notes = stage.path("notes");
            until("it is not noticed", async || {
                let notes = fs::read_to_string(&notes).unwrap();
                notes.contains("has ended: revoked").then_some(())
            })
            .await;
        }
        // Once more, since what comes before the end of the program was noticed is the program's.
        let status = until("it takes its time", async || {
            let ended = child.try_wait().unwrap();
            if ended.is_none() {
                signal("-TERM", child.id());
            }
            ended
        })
        .await;
        assert!(!runs(&left));
        let (code, outcome) = if revoked { (8, "revoked") } else { (4, "failed") };
        assert_eq!(status.code(), Some(code));
        assert_eq!(stage.task(&id).await["outcome"], outcome);
        for name in ["left", "pid"] {
            fs::remove_file(stage.path(name)).unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_exec_takes_its_program_along_and_its_task_ends_by_silence() {
    let stage = Stage::new().await;
    let script = "trap 'echo asked > asked; exit' TERM; echo $$ > pid; while :; do sleep 0.05; done";
    let mut child = stage.exec(&["--heartbeat", "6s"], script);
    let log = fs::File::create(stage.path("notes")).unwrap();
    let child = child.stderr(Stdio::from(log)).spawn().unwrap();
    let pid = stage.written("pid").await;
    let id = task_in(&stage.written("notes").await);
    assert_eq!(stage.live(&id).await, 1);
    signal("-KILL", child.id());
    assert_eq!(stage.written("asked").await, "asked");
    gone(&pid).await;
    wait(child).await;
    until("a lease is live", async || {
        (stage.live(&id).await == 0).then_some(())
    })
    .await;
    assert_eq!(stage.task(&id).await["outcome"], "lost");
}

#[tokio::test]
async fn a_task_that_is_ended_elsewhere_ends_its_program_whether_it_wants_or_not() {
    let stage = Stage::new().await;
    for (trap, asked) in [
        ("trap 'echo asked > asked; exit' TERM", true),
        ("trap '' TERM", false),
    ] {
        let script = format!("{trap}; echo $$ > pid; while :; do sleep 0.05; done");
        let mut command = stage.exec(&["--heartbeat", "9s", "--grace", "1s"], &script);
        let log = fs::File::create(stage.path("notes")).unwrap();
        let child = command.stderr(Stdio::from(log)).spawn().unwrap();
        let pid = stage.written("pid").await;
        let id = task_in(&stage.written("notes").await);
        let body = json!({"reason": "it does what nobody asked for"});
        let path = format!("/v1/tasks/{id}/revoke");
        let (status, answer) = stage.api().await.post(&path, &body).await.unwrap();
        assert_eq!(status, 200, "{answer}");
        let output = wait(child).await;
        assert_eq!(output.status.code(), Some(8));
        assert!(!runs(&pid));
        let notes = fs::read_to_string(stage.path("notes")).unwrap();
        assert!(
            notes.contains("has ended, and the program with it: revoked"),
            "{notes}"
        );
        assert_eq!(stage.path("asked").exists(), asked);
        assert_eq!(notes.contains("is killed"), !asked, "{notes}");
        for name in ["asked", "pid"] {
            let _not_there = fs::remove_file(stage.path(name));
        }
    }
}

#[tokio::test]
async fn a_program_goes_on_while_the_broker_is_down() {
    let mut stage = Stage::new().await;
    let script = "echo $$ > pid; while ! [ -e go ]; do sleep 0.05; done; echo survived";
    let mut command = stage.exec(&["--heartbeat", "20s"], script);
    let log = fs::File::create(stage.path("notes")).unwrap();
    let child = command.stderr(Stdio::from(log)).spawn().unwrap();
    stage.written("pid").await;
    stage.broker.take().unwrap().kill();
    let told = |what: &'static str| {
        let path = stage.path("notes");
        until(what, async move || {
            fs::read_to_string(&path).unwrap().contains(what).then_some(())
        })
    };
    told("no sign of life gets through").await;
    stage.broker = Some(stage.site.start().await);
    let path = stage.path("notes");
    until("it is not noticed", async || {
        let notes = fs::read_to_string(&path).unwrap();
        notes.contains("answers again").then_some(())
    })
    .await;
    fs::write(stage.path("go"), "").unwrap();
    let output = wait(child).await;
    assert_eq!(super::said(&output), "survived\n");
    assert!(output.status.success());
    let id = task_in(&fs::read_to_string(&path).unwrap());
    assert_eq!(stage.task(&id).await["outcome"], "completed");
    assert_eq!(stage.live(&id).await, 0);
}

#[tokio::test]
async fn signals_reach_the_program_and_its_answer_is_its_own() {
    let stage = Stage::new().await;
    for name in ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH"] {
        let script =
            format!("trap 'echo got {name}; exit 9' {name}; echo $$ > pid; while :; do sleep 0.05; done");
        let child = stage.exec(&[], &script).spawn().unwrap();
        stage.written("pid").await;
        signal(&format!("-{name}"), child.id());
        let output = wait(child).await;
        assert_eq!(super::said(&output), format!("got {name}\n"), "{output:?}");
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        fs::remove_file(stage.path("pid")).unwrap();
    }
}

#[tokio::test]
async fn a_terminal_interrupts_the_program_once() {
    let stage = Stage::new().await;
    // The first interrupt is counted, so that a second would be seen within a second of it.
    let script = "n=0; i=0; trap 'n=$((n + 1)); echo interrupted $n' INT; echo $$ > pid; \
                  while [ $n -eq 0 ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i + 1)); done; \
                  i=0; while [ $i -lt 20 ]; do sleep 0.05; i=$((i + 1)); done; exit 5";
    let command = stage.exec(&[], script);
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''")))
        .collect();
    let mut terminal = stage.dayfly();
    let variables = terminal
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
    let mut script = std::process::Command::new("script");
    script
        // No shell in between, which the interrupt would end as well.
        .args(["-qefc", &format!("exec {}", line.join(" ")), "/dev/null"])
        .envs(variables.collect::<Vec<_>>())
        .current_dir(stage.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    terminal = script;
    let mut child = terminal.spawn().unwrap();
    stage.written("pid").await;
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\x03").unwrap();
    let output = tokio::task::spawn_blocking(move || {
        let stdin = child.stdin.take();
        let output = child.wait_with_output().unwrap();
        drop(stdin);
        output
    });
    let output = output.await.unwrap();
    let said = super::said(&output);
    assert!(
        said.contains("interrupted 1") && !said.contains("interrupted 2"),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(5), "{said}");
}

#[tokio::test]
async fn a_suspended_task_has_no_credentials_until_it_resumes() {
    let stage = Stage::new().await;
    let ask = "printf 'protocol=https\\nhost=crm.example.org\\n\\n' | git-credential-dayfly get";
    let script = format!(
        "echo $$ > pid; while ! [ -e ask ]; do sleep 0.05; done; {ask} > without 2>/dev/null; echo >> without; \
         while ! [ -e again ]; do sleep 0.05; done; {ask} | grep -c password= "
    );
    let mut command = stage.exec(&["--heartbeat", "9s"], &script);
    let log = fs::File::create(stage.path("notes")).unwrap();
    let child = command.stderr(Stdio::from(log)).spawn().unwrap();
    stage.written("pid").await;
    let id = task_in(&stage.written("notes").await);
    let post = async |deed: &str| {
        let path = format!("/v1/tasks/{id}/{deed}");
        let (status, answer) = stage.api().await.post(&path, &json!({})).await.unwrap();
        assert_eq!(status, 200, "{answer}");
    };
    post("suspend").await;
    let path = stage.path("notes");
    until("it is not noticed", async || {
        fs::read_to_string(&path)
            .unwrap()
            .contains("is suspended")
            .then_some(())
    })
    .await;
    fs::write(stage.path("ask"), "").unwrap();
    assert_eq!(stage.written("without").await, "quit=1");
    post("resume").await;
    fs::write(stage.path("again"), "").unwrap();
    let output = wait(child).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(super::said(&output), "1\n");
}

#[tokio::test]
async fn a_credential_that_was_ended_elsewhere_is_not_given_out_any_more() {
    let stage = Stage::new().await;
    let ask =
        "printf 'protocol=https\\nhost=crm.example.org\\n\\n' | git-credential-dayfly get | grep password=";
    let script = format!(
        "{ask} > before; while ! [ -e go ]; do sleep 0.05; done; {ask} > after; ! cmp -s before after"
    );
    let mut command = stage.exec(&["--heartbeat", "10s"], &script);
    let log = fs::File::create(stage.path("notes")).unwrap();
    let child = command.stderr(Stdio::from(log)).spawn().unwrap();
    stage.written("before").await;
    let api = stage.api().await;
    let (_, leases) = api.get("/v1/leases").await.unwrap();
    let path = format!(
        "/v1/leases/{}/revoke",
        leases["leases"][0]["id"].as_str().unwrap()
    );
    let (status, answer) = api
        .post(&path, &json!({"reason": "it was seen elsewhere"}))
        .await
        .unwrap();
    assert_eq!(status, 200, "{answer}");
    let path = stage.path("notes");
    until("it is not noticed", async || {
        fs::read_to_string(&path)
            .unwrap()
            .contains("was ended elsewhere")
            .then_some(())
    })
    .await;
    fs::write(stage.path("go"), "").unwrap();
    let output = wait(child).await;
    assert!(output.status.success(), "{}", fs::read_to_string(&path).unwrap());
    assert!(fs::read_to_string(&path).unwrap().contains("leases: 2"));
}

#[tokio::test]
async fn who_asks_to_end_while_the_broker_keeps_silent_is_heard() {
    let stage = Stage::new().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = stage.exec(
        &["--broker", &format!("http://{}", silent.local_addr().unwrap())],
        "touch ran",
    );
    let child = command.spawn().unwrap();
    // It has begun to ask, so it listens for signals.
    let accepted = tokio::task::spawn_blocking(move || silent.accept().unwrap())
        .await
        .unwrap();
    signal("-TERM", child.id());
    let output = wait(child).await;
    drop(accepted);
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(!stage.path("ran").exists());
}
