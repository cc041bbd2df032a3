//! A Redis with TLS and an ACL user, as the guide has it: with these rights a broker does all that it does, with
//! less it does not start, and it says what is wrong.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::process::{Installation, dayfly, until};
use crate::redis_servers::single;
use crate::tls::Authority;

/// It has the rights of Dayfly's user.
const GUIDE: &str = include_str!("../../docs/guides/install-on-kubernetes.md");
const PASSWORD: &str = "a p@ssw/rd:";

/// A server in which nobody but the user of the guide gets in, and nobody without TLS.
struct Server {
    port: u16,
    authority: Authority,
    folder: TempDir,
    process: Child,
}

impl Server {
    /// `None` where no servers are wanted. The user has its rights but for these.
    fn start(without: &[&str]) -> Option<Self> {
        single()?;
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, key) = authority.pair();
        for (name, text) in [
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("ca.pem", &authority.pem),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let user = GUIDE.lines().find(|line| line.starts_with("user dayfly on "));
        let hash = ring::digest::digest(&ring::digest::SHA256, PASSWORD.as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let user = user.unwrap().replace(">PASSWORD", &format!("#{hash}"));
        let kept = user.split(' ').filter(|right| !without.contains(right));
        let user: Vec<&str> = kept.collect();
        let acl = format!("user default off resetpass ~* &* +@all\n{}\n", user.join(" "));
        fs::write(path("users.acl"), acl).unwrap();
        let lines = [
            "port 0".to_owned(),
            format!("tls-port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", folder.path().display()),
            "tls-auth-clients no".to_owned(),
            format!("tls-cert-file {}", path("tls.crt")),
            format!("tls-key-file {}", path("tls.key")),
            format!("tls-ca-cert-file {}", path("ca.pem")),
            format!("aclfile {}", path("users.acl")),
            "appendonly yes".to_owned(),
            "maxmemory-policy noeviction".to_owned(),
        ];
        fs::write(path("redis.conf"), lines.join("\n")).unwrap();
        let process = Command::new("redis-server")
            .arg(path("redis.conf"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self {
            port,
            authority,
            folder,
            process,
        })
    }

    /// A broker on it.
    fn installation(&self) -> Installation {
        let files = Installation::new();
        let ca = self.folder.path().join("ca.pem");
        fs::write(files.path("password"), PASSWORD).unwrap();
        files.change("dayfly.toml", |text| {
            text.replace("kind = \"embedded\"", "kind = \"redis\"")
                + &format!(
                    "\n[ledger.redis]\nurls = [\"rediss://localhost:{}\"]\nusername = \"dayfly\"\n\
                     password_file = \"password\"\nca_file = {ca:?}\nshards = 8\n",
                    self.port
                )
        });
        files
    }

    /// Until it takes connections.
    async fn ready(&self) {
        until("Redis answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .ok()
        })
        .await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended_already = self.process.wait();
    }
}

/// What a broker says that does not start.
async fn refused(files: &Installation) -> String {
    let mut process = files.broker().launch();
    let ended = process.ended().await;
    assert!(!ended.success(), "{}", process.log());
    process.log()
}

/// What `doctor` found out about the Redis.
fn examined(configuration: &Path) -> String {
    let output = dayfly(&[
        "--json".as_ref(),
        "doctor".as_ref(),
        "--config".as_ref(),
        configuration.as_os_str(),
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| line.contains("\"redis"));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_user_of_the_guide_may_do_all_that_a_broker_does_and_more_is_not_asked() {
    let Some(server) = Server::start(&[]) else { return };
    server.ready().await;
    let files = server.installation();
    let (one, other) = (files.broker(), files.replica());
    let (first, second) = (one.start().await, other.start().await);
    let (api, elsewhere) = (
        files.api("support-bot", &one).await,
        files.api("support-bot", &other).await,
    );
    let task = json!({"purpose": "answer ticket 4711", "scope": [{"tool": "crm", "actions": ["read"]}]});
    let (status, task) = api.post("/v1/tasks", &task).await.unwrap();
    assert_eq!(status, 201, "{task}");
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    let wanted = json!({"tool": "crm", "actions": ["read"], "resources": ["customers/42"]});
    let (status, issued) = api.post(&format!("{path}/credentials"), &wanted).await.unwrap();
    assert_eq!(status, 201, "{issued}");
    let lease = format!("/v1/leases/{}", issued["lease"]["id"].as_str().unwrap());
    let fact = json!({"value": "high"});
    let operator = files.api("ops-console", &one).await;
    let (status, answer) = operator
        .put("/v1/facts/agent/support-bot/risk", &fact)
        .await
        .unwrap();
    assert!([200, 201].contains(&status), "{answer}");
    let (status, _) = operator.get("/v1/rechecks").await.unwrap();
    assert_eq!(status, 200);
    let (status, answer) = elsewhere
        .post(&format!("{path}/complete"), &json!({"outcome": "completed"}))
        .await
        .unwrap();
    assert!([200, 202].contains(&status), "{answer}");
    until("it ended", async || {
        let (_, lease) = elsewhere.get(&lease).await.unwrap();
        (lease["state"] == "ended").then_some(())
    })
    .await;
    let found = examined(&files.configuration());
    assert!(found.contains("\"seen\":\"dayfly\""), "{found}");
    // How often the file is synced is a setting, which the user may not read.
    for (about, verdict) in [
        ("redis: user", "fine"),
        ("redis: way", "fine"),
        ("redis: eviction", "fine"),
        ("redis: persistence", "unknown"),
    ] {
        let line = found.lines().find(|line| line.contains(about));
        let verdict = format!("\"{verdict}\"");
        assert!(line.is_some_and(|line| line.contains(&verdict)), "{found}");
    }
    for process in [first, second] {
        for refusal in ["NOPERM", "may not do", "ledger is unavailable"] {
            assert!(!process.log().contains(refusal), "{}", process.log());
        }
        process.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_does_not_let_it_in_is_told_with_what_to_do() {
    let Some(server) = Server::start(&[]) else { return };
    server.ready().await;
    let files = server.installation();
    let stranger = server.folder.path().join("stranger.pem");
    fs::write(&stranger, Authority::new().pem).unwrap();
    let own = server.folder.path().join("ca.pem");
    assert_eq!(fs::read_to_string(&own).unwrap(), server.authority.pem);
    let told = async |says: &[&str]| {
        let log = refused(&files).await;
        let found = examined(&files.configuration());
        for text in [&log, &found] {
            assert!(says.iter().all(|word| text.contains(word)), "{says:?}: {text}");
            assert!(!text.contains(PASSWORD) && !text.contains("a%20p"), "{text}");
        }
        assert!(
            found.contains("\"broken\"") && found.contains("`password_file`"),
            "{found}"
        );
    };
    let swap = |from: String, to: String| {
        files.change("dayfly.toml", |text| {
            assert!(text.contains(&from), "{text}");
            text.replace(&from, &to)
        });
    };
    let (own, stranger) = (format!("ca_file = {own:?}"), format!("ca_file = {stranger:?}"));
    swap(own.clone(), stranger.clone());
    told(&["Redis cannot be reached: invalid peer certificate"]).await;
    swap(stranger, own);

    fs::write(files.path("password"), "another").unwrap();
    told(&["Redis refuses the user or the password", "`username`"]).await;
    fs::write(files.path("password"), PASSWORD).unwrap();

    swap(
        "username = \"dayfly\"\npassword_file = \"password\"\n".to_owned(),
        "# nobody\n".to_owned(),
    );
    let log = refused(&files).await;
    assert!(log.contains("asks for a user and a password"), "{log}");
    swap(
        "# nobody\n".to_owned(),
        "username = \"dayfly\"\npassword_file = \"password\"\n".to_owned(),
    );

    swap("rediss://".to_owned(), "redis://".to_owned());
    assert!(!refused(&files).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_missing_stops_the_start() {
    for right in ["+@write", "+info", "+eval", "~{dayfly:*"] {
        let missing: &[&str] = match right {
            "+eval" => &["+eval", "+evalsha"],
            right => &[right],
        };
        let Some(server) = Server::start(missing) else {
            return;
        };
        server.ready().await;
        let log = refused(&server.installation()).await;
        assert!(log.contains("may not do what the ledger needs"), "{right}: {log}");
        assert!(log.contains("the rights in the guide"), "{right}: {log}");
    }
}
