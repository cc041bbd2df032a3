//! Floor 5, assembly: from a configuration to a running broker, and back to rest. With its parts in
//! `app/`, the only place that names adapters.

pub mod certificate;
mod client_certificates;
pub mod doctor;
pub mod identity;
pub mod journal;
pub mod ledger;
mod listeners;
pub mod mark;
mod observe;
pub mod providers;
pub mod recover;
pub mod rules;
pub mod signals;
pub mod traces;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::error::chain;
use crate::broker::load::Loaded;
use crate::broker::rules::Rules;
use crate::broker::{Broker, Parts, Settings, reaper, reconciler};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config};
use crate::entropy::{Entropy, OsEntropy};
use crate::http::{self, Farewell, HttpState, Jwks, Limits};
use crate::identity::verifiers::Verifiers;
use crate::journal::Journal;
use crate::journal::file::FileJournal;
use crate::journal::record::{Record, Result as Outcome, Verb};
use crate::keys::issuer::Issuer;
use crate::keys::key_ring::KeyRing;
use crate::ledger::lineage::{Memory, Writer};
use crate::provider::{ProviderError, Providers};
use crate::signal::Streams;
use crate::telemetry;

use self::certificate::ServerCertificate;
use self::listeners::{Around, Listeners};
use self::mark::MarkFile;
use self::observe::Observed;

/// How many of the newest records are looked at when it starts.
const NEWEST: u64 = 2000;

/// A broker that serves.
pub struct Running {
    broker: Arc<Broker>,
    /// The first, that of tools, that of operators.
    addresses: (SocketAddr, Option<SocketAddr>, Option<SocketAddr>),
    farewell: Farewell,
    tracker: TaskTracker,
    journal: Arc<FileJournal>,
    certificates: Vec<Arc<ServerCertificate>>,
    clock: Arc<dyn Clock>,
    delay: Duration,
    drain: Duration,
}

/// Starts a broker with the configuration in this file, on the address that it names.
pub async fn start(configuration: &Path) -> anyhow::Result<Running> {
    let config = config::load(configuration)?;
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    run(config, listener).await
}

/// The same on a socket that is open already.
pub async fn start_on(listener: TcpListener, configuration: &Path) -> anyhow::Result<Running> {
    run(config::load(configuration)?, listener).await
}

async fn run(config: Config, listener: TcpListener) -> anyhow::Result<Running> {
    // First, so that whatever counts finds where to.
    let metrics = telemetry::init_metrics()?;
    let config = Arc::new(config);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let os_entropy = OsEntropy::new();
    let entropy: Arc<dyn Entropy> = Arc::new(os_entropy.clone());

    let keys = Arc::new(providers::open_keys(&config, &os_entropy, clock.now())?);
    let tokens = Arc::new(Issuer::new(config.server.public_url.clone(), Arc::clone(&keys)));
    let ambient = providers::Ambient {
        clock: Arc::clone(&clock),
        entropy: Arc::clone(&entropy),
        keys: Arc::clone(&keys),
    };
    let providers = providers::build(&config, &ambient)?;
    let (ruleset, warnings) = rules::load(&config, &providers)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let limits = Limits {
        body: config.server.body_limit,
        concurrency: config.server.max_concurrent_requests,
        request: config.server.request_timeout,
        drain: config.server.drain_timeout,
    };
    let issuer = config.server.public_url.clone();
    let jwks: Jwks = Arc::new({
        let keys = Arc::clone(&keys);
        move || keys.jwks()
    });
    let (farewell, tracker) = (Farewell::default(), TaskTracker::new());
    let stop = farewell.stop.clone();
    // The keys are served from here on. Connections that were accepted before the rest is there go on with
    // the early routes, which then lead to all of them.
    let svids = config.server.takes_client_certificates();
    let svids = svids.then(|| identity::svids(&config.identity)).transpose()?;
    let verifiers = Arc::new(identity::build(&config.identity, svids.clone())?);
    let starting = stop.clone().drop_guard();
    let around = Around {
        limits: &limits,
        clock: &clock,
        tracker: &tracker,
        farewell: &farewell,
        svids: svids.as_ref(),
        early: &|open| http::early(issuer.clone(), Arc::clone(&jwks), &limits, open),
    };
    let listeners = Listeners::open(&config.server, listener, &around).await?;
    check_providers(&providers).await?;
    let (streams, polled) = signals::build(&config, clock.now())?;
    let streams = Arc::new(streams);
    let (journal, receipts) = journal::open(&config.journal, &config.server.public_url, &os_entropy)?;
    let journal = Arc::new(journal);
    let newest = newest(&journal).await?;
    let marks = MarkFile::beside(&config.journal.dir);
    let memory = marks.memory(&newest)?;
    let known = memory != Memory::Nothing;
    let writer = Writer::of_journal(&journal.verifier().to_string());
    let ledger = ledger::open(&config.ledger, writer, memory).await?;
    let broker = Arc::new(Broker::new(Parts {
        clock: Arc::clone(&clock),
        entropy: Arc::clone(&entropy),
        verifiers: Arc::clone(&verifiers),
        rules: Arc::new(Rules::from_source(
            ruleset,
            Arc::new(rules::Files {
                config: Arc::clone(&config),
                providers: providers.clone(),
            }),
        )),
        ledger,
        providers: providers.clone(),
        issuer: tokens,
        journal: Arc::clone(&journal) as Arc<dyn Journal>,
        receipts,
        settings: settings(&config),
    }));
    record_start(&broker, &journal, clock.now()).await?;
    if known && broker.quarantine().is_none() {
        broker
            .compare_with_journal(&newest, config.ledger.retention)
            .await?;
    }

    spawn_background(&tracker, &stop, &broker, &verifiers, &keys, &clock, &entropy);
    spawn_streams(&tracker, &stop, &broker, &streams, polled, &entropy);
    // A ledger that was recovered meanwhile is taken into use before the first request.
    broker.look_at_ledger().await?;
    broker.catch_up().await?;
    broker.settle_rules().await?;
    tracker.spawn(mark::keep(Arc::clone(&broker), marks, stop.clone()));
    for certificate in &listeners.certificates {
        tracker.spawn(Arc::clone(certificate).keep(stop.clone()));
    }
    let observed = Observed {
        metrics: metrics.clone(),
        journal: Arc::clone(&journal),
        dir: config.journal.dir.clone(),
        verifiers: Arc::clone(&verifiers),
    };
    tracker.spawn(observed.run(stop.clone()));
    let state = HttpState {
        broker: Arc::clone(&broker),
        streams,
        jwks,
        issuer,
        metrics,
        tracker: tracker.clone(),
        stop: farewell.leaving.clone(),
    };
    listeners.lead_to(http::routers(state, &limits, listeners.apart()));
    starting.disarm();
    Ok(Running {
        delay: config.server.stop_delay,
        drain: config.server.drain_timeout,
        broker,
        addresses: listeners.addresses(),
        farewell,
        tracker,
        journal,
        certificates: listeners.certificates,
        clock,
    })
}

/// The newest records of the journal, oldest first.
async fn newest(journal: &FileJournal) -> anyhow::Result<Vec<String>> {
    let size = *journal.size().borrow();
    let (mut from, mut newest) = (size.saturating_sub(NEWEST), Vec::new());
    loop {
        let page = journal.read(from, 1000).await?;
        if page.is_empty() {
            return Ok(newest);
        }
        from += u64::try_from(page.len())?;
        newest.extend(page);
    }
}

/// A provider that somebody has to change something for stops the start. One that cannot be reached
/// does not: the others have work to do.
async fn check_providers(providers: &Providers) -> anyhow::Result<()> {
    for (name, provider) in providers.iter() {
        match provider.preflight().await {
            Ok(()) => {}
            Err(
                error @ (ProviderError::Unavailable(_)
                | ProviderError::Throttled { .. }
                | ProviderError::Down { .. }),
            ) => {
                tracing::error!(provider = %name, error = %chain(&error), "a provider cannot be reached");
            }
            Err(error) => return Err(error).context(format!("the provider `{name}` cannot work")),
        }
    }
    Ok(())
}

impl Running {
    /// Reads policies, agents and tools anew and puts them in force as one revision. When anything is
    /// wrong with them, or they would end more than may end unasked, nothing changes, and the error says why.
    /// Requests under way end with the revision that they began with.
    pub async fn reload(&self) -> anyhow::Result<Loaded> {
        Ok(self.broker.reload_by_itself().await?)
    }

    /// Looks at the files of certificates now, and takes new ones into use.
    pub fn look_at_certificates(&self) {
        for certificate in &self.certificates {
            certificate.look();
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.addresses.0
    }

    /// Where resource servers are served alone.
    pub fn tools_address(&self) -> Option<SocketAddr> {
        self.addresses.1
    }

    /// Where operators are served alone.
    pub fn operators_address(&self) -> Option<SocketAddr> {
        self.addresses.2
    }

    /// Comes to rest: says that it is not ready and waits until that was noticed, takes no more requests,
    /// finishes those under way, closes the journal. What is due stays in the ledger for the next start or
    /// another replica. Each time that it is told to hurry it waits no longer for what it is waiting for.
    pub async fn stop(self, hurry: &Notify) -> anyhow::Result<()> {
        self.farewell.leaving.cancel();
        tokio::select! {
            () = tokio::time::sleep(self.delay) => {}
            () = hurry.notified() => tracing::info!("told again to stop: no more requests from now on"),
        }
        self.farewell.stop.cancel();
        self.tracker.close();
        let grace = self.drain + Duration::from_secs(5);
        let in_time = tokio::select! {
            waited = tokio::time::timeout(grace, self.tracker.wait()) => waited.is_ok(),
            () = hurry.notified() => false,
        };
        if !in_time {
            tracing::warn!("some work did not end in time; the ledger and the journal know what is left");
        }
        let record = Record {
            reason: Some("stopped".into()),
            ..Record::new(Verb::Serve, Outcome::Permitted, self.clock.now())
        };
        self.journal.append(record.into()).await?;
        Ok(self.journal.close().await?)
    }
}

async fn record_start(
    broker: &Broker,
    journal: &FileJournal,
    now: crate::model::time::Timestamp,
) -> anyhow::Result<()> {
    let record = Record {
        reason: Some("started".into()),
        revision: Some(broker.rules().current().revision.clone()),
        ..Record::new(Verb::Serve, Outcome::Permitted, now)
    };
    journal.append(record.into()).await?;
    Ok(())
}

fn spawn_background(
    tracker: &TaskTracker,
    stop: &CancellationToken,
    broker: &Arc<Broker>,
    verifiers: &Verifiers,
    keys: &Arc<KeyRing>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) {
    tracker.spawn(Arc::clone(broker).reap(stop.clone()));
    tracker.spawn(Arc::clone(broker).follow_facts(stop.clone()));
    tracker.spawn(Arc::clone(broker).recheck_regularly(stop.clone()));
    tracker.spawn(Arc::clone(broker).watch_rules(stop.clone()));
    tracker.spawn(Arc::clone(broker).watch_trust(stop.clone()));
    tracker.spawn(Arc::clone(broker).reconcile_regularly(stop.clone()));
    tracker.spawn(Arc::clone(broker).count_stuck_regularly(stop.clone()));
    tracker.spawn(Arc::clone(broker).sample_regularly(stop.clone()));
    for source in verifiers.key_sources() {
        tracker.spawn(Arc::clone(source).run(Arc::clone(entropy), stop.clone()));
    }
    tracker.spawn(tend_keys(Arc::clone(keys), Arc::clone(clock), stop.clone()));
}

/// Listens to streams of signals.
fn spawn_streams(
    tracker: &TaskTracker,
    stop: &CancellationToken,
    broker: &Arc<Broker>,
    streams: &Arc<Streams>,
    polled: Vec<signals::Polled>,
    entropy: &Arc<dyn Entropy>,
) {
    for stream in streams.iter() {
        tracker.spawn(Arc::clone(stream.keys()).run(Arc::clone(entropy), stop.clone()));
    }
    for (stream, transmitter) in polled {
        tracker.spawn(Arc::clone(broker).poll(stream, transmitter, stop.clone()));
    }
    tracker.spawn(Arc::clone(broker).listen_for_silence(Arc::clone(streams), stop.clone()));
}

/// Rotates signing keys when it is time. A fault is told and tried again: the keys at hand go on.
async fn tend_keys(keys: Arc<KeyRing>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(keys.tend_every()) => {}
        }
        let (ring, now) = (Arc::clone(&keys), clock.now());
        match tokio::task::spawn_blocking(move || ring.tend(now)).await {
            Ok(Ok(true)) => tracing::info!("the signing key was rotated"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::error!(%error, "the signing keys could not be looked after"),
            Err(error) => tracing::error!(%error, "the signing keys could not be looked after"),
        }
    }
}

fn settings(config: &Config) -> Settings {
    let reaper = &config.reaper;
    Settings {
        default_task_life: config.tasks.default_deadline,
        longest_task_life: config.tasks.max_deadline,
        default_heartbeat: config.tasks.default_heartbeat,
        longest_heartbeat: config.tasks.max_heartbeat,
        live_credentials_per_task: Some(config.tasks.live_credentials.get()),
        open_tasks_per_agent: Some(config.tasks.open_tasks.get()),
        deepest_task: config.tasks.max_depth.0.into(),
        bind_to_attestation: config.tasks.bind_to_attestation,
        blast_radius: config.policy.blast_radius,
        watch_rules: config.policy.watch,
        status_list_ttl: config.status_lists.ttl,
        reaper: reaper::Settings {
            interval: reaper.interval,
            batch: reaper.batch,
            hold: reaper.hold,
            concurrency: reaper.concurrency,
            first_retry: reaper.retry_least,
            last_retry: reaper.retry_most,
            stuck_after: reaper.stuck_after.get(),
        },
        reconciler: reconciler::Settings {
            interval: config.reconciler.interval,
            ..reconciler::Settings::default()
        },
        ..Settings::default()
    }
}
