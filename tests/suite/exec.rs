//! `dayfly exec` as a process, before a broker as a process: what its programs get, what is kept from them, and
//! what outlives what.

mod endings;
mod helpers;
mod programs;

use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Api, Installation, Process, Site, until};

/// An installation whose broker runs, and a folder to try things out in.
pub(super) struct Stage {
    pub(super) files: Installation,
    pub(super) site: Site,
    pub(super) broker: Option<Process>,
    pub(super) folder: TempDir,
    evidence: PathBuf,
}

impl Stage {
    pub(super) async fn new() -> Self {
        Self::on(Installation::new()).await
    }

    pub(super) async fn on(files: Installation) -> Self {
        let site = files.broker();
        Self::at(files, site).await
    }

    pub(super) async fn at(files: Installation, site: Site) -> Self {
        let broker = site.start().await;
        let evidence = files.evidence_file("support-bot").await;
        Self {
            files,
            site,
            broker: Some(broker),
            folder: TempDir::new().unwrap(),
            evidence,
        }
    }

    /// A command of the binary, as the workload of `support-bot`.
    pub(super) fn dayfly(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly"));
        let run = self.path("run");
        fs::create_dir_all(&run).unwrap();
        command
            .env("DAYFLY_BROKER", format!("http://{}", self.site.address))
            .env("DAYFLY_EVIDENCE_FILE", &self.evidence)
            .env("XDG_RUNTIME_DIR", run)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `dayfly exec` of a shell script.
    pub(super) fn exec(&self, flags: &[&str], script: &str) -> Command {
        self.program(flags, &["sh", "-c", script])
    }

    /// `dayfly exec` of a program.
    pub(super) fn program(&self, flags: &[&str], program: &[&str]) -> Command {
        let mut command = self.dayfly();
        command.args(["exec", "--purpose", "answer ticket 4711"]);
        if !flags.contains(&"--access") {
            command.args(["--access", "crm:read@customers/42"]);
        }
        command.args(flags).arg("--").args(program);
        command
    }

    /// A file that programs write or read.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits for a file that a program writes, and reads it.
    pub(super) async fn written(&self, name: &str) -> String {
        let path = self.path(name);
        let read = async || fs::read_to_string(&path).ok().filter(|text| text.ends_with('\n'));
        until(name, read).await.trim().to_owned()
    }

    pub(super) async fn api(&self) -> Api {
        self.files.api("support-bot", &self.site).await
    }

    /// A task as the broker has it.
    pub(super) async fn task(&self, id: &str) -> Value {
        let (status, task) = self.api().await.get(&format!("/v1/tasks/{id}")).await.unwrap();
        assert_eq!(status, 200, "{task}");
        task
    }

    /// How many leases of a task can still be used.
    pub(super) async fn live(&self, id: &str) -> usize {
        let path = format!("/v1/leases?task={id}");
        let (status, leases) = self.api().await.get(&path).await.unwrap();
        assert_eq!(status, 200, "{leases}");
        let leases = leases["leases"].as_array().unwrap();
        assert!(!leases.is_empty());
        leases.iter().filter(|lease| lease["state"] != "ended").count()
    }

    /// What lies in the place for private folders.
    pub(super) fn private_folders(&self) -> usize {
        fs::read_dir(self.path("run")).unwrap().count()
    }
}

/// The task that it says it runs for.
pub(super) fn task_in(notes: &str) -> String {
    let from = notes.find("tsk_").unwrap_or_else(|| panic!("no task: {notes}"));
    notes[from..]
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap()
        .to_owned()
}

/// Its notes.
pub(super) fn notes(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Its output.
pub(super) fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs it to its end, without holding up what else runs in this process.
pub(super) async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// Waits for its end.
pub(super) async fn wait(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())
        .await
        .unwrap()
}

pub(super) fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args([name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "{name} to {pid}");
}

pub(super) fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with(['Z', 'X'])
    })
}

#[tokio::test]
async fn a_program_has_its_own_input_output_and_code_and_its_task_ends_as_it_does() {
    let stage = Stage::new().await;
    for (script, code, outcome) in [
        ("cat; echo to-standard-error >&2", 0, "completed"),
        ("cat; exit 3", 3, "failed"),
        ("cat; kill -TERM $$", 143, "cancelled"),
        ("cat; kill -KILL $$", 137, "cancelled"),
    ] {
        let mut child = stage.exec(&[], script).stdin(Stdio::piped()).spawn().unwrap();
        // Not text, and more than a pipe holds.
        let input: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut stdin = child.stdin.take().unwrap();
        let sent = input.clone();
        let sending = tokio::task::spawn_blocking(move || stdin.write_all(&sent).unwrap());
        let output = wait(child).await;
        sending.await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{script}: {output:?}");
        assert_eq!(output.status.signal(), None);
        assert!(output.stdout == input, "{script}");
        let notes = notes(&output);
        assert_eq!(notes.contains("to-standard-error"), code == 0, "{notes}");
        assert!(notes.contains("proofs: 1 denied_at"), "{notes}");
        let id = task_in(&notes);
        assert_eq!(stage.task(&id).await["outcome"], outcome, "{script}");
        assert_eq!(stage.live(&id).await, 0);
        assert_eq!(stage.private_folders(), 0, "nothing is left");
    }
}

#[tokio::test]
async fn what_cannot_be_given_or_started_stops_before_the_program() {
    let mut stage = Stage::new().await;
    let ran = stage.path("ran");
    let script = format!("touch {}", ran.display());
    for (flags, code, told) in [
        (&["--access", "payments:refund"][..], 3, "no policy permits this"),
        (
            &["--access", "crm:read", "--access", "crm:delete"],
            3,
            "does not permit",
        ),
        (
            &["--access", "crm:export@customers/42"],
            4,
            "needs the approval of `data-steward`",
        ),
        (&["--access", "crm"], 2, "write `tool:action`"),
        (&["--env", "KEY=mailer.key"], 1, "no tool of `--access`"),
        (&["--env", "KEY=crm.username"], 1, "no such part"),
        (&["--kubeconfig", "nowhere"], 1, "nowhere cannot be read"),
    ] {
        let output = run(stage.exec(flags, &script)).await;
        let notes = notes(&output);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {notes}");
        assert!(notes.contains(told), "{flags:?}: {notes}");
        assert!(!notes.contains("eyJ"), "{notes}");
        if notes.contains("tsk_") {
            let task = stage.task(&task_in(&notes)).await;
            assert_eq!(
                (&task["state"], &task["outcome"]),
                (&"ended".into(), &"cancelled".into())
            );
        }
        assert!(!ran.exists(), "{flags:?}");
    }
    fs::write(stage.path("text"), "no program").unwrap();
    for (program, code) in [
        ("nonesuch", 127),
        ("./nonesuch", 127),
        ("./text", 126),
        ("/", 126),
    ] {
        let output = run(stage.program(&[], &[program])).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(!notes(&output).contains("tsk_"), "no task is opened for it");
    }
    drop(stage.broker.take());
    let output = run(stage.exec(&[], &script)).await;
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(!ran.exists());
    assert_eq!(stage.private_folders(), 0);
}

#[tokio::test]
async fn ambient_credentials_and_evidence_stay_behind() {
    let stage = Stage::new().await;
    let show = |keep: &'static str| {
        let mut command = stage.exec(&["--keep-env", keep], "env");
        command
            .env("GITHUB_TOKEN", "ghp_ambient")
            .env("AWS_SECRET_ACCESS_KEY", "ambient")
            .env("SSH_AUTH_SOCK", "/tmp/ambient")
            .env("ORDERS_DATABASE", "postgres://me:ambient@db/orders")
            .env("NPM_TOKEN", "kept")
            .env("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
            .env("EDITOR", "vi");
        command
    };
    let output = run(show("NPM_TOKEN,NOTHING")).await;
    let environment = said(&output);
    assert!(!environment.contains("ambient"), "{environment}");
    assert!(!environment.contains("DAYFLY_EVIDENCE"), "{environment}");
    for kept in [
        "NPM_TOKEN=kept",
        "EDITOR=vi",
        "AWS_ENDPOINT_URL=http://127.0.0.1:4566",
        "DAYFLY_EXEC_SOCKET=/",
    ] {
        assert!(environment.contains(kept), "{environment}");
    }
    let notes = notes(&output);
    let told = notes
        .lines()
        .find_map(|line| line.split_once("withheld from the program: "));
    let names: Vec<&str> = told.unwrap().1.split(", ").collect();
    for name in [
        "AWS_SECRET_ACCESS_KEY",
        "DAYFLY_EVIDENCE_FILE",
        "GITHUB_TOKEN",
        "ORDERS_DATABASE",
        "SSH_AUTH_SOCK",
    ] {
        assert!(names.contains(&name), "{notes}");
    }
    assert!(!names.contains(&"NPM_TOKEN"), "{notes}");
    assert!(!notes.contains("ambient"), "{notes}");
    let output = run(show("GITHUB_TOKEN")).await;
    assert!(said(&output).contains("GITHUB_TOKEN=ghp_ambient"));
    assert!(!said(&output).contains("NPM_TOKEN"));
}

/// What other processes of the same user can look at.
fn visible(pid: &str) -> String {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    String::from_utf8_lossy(&[read("cmdline"), read("environ")].concat()).into_owned()
}

#[tokio::test]
async fn no_credential_is_in_arguments_environment_output_or_files() {
    let stage = Stage::new().await;
    let script = "echo $$ $PPID > pids; read line; printf 'protocol=https\\nhost=crm.example.org\\n\\n' \
                  | git-credential-dayfly get | sed -n 's/^password=//p' > token; cp -r \"$(dirname $DAYFLY_EXEC_SOCKET)\" \
                  copy 2>/dev/null; echo done > done; read line";
    let mut child = stage.exec(&[], script).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let pids = stage.written("pids").await;
    let (program, exec) = pids.split_once(' ').unwrap();
    assert_eq!(exec, child.id().to_string());
    stdin.write_all(b"go\n").unwrap();
    stage.written("done").await;
    let token = fs::read_to_string(stage.path("token")).unwrap();
    let token = token.trim();
    assert!(token.starts_with("eyJ"), "{token}");
    let evidence = fs::read_to_string(&stage.evidence).unwrap();
    assert!(
        visible(program).contains("DAYFLY_EXEC_SOCKET"),
        "something is looked at"
    );
    for pid in [program, exec] {
        assert!(!visible(pid).contains(token));
        assert!(!visible(pid).contains(evidence.trim()));
    }
    stdin.write_all(b"go\n").unwrap();
    let output = wait(child).await;
    assert!(output.status.success(), "{output:?}");
    assert!(!notes(&output).contains("eyJ"), "{output:?}");
    let copy = Command::new("grep")
        .args(["-rl", "eyJ", "copy"])
        .current_dir(stage.folder.path())
        .output();
    assert_eq!(
        said(&copy.unwrap()),
        "",
        "no file of the private folder has a token"
    );
}

#[tokio::test]
async fn a_credential_is_renewed_while_the_program_runs_and_is_never_over() {
    let files = Installation::new();
    files.change("tools/crm.toml", |text| {
        text.replace("max_ttl = \"15m\"", "max_ttl = \"9s\"")
            .replace("default_ttl = \"5m\"", "default_ttl = \"9s\"")
    });
    let stage = Stage::on(files).await;
    // The time is that before the question: what comes after the answer may take as long as it likes.
    let script = "n=0; while [ $n -lt 60 ]; do date +%s | tr '\\n' ' '; \
                  printf 'protocol=https\\nhost=crm.example.org\\n\\n' | git-credential-dayfly get | \
                  grep -E '^pass' | tr '\\n' ' '; echo; n=$((n + 1)); sleep 0.25; done";
    let output = run(stage.exec(&[], script)).await;
    assert!(output.status.success(), "{output:?}");
    let text = said(&output);
    let mut tokens = std::collections::BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [now, token, expiry] = words[..] else {
            panic!("{line}")
        };
        let expiry: u64 = expiry
            .strip_prefix("password_expiry_utc=")
            .unwrap()
            .parse()
            .unwrap();
        assert!(expiry >= now.parse().unwrap(), "{line}");
        tokens.insert(token.to_owned());
    }
    assert_eq!(text.lines().count(), 60);
    assert!(tokens.len() >= 3, "{}", tokens.len());
    assert!(
        notes(&output).contains("leases: 1"),
        "renewed, not minted anew: {}",
        notes(&output)
    );
}

#[tokio::test]
async fn what_a_killed_one_left_is_cleared_by_the_next() {
    let stage = Stage::new().await;
    let child = stage.exec(&[], "echo $$ > pid; exec sleep 60").spawn().unwrap();
    stage.written("pid").await;
    signal("-KILL", child.id());
    wait(child).await;
    assert_eq!(stage.private_folders(), 1);
    assert!(run(stage.exec(&[], "true")).await.status.success());
    assert_eq!(stage.private_folders(), 0);
}

/// The shell's search path without what `exec` puts in front of it would not have this.
fn links(path: &Path) -> usize {
    fs::read_dir(path)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().is_symlink())
        .count()
}

#[tokio::test]
async fn install_makes_links_says_what_to_write_and_writes_nothing() {
    let stage = Stage::new().await;
    let mut command = stage.dayfly();
    command.args([
        "credential",
        "install",
        "git",
        "docker",
        "kubectl",
        "aws",
        "--dir",
        "bin",
    ]);
    let output = run(command).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(links(&stage.path("bin")), 3);
    for told in [
        "useHttpPath",
        "credHelpers",
        "provideClusterInfo",
        "credential_process",
    ] {
        assert!(said(&output).contains(told), "{told}");
    }
}
