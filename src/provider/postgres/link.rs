//! Connections: two bounded pools, one for making and one for ending, so that neither waits for the
//! other; TLS; and limits on how long anything may take.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage, SimpleQueryRow};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::fault::Fault;
use super::sql::Ident;
use super::{Security, Settings};
use crate::provider::ProviderError;

/// The longest that one exchange with the server may take, connecting included.
pub(super) const LONGEST: Duration = Duration::from_secs(8);
/// How long one statement may take, and wait for a lock; every batch begins with it.
pub(super) const LIMITS: &str = "SET LOCAL statement_timeout = '5s'; SET LOCAL lock_timeout = '3s';";
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for a connection of the pool: an agent can come again, an end can wait.
const WAIT_TO_MINT: Duration = Duration::from_secs(2);
const WAIT_TO_END: Duration = Duration::from_secs(6);

/// What the exchange is for: each has connections of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    Mint,
    End,
    /// One that begins with the exchange and ends with it.
    Own,
}

/// The way to the server.
pub(super) struct Link {
    way: Way,
    mint: Pool,
    end: Pool,
}

/// How a connection is made.
#[derive(Clone)]
struct Way {
    base: tokio_postgres::Config,
    password_file: Option<PathBuf>,
    tls: Option<MakeRustlsConnect>,
    tasks: TaskTracker,
}

impl Link {
    /// Reaches nothing yet.
    pub(super) fn new(settings: &Settings) -> Result<Self, ProviderError> {
        let mut base = tokio_postgres::Config::new();
        base.host(&settings.host)
            .port(settings.port)
            .dbname(settings.database.as_str())
            .user(settings.username.as_str())
            .application_name("dayfly")
            .connect_timeout(CONNECT)
            .tcp_user_timeout(LONGEST)
            .keepalives_idle(Duration::from_secs(30));
        let tls = match &settings.security {
            Security::Plain => {
                base.ssl_mode(SslMode::Disable);
                None
            }
            Security::Tls { authorities } => {
                base.ssl_mode(SslMode::Require);
                Some(tls(authorities)?)
            }
        };
        let way = Way {
            base,
            password_file: settings.password_file.clone(),
            tls,
            tasks: TaskTracker::new(),
        };
        Ok(Self {
            mint: pool(&way, settings.mint_connections, WAIT_TO_MINT)?,
            end: pool(&way, settings.end_connections, WAIT_TO_END)?,
            way,
        })
    }

    /// Sends statements that are one transaction, being one message: either all of them have an
    /// effect or none, and there is nothing to roll back. Answers the rows of all of them.
    pub(super) async fn say(&self, lane: Lane, batch: &str) -> Result<Vec<SimpleQueryRow>, Fault> {
        let pool = match lane {
            Lane::Mint => &self.mint,
            Lane::End => &self.end,
            Lane::Own => return self.say_anew(None, batch).await,
        };
        let said = timeout(LONGEST, async {
            let lent = Lent(Some(pool.get().await?));
            let said = lent.say(batch).await;
            lent.give_back();
            said
        });
        match said.await {
            Ok(said) => said.map(rows),
            Err(_) => Err(Fault::Unreachable("it did not answer in time".into())),
        }
    }

    /// The same on a connection of its own, to any database of the server.
    pub(super) async fn say_in(&self, database: &str, batch: &str) -> Result<Vec<SimpleQueryRow>, Fault> {
        self.say_anew(Some(database), batch).await
    }

    async fn say_anew(&self, database: Option<&str>, batch: &str) -> Result<Vec<SimpleQueryRow>, Fault> {
        let said = timeout(LONGEST, async {
            let connection = self.way.connect(database).await?;
            Ok(connection.0.simple_query(batch).await?)
        });
        match said.await {
            Ok(said) => said.map(rows),
            Err(_) => Err(Fault::Unreachable("it did not answer in time".into())),
        }
    }

    /// A connection of its own for several exchanges, which ends with it.
    pub(super) async fn session(&self) -> Result<Session, Fault> {
        match timeout(LONGEST, self.way.connect(None)).await {
            Ok(connected) => Ok(Session(connected?.0)),
            Err(_) => Err(Fault::Unreachable("it did not answer in time".into())),
        }
    }
}

/// A connection of a pool. One that is not given back is closed: whoever left it did so in the middle
/// of something, and nobody should have to wait behind that.
struct Lent(Option<Object>);

impl Lent {
    async fn say(&self, batch: &str) -> Result<Vec<SimpleQueryMessage>, Fault> {
        match &self.0 {
            Some(connection) => Ok(connection.simple_query(batch).await?),
            None => Err(Fault::Busy),
        }
    }

    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        drop(self.0.take().map(Object::take));
    }
}

/// A connection of its own.
pub(super) struct Session(Client);

impl Session {
    /// Sends statements and answers their rows.
    pub(super) async fn say(&self, batch: &str) -> Result<Vec<SimpleQueryRow>, Fault> {
        match timeout(LONGEST, self.0.simple_query(batch)).await {
            Ok(said) => Ok(rows(said?)),
            Err(_) => Err(Fault::Unreachable("it did not answer in time".into())),
        }
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<SimpleQueryRow> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The value of the first row that has this column.
pub(super) fn value<'r>(rows: &'r [SimpleQueryRow], column: &str) -> Option<&'r str> {
    rows.iter()
        .find(|row| has(row, column))
        .and_then(|row| row.get(column))
}

/// Every value of this column.
pub(super) fn values<'r>(rows: &'r [SimpleQueryRow], column: &str) -> impl Iterator<Item = &'r str> {
    rows.iter()
        .filter(move |row| has(row, column))
        .filter_map(move |row| row.get(column))
}

fn has(row: &SimpleQueryRow, column: &str) -> bool {
    row.columns().iter().any(|named| named.name() == column)
}

impl Way {
    /// Reads the password anew each time, so that it can be changed under a running Dayfly.
    async fn connect(
        &self,
        database: Option<&str>,
    ) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let mut config = self.base.clone();
        if let Some(database) = database {
            config.dbname(database);
        }
        if let Some(path) = &self.password_file {
            match tokio::fs::read_to_string(path).await.map(Zeroizing::new) {
                Ok(password) => {
                    config.password(password.trim_end_matches(['\r', '\n']));
                }
                // The server will ask for what is missing, and that is told then.
                Err(error) => tracing::warn!(file = %path.display(), %error, "cannot read the password"),
            }
        }
        match self.tls.clone() {
            Some(tls) => {
                let (client, connection) = config.connect(tls).await?;
                Ok((client, self.tasks.spawn(ended(connection))))
            }
            None => {
                let (client, connection) = config.connect(NoTls).await?;
                Ok((client, self.tasks.spawn(ended(connection))))
            }
        }
    }
}

async fn ended(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(error = ?Fault::from(error), "a connection ended");
    }
}

type Connecting<'w> =
    Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'w>>;

impl Connect for Way {
    fn connect(&self, _: &tokio_postgres::Config) -> Connecting<'_> {
        Box::pin(Way::connect(self, None))
    }
}

fn pool(way: &Way, size: usize, wait: Duration) -> Result<Pool, ProviderError> {
    let recycling_method = RecyclingMethod::Fast;
    let manager = Manager::from_connect(way.base.clone(), way.clone(), ManagerConfig { recycling_method });
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(wait))
        .create_timeout(Some(CONNECT))
        .build()
        .map_err(|error| ProviderError::Refused(format!("cannot make a pool of connections: {error}")))
}

/// TLS that believes these authorities only.
fn tls(authorities: &Path) -> Result<MakeRustlsConnect, ProviderError> {
    let refused =
        |what: String| ProviderError::Refused(format!("`ca_file`, {}: {what}", authorities.display()));
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(authorities)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refused(error.to_string()))?;
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(refused("it holds no certificate in PEM".into()));
    }
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// Has everything that concerns one login happen one after the other, up to the end of a transaction:
/// an end waits for a making under way, and finds what it made.
pub(super) fn one_at_a_time(login: &Ident) -> String {
    format!(
        "SELECT pg_advisory_xact_lock(hashtextextended({}, 0));",
        login.as_literal()
    )
}
