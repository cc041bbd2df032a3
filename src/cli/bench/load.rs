//! When what is due, and who does it.

use std::num::{NonZeroU32, NonZeroUsize};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::cutoff::Probes;
use super::progress::Progress;
use super::tally::{Spent, Tally};
use super::work::Ready;
use crate::cli::terminal::Terminal;

/// The most requests a second that can be asked for.
const FASTEST: u32 = 1_000_000;
/// How long before the first is due its workers are there.
const LEAD: Duration = Duration::from_millis(10);

/// How often something is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rate {
    /// So often a second, however long the answers take: an open loop.
    Each(NonZeroU32),
    /// As soon as the one before was answered, on each connection: a closed loop.
    Max,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        match given.parse::<NonZeroU32>() {
            _ if given == "max" => Ok(Self::Max),
            Ok(rate) if rate.get() <= FASTEST => Ok(Self::Each(rate)),
            Ok(_) => Err(format!(
                "more than can be timed: ask for {FASTEST} a second at most"
            )),
            Err(_) => Err("write a number above 0, or `max`".to_owned()),
        }
    }
}

/// How often, and for how long.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) rate: Rate,
    pub(super) connections: NonZeroUsize,
    pub(super) warm_up: Duration,
    /// All that counts, for each side.
    pub(super) duration: Duration,
    /// How long one side is asked before it is the other's turn.
    pub(super) slice: Duration,
}

/// Who is asked.
pub(super) struct Side {
    /// What reports call it.
    pub(super) name: &'static str,
    pub(super) work: Arc<Ready>,
    /// The process that answers, where it is known.
    pub(super) server: Option<u32>,
}

/// What those who do the work share.
struct Shared {
    work: Arc<Ready>,
    progress: Arc<Progress>,
    began: Instant,
    until: Instant,
    /// The number of the first.
    first: u64,
    next: AtomicU64,
    /// What is due when; none in a closed loop.
    due: Option<Due>,
}

/// What is due at fixed instants.
struct Due {
    /// As many places as things are due.
    places: Semaphore,
    every: Duration,
    all: u64,
    over: AtomicBool,
}

impl Shared {
    /// When something is due.
    fn instant(&self, due: &Due, number: u64) -> Instant {
        let since = due.every.as_nanos().saturating_mul(u128::from(number));
        self.began + Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// Says when something is due, to whoever is free.
    fn keep_time(&self) {
        let Some(due) = &self.due else { return };
        for number in 0..due.all {
            let at = self.instant(due, number);
            loop {
                if due.over.load(Ordering::Relaxed) {
                    return;
                }
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                // A thread of its own, because timers of the runtime are a millisecond apart.
                std::thread::park_timeout(left);
            }
            due.places.add_permits(1);
        }
    }

    /// The next thing to do, with the instant at which it was due; none when it is over.
    async fn next(&self) -> Option<(u64, Instant)> {
        let Some(due) = &self.due else {
            let now = Instant::now();
            return (now < self.until).then(|| (self.next.fetch_add(1, Ordering::Relaxed), now));
        };
        // Beyond the last there is nothing to wait for.
        if self.next.load(Ordering::Relaxed) >= due.all {
            return None;
        }
        due.places.acquire().await.ok()?.forget();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if number + 1 >= due.all {
            // Whoever still waits is let go.
            due.places.close();
        }
        (number < due.all).then(|| (number, self.instant(due, number)))
    }
}

impl Load {
    /// How many slices each side gets: one when it is alone.
    fn slices(&self, sides: usize) -> u32 {
        let slices = self.duration.as_millis() / self.slice.as_millis().max(1);
        match sides {
            0 | 1 => 1,
            _ => u32::try_from(slices).unwrap_or(u32::MAX).max(1),
        }
    }

    /// Asks the sides in turns, and gives what came of each of their slices.
    pub(super) async fn run(&self, sides: &[Side], terminal: &Terminal) -> Vec<Vec<Tally>> {
        let progress = Arc::new(Progress::new(*terminal));
        let mut number = 0;
        for side in sides {
            // Noted like all else, and thrown away.
            number += self
                .slice("warm-up", side, self.warm_up, number, &progress)
                .await
                .1;
        }
        let slices = self.slices(sides.len());
        let mut came: Vec<Vec<Tally>> = sides.iter().map(|_| Vec::new()).collect();
        for slice in 0..slices {
            let mut turns: Vec<_> = sides.iter().zip(&mut came).collect();
            // There and back, so that a machine that grows slower does it to both.
            if slice % 2 == 1 {
                turns.reverse();
            }
            for (side, came) in turns {
                let length = self.duration / slices;
                let (tally, sent) = self.slice(side.name, side, length, number, &progress).await;
                number += sent;
                came.push(tally);
            }
        }
        progress.end();
        came
    }

    /// Asks one side for a while, and waits for all answers. What came of it, and how much there was.
    async fn slice(
        &self,
        name: &str,
        side: &Side,
        length: Duration,
        first: u64,
        progress: &Arc<Progress>,
    ) -> (Tally, u64) {
        let shared = Arc::new(self.shared(side, length, first, progress));
        let keeper = Arc::clone(&shared);
        let keeper = std::thread::Builder::new()
            .name("due".to_owned())
            .spawn(move || keeper.keep_time());
        let before = Spent::so_far(side.server);
        let (workers, beside) = (TaskTracker::new(), TaskTracker::new());
        let running: Vec<_> = (0..self.connections.get())
            .map(|number| workers.spawn(worker(Arc::clone(&shared), number)))
            .collect();
        workers.close();
        let probes = Probes::of(&side.work, shared.began, shared.until);
        let probing = probes.map(|probes| beside.spawn(probes.run()));
        self.watch(name, &shared, &workers, length).await;
        let mut tally = Tally {
            took: shared.began.elapsed().max(Duration::from_millis(1)),
            spent: Spent::so_far(side.server).since(before),
            ..Tally::default()
        };
        for did in running.into_iter().chain(probing) {
            if let Ok(did) = did.await {
                tally.add(&did);
            }
        }
        if let (Ok(keeper), Some(due)) = (keeper, &shared.due) {
            due.over.store(true, Ordering::Relaxed);
            keeper.thread().unpark();
            let _ = keeper.join();
        }
        (tally, shared.next.load(Ordering::Relaxed))
    }

    fn shared(&self, side: &Side, length: Duration, first: u64, progress: &Arc<Progress>) -> Shared {
        let began = Instant::now() + LEAD;
        let due = match self.rate {
            Rate::Max => None,
            Rate::Each(rate) => {
                let every = Duration::from_secs(1) / rate.get();
                let all = length.as_nanos().saturating_mul(u128::from(rate.get())) / 1_000_000_000;
                Some(Due {
                    places: Semaphore::new(0),
                    every,
                    all: u64::try_from(all).unwrap_or(u64::MAX),
                    over: AtomicBool::new(false),
                })
            }
        };
        Shared {
            work: Arc::clone(&side.work),
            progress: Arc::clone(progress),
            began,
            until: began + length,
            first,
            next: AtomicU64::new(0),
            due,
        }
    }

    /// Says how it goes once a second, until all is done.
    async fn watch(&self, name: &str, shared: &Shared, workers: &TaskTracker, length: Duration) {
        loop {
            tokio::select! {
                () = workers.wait() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            let waiting = shared
                .due
                .as_ref()
                .map_or(0, |due| due.places.available_permits());
            let elapsed = shared.began.elapsed();
            shared.progress.tell(name, elapsed, length, waiting);
        }
    }
}

async fn worker(shared: Arc<Shared>, connection: usize) -> Tally {
    let mut tally = Tally::default();
    while let Some((number, due)) = shared.next().await {
        tally.late.record(due.elapsed());
        let turn = shared.first + number;
        let well = shared.work.once(turn, connection, due, &mut tally).await;
        shared.progress.saw(due.elapsed(), well);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_that_can_be_timed_or_as_much_as_there_is() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("250".parse(), Ok(Rate::Each(NonZeroU32::new(250).unwrap())));
        for bad in ["0", "", "fast", "-1", "1000001"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_side_alone_is_asked_in_one_piece() {
        let load = Load {
            rate: Rate::Max,
            connections: NonZeroUsize::MIN,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(10),
            slice: Duration::from_secs(3),
        };
        assert_eq!(load.slices(1), 1);
        assert_eq!(load.slices(2), 3);
        let short = Load {
            duration: Duration::from_secs(1),
            ..load
        };
        assert_eq!(short.slices(2), 1);
    }
}
