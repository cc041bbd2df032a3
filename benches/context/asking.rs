//! Agents that ask for credentials while something else goes on, and what that costs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::estate::{Estate, reading};

/// The tool that they ask for.
pub(crate) const ASKED: usize = 1;

/// Agents that ask, however long the answers take, and how long that was.
pub(crate) struct Asking {
    took: Arc<Mutex<Vec<Duration>>>,
    stop: CancellationToken,
    run: JoinHandle<()>,
}

impl Asking {
    pub(crate) async fn start(estate: &Arc<Estate>, rate: u32) -> Self {
        let (took, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
        let access = reading(ASKED);
        let agent = estate.caller("agents/support-bot-0").await;
        let task = estate.open(&agent, &access).await;
        let (kept, stopped, estate) = (Arc::clone(&took), stop.clone(), Arc::clone(estate));
        let run = tokio::spawn(async move {
            let mut clock = tokio::time::interval(Duration::from_secs(1) / rate);
            while !stopped.is_cancelled() {
                let planned = clock.tick().await.into_std();
                let (estate, agent, access, kept) = (
                    Arc::clone(&estate),
                    agent.clone(),
                    access.clone(),
                    Arc::clone(&kept),
                );
                tokio::spawn(async move {
                    // Who is refused asks again: a kill order is about what was asked for before it.
                    while estate.try_issue(&agent, task, &access).await.is_err() {}
                    kept.lock().unwrap().push(planned.elapsed());
                });
            }
        });
        Self { took, stop, run }
    }

    /// The median and the 99th percentile since this was asked last.
    pub(crate) fn since(&self) -> [Duration; 2] {
        let mut took = std::mem::take(&mut *self.took.lock().unwrap());
        took.sort_unstable();
        [50, 99].map(|part| took.get(took.len() * part / 100).copied().unwrap_or_default())
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.run.await.unwrap();
    }
}

/// CPU time of this process so far, all threads.
pub(crate) fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    let ticks = after_name.split_whitespace().skip(11).take(2);
    ticks
        .map(|ticks| Duration::from_millis(10 * ticks.parse::<u64>().unwrap()))
        .sum()
}
