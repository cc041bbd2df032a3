//! Connections to Redis: one node, the primary that Sentinel names, or a cluster.
//!
//! Every call ends within the response time-out. A call that fails is not made again here: whether the
//! server made the step is unknown, and the caller decides. The connection heals by itself.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, RedisError, RedisResult, ServerErrorKind, TlsCertificates, TlsMode, Value,
};
use tokio::sync::{Mutex, Semaphore};

use super::script::Step;
use super::{Mode, RedisConfig};
use crate::ledger::LedgerError;
use crate::model::secret::Secret;

/// How many things in one script keep the server about as long as a script about one: that costs less for each.
const A_STEP: usize = 4;

/// Keys or arguments of a script, in parts that follow one another.
pub(super) type Parts<'a> = &'a [&'a [Vec<u8>]];

/// How many there are, and their bytes.
fn size(parts: Parts<'_>) -> (usize, usize) {
    let all = || parts.iter().copied().flatten();
    (all().count(), all().map(Vec::len).sum())
}

/// One multiplexed connection to wherever the ledger lives. Calls at the same time share it.
pub(super) struct Link {
    route: Route,
    /// How long a call may take, a reconnection included.
    patience: Duration,
    /// How many calls may be under way. The server works off all that has come on one connection before it turns
    /// to the next, so whoever sends a hundred steps at once lets everybody else wait for a hundred.
    places: Semaphore,
    /// As many as there are of them.
    most: u32,
}

enum Route {
    Node(ConnectionManager),
    Cluster(ClusterConnection),
    Sentinel(Box<Watched>),
}

impl Link {
    /// Connects, for so many calls at a time.
    pub(super) async fn connect(config: &RedisConfig, at_a_time: usize) -> RedisResult<Self> {
        let patience = config.response_timeout + config.connect_timeout;
        let route = within(patience, async {
            Ok(match &config.mode {
                Mode::Single { url } => Route::Node(node(config, url).await?),
                Mode::Cluster { urls } => Route::Cluster(cluster(config, urls).await?),
                Mode::Sentinel { urls, master, nodes } => {
                    let watched = Watched::new(config, urls, master, nodes.as_ref())?;
                    watched.connection().await?;
                    Route::Sentinel(Box::new(watched))
                }
            })
        });
        Ok(Self {
            route: route.await?,
            patience,
            places: Semaphore::new(at_a_time),
            most: u32::try_from(at_a_time).unwrap_or(u32::MAX),
        })
    }

    /// Whether one command reaches all shards.
    pub(super) fn is_one_node(&self) -> bool {
        !matches!(self.route, Route::Cluster(_))
    }

    /// Runs a script. By its hash; when the server does not know it, once more with the text, which
    /// the server then keeps.
    pub(super) async fn run(
        &self,
        step: &Step,
        keys: Parts<'_>,
        args: Parts<'_>,
    ) -> Result<Reply, LedgerError> {
        self.run_for(1, step, keys, args).await
    }

    /// Runs a script about so many things, which keeps the server as long as several steps do: it takes as many
    /// places.
    pub(super) async fn run_for(
        &self,
        things: usize,
        step: &Step,
        keys: Parts<'_>,
        args: Parts<'_>,
    ) -> Result<Reply, LedgerError> {
        let places = u32::try_from(things.div_ceil(A_STEP)).unwrap_or(u32::MAX);
        let places = places.clamp(1, self.most);
        let (count, bytes) = size(keys);
        let (more, more_bytes) = size(args);
        let call = |verb: &str, what: &str| {
            // Room for all of it at once, with the verb, the script and the number of keys.
            let mut cmd = Cmd::with_capacity(count + more + 3, bytes + more_bytes + what.len() + 32);
            cmd.arg(verb).arg(what).arg(count);
            for part in keys.iter().chain(args) {
                cmd.arg(*part);
            }
            cmd
        };
        let answer: RedisResult<Value> = match self.send(places, &call("EVALSHA", &step.hash)).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(places, &call("EVAL", &step.code)).await
            }
            answer => answer,
        };
        answer
            .map_err(|error| fault(&error))
            .and_then(|value| Reply::of(step.name, value))
    }

    /// Runs one command.
    pub(super) async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, LedgerError> {
        let value = self.send(1, cmd).await.map_err(|error| fault(&error))?;
        T::from_redis_value(value).map_err(|error| LedgerError::Corrupt(error.to_string()))
    }

    async fn send(&self, places: u32, cmd: &Cmd) -> RedisResult<Value> {
        // Never closed, so there is a place sooner or later: each call ends in time.
        let _places = self.places.acquire_many(places).await;
        within(self.patience, async {
            match &self.route {
                Route::Node(manager) => manager.clone().req_packed_command(cmd).await,
                Route::Cluster(cluster) => cluster.clone().req_packed_command(cmd).await,
                Route::Sentinel(watched) => watched.send(cmd).await,
            }
        })
        .await
        .and_then(Value::extract_error)
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
}

fn tcp(config: &RedisConfig) -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    // A host that went away without a word would otherwise be waited for until TCP gives up.
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(config.response_timeout);
    #[cfg(not(target_os = "linux"))]
    let _ = config;
    settings
}

fn certificates(config: &RedisConfig) -> Option<TlsCertificates> {
    config.root_certificates.clone().map(|pem| TlsCertificates {
        client_tls: None,
        root_cert: Some(pem),
    })
}

async fn node(config: &RedisConfig, url: &Secret) -> RedisResult<ConnectionManager> {
    let info = url.expose().into_connection_info()?.set_tcp_settings(tcp(config));
    let client = match certificates(config) {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_min_delay(Duration::from_millis(20))
        .set_max_delay(Duration::from_millis(200))
        .set_response_timeout(Some(config.response_timeout))
        .set_connection_timeout(Some(config.connect_timeout));
    client.get_connection_manager_with_config(settings).await
}

async fn cluster(config: &RedisConfig, urls: &[Secret]) -> RedisResult<ClusterConnection> {
    let mut builder = ClusterClientBuilder::new(urls.iter().map(Secret::expose))
        .tcp_settings(tcp(config))
        .connection_timeout(config.connect_timeout)
        .response_timeout(config.response_timeout)
        .retries(3) // redirections count
        .min_retry_wait(20)
        .max_retry_wait(200);
    if let Some(certificates) = certificates(config) {
        builder = builder.certs(certificates);
    }
    builder.build()?.get_async_connection().await
}

/// The primary that Sentinel names, asked for again whenever it is lost or turns out to be none.
struct Watched {
    sentinel: Mutex<SentinelClient>,
    settings: AsyncConnectionConfig,
    current: ArcSwapOption<MultiplexedConnection>,
}

impl Watched {
    fn new(config: &RedisConfig, urls: &[Secret], master: &str, nodes: Option<&Secret>) -> RedisResult<Self> {
        let parsed: Vec<ConnectionInfo> = urls
            .iter()
            .map(|url| url.expose().into_connection_info())
            .collect::<RedisResult<_>>()?;
        let addresses: Vec<ConnectionAddr> = parsed.iter().map(|info| info.addr().clone()).collect();
        let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
            .set_client_to_redis_tcp_settings(tcp(config))
            .set_client_to_sentinel_tcp_settings(tcp(config));
        if let Some(sentinel) = parsed.first().map(ConnectionInfo::redis_settings) {
            if let Some(name) = sentinel.username() {
                builder = builder.set_client_to_sentinel_username(name);
            }
            if let Some(password) = sentinel.password() {
                builder = builder.set_client_to_sentinel_password(password);
            }
        }
        if let Some(nodes) = nodes {
            let info = nodes.expose().into_connection_info()?;
            if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
                builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            }
            builder = builder.set_client_to_redis_db(info.redis_settings().db());
            if let Some(name) = info.redis_settings().username() {
                builder = builder.set_client_to_redis_username(name);
            }
            if let Some(password) = info.redis_settings().password() {
                builder = builder.set_client_to_redis_password(password);
            }
        }
        if let Some(certificates) = certificates(config) {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        Ok(Self {
            sentinel: Mutex::new(builder.build()?),
            settings: AsyncConnectionConfig::new()
                .set_connection_timeout(Some(config.connect_timeout))
                .set_response_timeout(Some(config.response_timeout)),
            current: ArcSwapOption::empty(),
        })
    }

    async fn connection(&self) -> RedisResult<Arc<MultiplexedConnection>> {
        if let Some(current) = self.current.load_full() {
            return Ok(current);
        }
        let mut sentinel = self.sentinel.lock().await;
        if let Some(current) = self.current.load_full() {
            return Ok(current); // somebody else was faster
        }
        let connection = sentinel.get_async_connection_with_config(&self.settings).await?;
        let connection = Arc::new(connection);
        self.current.store(Some(Arc::clone(&connection)));
        Ok(connection)
    }

    async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let used = self.connection().await?;
        let answer = MultiplexedConnection::clone(&used)
            .req_packed_command(cmd)
            .await
            .and_then(Value::extract_error);
        if let Err(error) = &answer
            && (error.is_unrecoverable_error() || error.is_timeout() || is_demoted(error))
        {
            self.current.compare_and_swap(&used, None);
        }
        answer
    }
}

/// A primary that Sentinel has replaced answers as a replica.
fn is_demoted(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) || error.to_string().contains("READONLY")
}

/// What a script answered.
#[derive(Debug)]
pub(super) struct Reply {
    step: &'static str,
    /// `ok`, or the name of a refusal.
    pub(super) word: String,
    rest: std::vec::IntoIter<Value>,
}

impl Reply {
    fn of(step: &'static str, value: Value) -> Result<Self, LedgerError> {
        let mut reply = Self {
            step,
            word: String::new(),
            rest: Vec::new().into_iter(),
        };
        let Value::Array(items) = value else {
            return Err(reply.unexpected());
        };
        reply.rest = items.into_iter();
        reply.next_word()?;
        Ok(reply)
    }

    /// Goes on to the next element, which is `ok` or the name of a refusal.
    pub(super) fn next_word(&mut self) -> Result<(), LedgerError> {
        let word = self.bytes()?;
        self.word = String::from_utf8(word).map_err(|_| self.unexpected())?;
        Ok(())
    }

    /// The next element, which is a text of bytes.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, LedgerError> {
        match self.rest.next() {
            Some(Value::BulkString(bytes)) => Ok(bytes),
            _ => Err(self.unexpected()),
        }
    }

    /// The next element, which is a number.
    pub(super) fn number(&mut self) -> Result<u64, LedgerError> {
        match self.rest.next() {
            Some(Value::Int(number)) => u64::try_from(number).map_err(|_| self.unexpected()),
            _ => Err(self.unexpected()),
        }
    }

    /// The next element, which is a text of bytes; `None` after the last.
    pub(super) fn more_bytes(&mut self) -> Result<Option<Vec<u8>>, LedgerError> {
        match self.rest.as_slice() {
            [] => Ok(None),
            _ => self.bytes().map(Some),
        }
    }

    /// The next element, which is a number; `None` after the last.
    pub(super) fn more_number(&mut self) -> Result<Option<u64>, LedgerError> {
        match self.rest.as_slice() {
            [] => Ok(None),
            _ => self.number().map(Some),
        }
    }

    /// The next element, which is an answer in the answer; `None` after the last.
    pub(super) fn part(&mut self) -> Result<Option<Self>, LedgerError> {
        match self.rest.next() {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(Self {
                step: self.step,
                word: String::new(),
                rest: items.into_iter(),
            })),
            Some(_) => Err(self.unexpected()),
        }
    }

    /// The answer is none that the script gives.
    pub(super) fn unexpected(&self) -> LedgerError {
        LedgerError::Corrupt(format!(
            "an unexpected answer of {} in Redis: `{}`",
            self.step, self.word
        ))
    }
}

/// What an error of Redis means to a person, and what to do about it.
pub(super) fn fault(error: &RedisError) -> LedgerError {
    let said = error.to_string();
    if ["WRONGTYPE", "data string too short", "attempt to "]
        .iter()
        .any(|sign| said.contains(sign))
    {
        return LedgerError::Corrupt(format!("a script failed in Redis: {said}"));
    }
    let known = [
        (
            "READONLY",
            "Redis answers as a read-only replica; point Dayfly at the primary, or use Sentinel or a cluster",
        ),
        (
            "OOM",
            "Redis is out of memory; raise `maxmemory` and keep `maxmemory-policy noeviction`",
        ),
        ("MISCONF", "Redis cannot write to its disk; its log says why"),
        (
            "NOREPLICAS",
            "Redis has fewer replicas than `min-replicas-to-write` asks for",
        ),
        (
            "CLUSTERDOWN",
            "the Redis cluster does not serve all slots; see `redis-cli cluster info`",
        ),
        ("MASTERDOWN", "the primary of this Redis replica is down"),
        ("LOADING", "Redis is still loading its data"),
        ("BUSY", "Redis is busy with a script"),
        (
            "NOAUTH",
            "Redis asks for a user and a password; name them as `username` and `password_file`",
        ),
        // What the client makes of WRONGPASS.
        (
            "AuthenticationFailed",
            "Redis refuses the user or the password; look at `username` and `password_file`",
        ),
        (
            "NOPERM",
            "the Redis user may not do what the ledger needs; give it the rights in the guide, on the keys of its prefix",
        ),
    ];
    // An error that passed through a script may have lost its code to the text.
    let fits = |code: &str| error.code() == Some(code) || said.contains(code);
    let hint = known.iter().find(|(code, _)| fits(code)).map(|(_, hint)| *hint);
    LedgerError::Unavailable(match hint {
        Some(hint) => hint.to_owned(),
        None if error.is_timeout() => "Redis did not answer in time".to_owned(),
        None if error.is_io_error() => format!("Redis cannot be reached: {said}"),
        None => said.chars().take(200).collect(),
    })
}
