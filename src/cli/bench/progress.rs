//! How it goes, once a second, where a person is looking.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::report::short;
use super::tally::Times;
use crate::cli::terminal::Terminal;

/// What happened since it was told last.
#[derive(Default)]
struct Seen {
    took: Times,
    failed: u64,
}

/// Where it goes. Where nobody looks, nothing is kept.
pub(super) struct Progress {
    terminal: Terminal,
    watched: bool,
    seen: Mutex<Seen>,
}

impl Progress {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self {
            terminal,
            watched: terminal.is_watched(),
            seen: Mutex::default(),
        }
    }

    /// Something was answered, well or not.
    pub(super) fn saw(&self, took: Duration, well: bool) {
        if !self.watched {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.took.record(took);
        seen.failed += u64::from(!well);
    }

    /// Says what happened within the last second, in place of what it said before. `what` goes on, and so many wait.
    pub(super) fn tell(&self, what: &str, elapsed: Duration, of: Duration, waiting: usize) {
        if !self.watched {
            return;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!(
            "{what} {}s of {}s: {} in the last second, {} (p50), {} (p99), {} failed, {waiting} wait",
            elapsed.as_secs(),
            of.as_secs(),
            seen.took.count(),
            short(seen.took.percentile(50.0)),
            short(seen.took.percentile(99.0)),
            seen.failed,
        );
        seen.took.clear();
        seen.failed = 0;
        drop(seen);
        // Nobody to tell is no reason to stop.
        let _ = self.terminal.progress(&line);
    }

    /// Leaves nothing of it on the screen.
    pub(super) fn end(&self) {
        if self.watched {
            let _ = self.terminal.progress("");
        }
    }
}
