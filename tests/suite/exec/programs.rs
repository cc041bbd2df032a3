//! Real programs under `dayfly exec`, which know nothing of Dayfly, before servers that ask for credentials.

mod forge;

#[cfg(feature = "aws")]
mod aws;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command};

use serde_json::Value;

use super::{Stage, notes, run, said, task_in};
use crate::process::{Installation, until};
use forge::Forge;

/// Whether a program is there. Where the environment says that all are, it has to be.
pub(super) fn there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program} >/dev/null")])
        .status();
    let found = found.unwrap().success();
    if !found {
        assert!(
            std::env::var_os("DAYFLY_TEST_PROGRAMS").is_none(),
            "{program} is not installed"
        );
        let line = format!("{program} is not installed: its test is skipped\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

/// A tool with tokens for this place, which `support-bot` may read and write.
pub(super) fn add_tool(files: &Installation, name: &str, origin: &str) {
    let tool = format!(
        "name = \"{name}\"\ndescription = \"A tool\"\nowner = \"Platform\"\nrisk = \"low\"\nsensitivity = \"internal\"\n\
         zone = \"eu\"\nenvironment = \"production\"\naudience = \"{origin}\"\nprovider = \"jwt\"\nmax_ttl = \"15m\"\n\n\
         [actions]\nread = \"read\"\nwrite = \"write\"\n"
    );
    fs::write(files.path(&format!("tools/{name}.toml")), tool).unwrap();
    let grant = format!(
        "permit(principal == Agent::\"support-bot\", action in [Action::\"{name}:read\", Action::\"{name}:write\"], \
         resource in Tool::\"{name}\");\n"
    );
    fs::write(files.path(&format!("policies/30-{name}.cedar")), grant).unwrap();
}

/// A commit that names its author, in whatever environment.
const COMMIT: &str = "git -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_clones_and_pushes_with_a_token_for_its_forge_alone() {
    if !there("git") {
        return;
    }
    for scheme in ["Basic", "Bearer"] {
        let forge = Forge::open(scheme).await;
        let files = Installation::new();
        add_tool(&files, "forge", &forge.url);
        let stage = Stage::on(files).await;
        // A helper of the user's would keep the token.
        fs::write(stage.path(".gitconfig"), "[credential]\n\thelper = store\n").unwrap();
        let script = format!(
            "set -e; git clone -q {url}/team/docs.git docs; cd docs; {COMMIT} one; git push -q origin HEAD:refs/heads/one",
            url = forge.url
        );
        let mut command = stage.exec(&["--access", "forge:read,write@team/docs"], &script);
        command
            .env("HOME", stage.folder.path())
            .env("GIT_TERMINAL_PROMPT", "0");
        let output = run(command).await;
        if scheme == "Bearer" && !forge::git_sends_bearer() {
            // It is told why, and asks nobody for a password.
            assert!(!output.status.success(), "{output:?}");
            continue;
        }
        assert!(output.status.success(), "{output:?}");
        assert_eq!(forge.branches(), ["one"]);
        let claims = forge.claims();
        assert!(
            claims.iter().all(|token| token["aud"] == *forge.url),
            "{claims:?}"
        );
        assert!(!stage.path(".git-credentials").exists());
        let config = fs::read_to_string(stage.path("docs/.git/config")).unwrap();
        assert!(!config.contains("eyJ"), "{config}");

        // A place of somebody else's gets nothing, and git does not hang at a question.
        let other = Forge::open(scheme).await;
        let script = format!("git clone -q {}/team/docs.git other", other.url);
        let mut command = stage.exec(&["--access", "forge:read"], &script);
        command
            .env("HOME", stage.folder.path())
            .env("GIT_TERMINAL_PROMPT", "0");
        let output = run(command).await;
        assert!(!output.status.success(), "{output:?}");
        assert!(other.claims().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_that_is_refused_gets_another_token_the_next_time() {
    if !there("git") {
        return;
    }
    let forge = Forge::open("Basic").await;
    let files = Installation::new();
    add_tool(&files, "forge", &forge.url);
    let stage = Stage::on(files).await;
    // The forge forgets a token for ever; the first one is older than what is minted anew at once.
    let script = format!(
        "git ls-remote -q {url}/team/docs.git > first || exit 1; touch known; while ! [ -e forgotten ]; do sleep 0.1; done; \
         sleep 10; git ls-remote -q {url}/team/docs.git && exit 2; git ls-remote -q {url}/team/docs.git || exit 3",
        url = forge.url
    );
    let mut command = stage.exec(&["--access", "forge:read"], &script);
    command
        .env("HOME", stage.folder.path())
        .env("GIT_TERMINAL_PROMPT", "0");
    let child = command.spawn().unwrap();
    until("the first one", async || {
        stage.path("known").exists().then_some(())
    })
    .await;
    forge.forget();
    fs::write(stage.path("forgotten"), "").unwrap();
    let output = super::wait(child).await;
    assert!(output.status.success(), "{output:?}");
    assert!(notes(&output).contains("leases: 2"), "{}", notes(&output));
}

#[tokio::test]
async fn docker_helpers_answer_for_the_registry_of_the_tool() {
    let files = Installation::new();
    add_tool(&files, "registry", "https://registry.example.org:5000");
    let stage = Stage::on(files).await;
    let script = "cat $DOCKER_CONFIG/config.json; echo; echo registry.example.org:5000 | docker-credential-dayfly get; \
                  echo https://registry.example.org:5000 | docker-credential-dayfly get; docker-credential-dayfly list";
    let output = run(stage.exec(&["--access", "registry:read@team/image"], script)).await;
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<Value> = said(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["credHelpers"]["registry.example.org:5000"], "dayfly");
    for answer in &lines[1..3] {
        assert!(answer["Secret"].as_str().unwrap().starts_with("eyJ"), "{answer}");
        assert!(answer["Username"].is_string() && answer["ServerURL"].is_string());
    }
    assert_eq!(lines[3], serde_json::json!({}));
}

/// A server with TLS that says to whom it gave what, as a cluster of Kubernetes would be asked.
struct Cluster {
    server: Child,
    url: String,
}

impl Cluster {
    async fn open(folder: &Path) -> Self {
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=cluster",
            ])
            .args([
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
            ])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/suite/exec/programs/cluster.py"
        );
        let server = Command::new("python3")
            .arg(script)
            .current_dir(folder)
            .spawn()
            .unwrap();
        let port = folder.join("port");
        let port = until("it does not listen", async || {
            fs::read_to_string(&port).ok().filter(|text| text.ends_with('\n'))
        });
        let url = format!("https://127.0.0.1:{}", port.await.trim());
        Self { server, url }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _ended_already = self.server.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_calls_its_cluster_with_a_token_and_no_other() {
    if !["kubectl", "openssl", "python3"].into_iter().all(there) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::open(folder.path()).await;
    let files = Installation::new();
    add_tool(&files, "k8s", &cluster.url);
    let stage = Stage::on(files).await;
    let config = |server: &str, users: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: shop\nclusters:\n- name: prod\n  cluster:\n    server: {server}\n    \
             certificate-authority: {}/cert.pem\ncontexts:\n- name: shop\n  context: {{cluster: prod, user: k8s, namespace: shop}}\n{users}",
            folder.path().display()
        )
    };
    fs::write(stage.path("kube.yaml"), config(&cluster.url, "")).unwrap();
    let elsewhere = cluster.url.replace("127.0.0.1", "localhost");
    fs::write(stage.path("elsewhere.yaml"), config(&elsewhere, "")).unwrap();
    let users = "users:\n- name: k8s\n  user: {token: somebodys}\n";
    fs::write(stage.path("users.yaml"), config(&cluster.url, users)).unwrap();
    let run_with = async |file: &str| {
        let script = "kubectl --context shop get --raw /whoami";
        let mut command = stage.exec(&["--access", "k8s:read", "--kubeconfig", file], script);
        command.env("HOME", stage.folder.path());
        run(command).await
    };
    let output = run_with("kube.yaml").await;
    assert!(output.status.success(), "{output:?}");
    let answer: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(answer["aud"], *cluster.url);
    assert_eq!(stage.live(&task_in(&notes(&output))).await, 0);

    let output = run_with("elsewhere.yaml").await;
    assert!(!output.status.success(), "{output:?}");
    assert!(notes(&output).contains("no bearer token for"), "{output:?}");
    let output = run_with("users.yaml").await;
    assert!(notes(&output).contains("it has a `token`"), "{output:?}");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn psql_logs_in_and_its_session_is_cut_with_the_task() {
    let Some(estate) = crate::postgres_server::Estate::new() else {
        return;
    };
    if !there("psql") {
        return;
    }
    let estate = estate.await;
    let files = Installation::new();
    crate::login::add_database(&files, &estate);
    // So short that it is renewed under the program, or minted anew.
    files.change("tools/orders.toml", |text| {
        text.replace("max_ttl = \"15m\"", "max_ttl = \"3s\"")
    });
    let stage = Stage::on(files).await;
    let ask = "psql -qAt -c 'select session_user from customers union select session_user'";
    let script = format!(
        "set -e; {ask}; psql -qAt service=orders -c 'select current_database()'; stat -c %a $PGPASSFILE; \
         [ -z \"$PGPASSWORD\" ]; sleep 5; {ask} | tail -1"
    );
    let output = run(stage.exec(&["--access", "orders:read"], &script)).await;
    assert!(output.status.success(), "{output:?}");
    let said = said(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("dayfly_"), "{said}");
    assert_eq!(lines[1], estate.database());
    assert_eq!(lines[2], "600");
    assert!(lines[3].starts_with("dayfly_"), "{said}");
    assert!(notes(&output).contains("verified_absent"), "{}", notes(&output));
    assert_eq!(stage.private_folders(), 0);
}

#[tokio::test]
async fn a_copy_of_a_token_is_set_where_it_was_asked_for() {
    let stage = Stage::new().await;
    let flags = ["--env", "CRM_TOKEN=crm", "--env", "AGAIN=crm.token"];
    let output = run(stage.exec(
        &flags,
        "[ \"$CRM_TOKEN\" = \"$AGAIN\" ] && echo $CRM_TOKEN | cut -c1-3",
    ))
    .await;
    assert_eq!(said(&output), "eyJ\n", "{output:?}");
    assert!(!notes(&output).contains("eyJ"));
}

#[tokio::test]
async fn one_tool_may_be_named_twice_and_each_repository_has_its_own_token() {
    let files = Installation::new();
    add_tool(&files, "forge", "https://forge.example.org");
    let stage = Stage::on(files).await;
    let flags = [
        "--access",
        "forge:read@team/docs",
        "--access",
        "forge:write@team/shop",
        "--env",
        "SHOP=forge-2",
    ];
    let ask = "printf 'protocol=https\\nhost=forge.example.org\\npath=team/%s.git\\n\\n' $it | git-credential-dayfly get | \
               sed -n 's/^password=//p'";
    let script = format!("it=docs; {ask}; it=shop; {ask}; echo $SHOP; it=other; {ask}");
    let output = run(stage.exec(&flags, &script)).await;
    let said = said(&output);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{output:?}");
    assert_ne!(lines[0], lines[1]);
    assert_eq!(lines[1], lines[2]);
    assert!(
        notes(&output).contains("more than one bearer token"),
        "{output:?}"
    );
}
