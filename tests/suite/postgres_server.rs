//! The PostgreSQL server to test against, where the environment names one, and estates on it: a
//! database, a role that Dayfly works as, and group roles, all of a test's own.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use dayfly::clock::{Clock, SystemClock};
use dayfly::entropy::{OsEntropy, draw};
use dayfly::model::credential::Credential;
use dayfly::model::ttl::Ttl;
use dayfly::provider::postgres::{Postgres, Security, Settings};
use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};
use tokio_util::task::TaskTracker;

#[expect(
    clippy::disallowed_methods,
    reason = "the only thing that tells where a server is"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// How its superuser gets in, or nothing, said once and past the test harness, which would swallow it.
fn superuser() -> Option<Config> {
    static SAID: Once = Once::new();
    let url = variable("DAYFLY_TEST_POSTGRES");
    if url.is_none() {
        SAID.call_once(|| {
            let line = b"DAYFLY_TEST_POSTGRES is not set: its tests of the PostgreSQL provider are skipped\n";
            std::io::stderr().write_all(line).unwrap();
        });
    }
    Some(url?.parse().unwrap())
}

/// A session, with whatever is needed for it to go on.
pub(crate) async fn session(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    TaskTracker::new().spawn(connection);
    Ok(client)
}

/// A database, and those who have to do with it.
pub(crate) struct Estate {
    /// The superuser, in the estate's own database.
    pub(crate) root: Client,
    config: Config,
    /// Makes every name on the server this estate's own.
    pub(crate) mark: String,
    files: TempDir,
}

impl Estate {
    /// `None` where there is no server.
    pub(crate) fn new() -> Option<impl Future<Output = Self>> {
        Some(Self::on(superuser()?))
    }

    async fn on(mut config: Config) -> Self {
        let random: [u8; 5] = draw(&OsEntropy::new()).unwrap();
        let mark: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let first = session(&config).await.unwrap();
        let database = format!("orders_{mark}");
        let setup = [
            format!("CREATE ROLE dayfly_{mark} LOGIN PASSWORD 'first' CREATEROLE"),
            format!("CREATE ROLE reader_{mark}"),
            format!("CREATE ROLE writer_{mark}"),
            format!("CREATE ROLE owner_{mark}"),
            format!("CREATE ROLE sales_{mark}_reader"),
            format!(
                "GRANT reader_{mark}, writer_{mark}, sales_{mark}_reader TO dayfly_{mark} WITH ADMIN OPTION"
            ),
            format!("CREATE DATABASE {database}"),
        ];
        for statement in setup {
            first.batch_execute(&statement).await.unwrap();
        }
        config.dbname(&database);
        let root = session(&config).await.unwrap();
        let tables = format!(
            "CREATE TABLE customers (id int); CREATE TABLE invoices (id int); \
             GRANT SELECT ON customers TO reader_{mark}; GRANT SELECT ON invoices TO sales_{mark}_reader; \
             GRANT SELECT, INSERT, REFERENCES ON customers TO writer_{mark}; \
             GRANT CREATE ON SCHEMA public TO writer_{mark};"
        );
        root.batch_execute(&tables).await.unwrap();
        let files = tempfile::tempdir().unwrap();
        let estate = Self {
            root,
            config,
            mark,
            files,
        };
        estate.keep_password("first");
        estate
    }

    /// The superuser says something, in a statement or several.
    pub(crate) async fn run(&self, statements: &str) {
        self.root
            .batch_execute(&statements.replace("{}", &self.mark))
            .await
            .unwrap();
    }

    /// The first value that the superuser is answered.
    pub(crate) async fn ask(&self, question: &str) -> String {
        let said = self
            .root
            .simple_query(&question.replace("{}", &self.mark))
            .await
            .unwrap();
        let row = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
            _ => None,
        });
        row.unwrap_or_default()
    }

    pub(crate) fn password_file(&self) -> PathBuf {
        self.files.path().join("password")
    }

    pub(crate) fn keep_password(&self, password: &str) {
        std::fs::write(self.password_file(), format!("{password}\n")).unwrap();
    }

    pub(crate) fn database(&self) -> String {
        format!("orders_{}", self.mark)
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            host: "127.0.0.1".into(),
            port: self.config.get_ports()[0],
            database: self.database().parse().unwrap(),
            username: format!("dayfly_{}", self.mark).parse().unwrap(),
            password_file: Some(self.password_file()),
            security: Security::Plain,
            prefix: format!("dayfly_{}", self.mark).parse().unwrap(),
            reassign_to: None,
            mint_connections: 4,
            end_connections: 4,
            most: Ttl::from_secs(3600).unwrap(),
        }
    }

    pub(crate) fn provider(&self) -> Arc<Postgres> {
        provider(self.settings())
    }

    /// What a tool of this estate says.
    pub(crate) fn parameters(&self) -> serde_json::Value {
        let mark = &self.mark;
        serde_json::json!({
            "database": self.database(),
            "roles": {"read": [format!("reader_{mark}")], "write": [format!("writer_{mark}")]},
        })
    }
}

pub(crate) fn provider(settings: Settings) -> Arc<Postgres> {
    let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(OsEntropy::new()));
    Arc::new(Postgres::new(settings, clock, entropy).unwrap())
}

pub(crate) fn now() -> dayfly::model::time::Timestamp {
    SystemClock::new().now()
}

/// A session of a workload with a login that it was given.
pub(crate) async fn log_in(credential: &Credential) -> Result<Client, tokio_postgres::Error> {
    let Credential::DatabaseLogin {
        host,
        port,
        database,
        username,
        password,
    } = credential
    else {
        panic!("not a login");
    };
    let mut config = Config::new();
    config
        .host(host)
        .port(*port)
        .dbname(database)
        .user(username)
        .password(password.expose());
    session(&config).await
}
