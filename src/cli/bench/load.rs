//! When what is due, who does it, and what came of it.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::work::Ready;
use crate::cli::terminal::Terminal;
use crate::model::ttl::Ttl;

/// The longest time that is told from longer ones, in microseconds.
const LONGEST: u64 = 120_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// How often something is due, and for how long.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) rate: NonZeroU32,
    pub(super) connections: NonZeroUsize,
    warm_up: Duration,
    pub(super) duration: Duration,
}

/// What one kind of request did.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// Microseconds from when it was due to the answer, of those that count.
    pub(super) took: Times,
    /// What went wrong how often.
    pub(super) failed: BTreeMap<String, u64>,
}

/// Times, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Times(Option<Histogram<u64>>);

impl Times {
    fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros())
            .unwrap_or(LONGEST)
            .clamp(1, LONGEST);
        if self.0.is_none() {
            self.0 = Histogram::new_with_bounds(1, LONGEST, DIGITS).ok();
        }
        if let Some(times) = &mut self.0 {
            times.saturating_record(micros);
        }
    }

    fn add(&mut self, other: Self) {
        match (&mut self.0, other.0) {
            (Some(times), Some(more)) => {
                // They have the same bounds.
                let _ = times.add(more);
            }
            (none, more) => *none = none.take().or(more),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The time within which so many of a hundred were answered.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let times = self.0.as_ref();
        Duration::from_micros(times.map_or(0, |times| times.value_at_quantile(percent / 100.0)))
    }

    /// The longest.
    pub(super) fn longest(&self) -> Duration {
        Duration::from_micros(self.0.as_ref().map_or(0, Histogram::max))
    }
}

/// What came of a load.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) asked: BTreeMap<&'static str, Asked>,
    /// How much later than due it was begun, for want of a connection or of this process's own speed.
    pub(super) late: Times,
    /// How long all that counts took.
    pub(super) took: Duration,
}

impl Tally {
    /// Takes note of one request.
    pub(super) fn note(&mut self, what: &'static str, took: Duration, failure: Option<String>) {
        let asked = self.asked.entry(what).or_default();
        match failure {
            None => asked.took.record(took),
            Some(why) => *asked.failed.entry(why).or_default() += 1,
        }
    }

    fn add(&mut self, other: Self) {
        self.late.add(other.late);
        for (what, more) in other.asked {
            let asked = self.asked.entry(what).or_default();
            asked.took.add(more.took);
            for (why, times) in more.failed {
                *asked.failed.entry(why).or_default() += times;
            }
        }
    }

    /// How many requests failed.
    pub(super) fn failed(&self) -> u64 {
        self.asked.values().flat_map(|asked| asked.failed.values()).sum()
    }
}

/// What those who do the work share.
struct Shared {
    /// As many places as things are due.
    due: Semaphore,
    next: AtomicU64,
    began: Instant,
    every: Duration,
    all: u64,
    done: AtomicU64,
    over: AtomicBool,
}

impl Shared {
    fn instant(&self, number: u64) -> Instant {
        let since = self.every.as_nanos().saturating_mul(u128::from(number));
        self.began + Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// Says when something is due, to whoever is free.
    fn keep_time(&self) {
        for number in 0..self.all {
            let at = self.instant(number);
            loop {
                if self.over.load(Ordering::Relaxed) {
                    return;
                }
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // A thread of its own, because timers of the runtime are a millisecond apart.
                std::thread::park_timeout(left);
            }
            self.due.add_permits(1);
        }
    }
}

impl Load {
    pub(super) fn new(rate: NonZeroU32, warm_up: Ttl, duration: Ttl, connections: NonZeroUsize) -> Self {
        Self {
            rate,
            connections,
            warm_up: warm_up.as_duration(),
            duration: duration.as_duration(),
        }
    }

    /// How often something is due in a time.
    fn times(&self, time: Duration) -> u64 {
        time.as_secs().saturating_mul(u64::from(self.rate.get()))
    }

    /// Does the work at its instants, and waits for all of it.
    pub(super) async fn run(&self, work: &Arc<Ready>, terminal: &Terminal) -> Tally {
        let warm = self.times(self.warm_up);
        let shared = Arc::new(Shared {
            due: Semaphore::new(0),
            next: AtomicU64::new(0),
            began: Instant::now() + Duration::from_millis(10),
            every: Duration::from_secs(1) / self.rate.get(),
            all: warm + self.times(self.duration),
            done: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let keeper = Arc::clone(&shared);
        let keeper = std::thread::Builder::new()
            .name("due".to_owned())
            .spawn(move || keeper.keep_time());
        let workers = TaskTracker::new();
        let running: Vec<_> = (0..self.connections.get())
            .map(|number| workers.spawn(worker(Arc::clone(&shared), Arc::clone(work), number, warm)))
            .collect();
        workers.close();
        let watched = self.watch(&shared, &workers, terminal);
        let mut tally = Tally::default();
        watched.await;
        for worker in running {
            if let Ok(did) = worker.await {
                tally.add(did);
            }
        }
        shared.over.store(true, Ordering::Relaxed);
        if let Ok(keeper) = keeper {
            keeper.thread().unpark();
            let _ = keeper.join();
        }
        tally.took = shared.instant(warm).elapsed().max(Duration::from_millis(1));
        tally
    }

    /// Says how it goes once a second, where a person is looking, until all is done.
    async fn watch(&self, shared: &Shared, workers: &TaskTracker, terminal: &Terminal) {
        let mut before = 0;
        loop {
            tokio::select! {
                () = workers.wait() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            let done = shared.done.load(Ordering::Relaxed);
            if terminal.is_watched() {
                let behind = shared.due.available_permits();
                let all = shared.all;
                // Nobody to tell is no reason to stop.
                let _ = terminal.note(format!(
                    "{done} of {all}, {} in the last second, {behind} wait",
                    done - before
                ));
            }
            before = done;
        }
    }
}

async fn worker(shared: Arc<Shared>, work: Arc<Ready>, connection: usize, warm: u64) -> Tally {
    let mut tally = Tally::default();
    loop {
        // Beyond the last there is nothing to wait for.
        if shared.next.load(Ordering::Relaxed) >= shared.all {
            return tally;
        }
        let Ok(permit) = shared.due.acquire().await else {
            return tally;
        };
        permit.forget();
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if number >= shared.all {
            return tally;
        }
        if number + 1 == shared.all {
            // Whoever still waits is let go.
            shared.due.close();
        }
        let due = shared.instant(number);
        let mut did = Tally::default();
        did.late.record(due.elapsed());
        work.once(number, connection, due, &mut did).await;
        shared.done.fetch_add(1, Ordering::Relaxed);
        if number >= warm {
            tally.add(did);
        }
    }
}
