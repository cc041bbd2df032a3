//! Floor 1: when a group commit waits for more to come.
//!
//! A flush to disk costs the processor as much for one record as for fifty. A writer that flushes
//! whatever is there as soon as it can makes many small groups of the same crowd; one that waits a
//! moment first makes half as many. It waits only when the group before was a crowd already: whoever
//! comes alone never waits for company.

use std::time::Duration;

/// A group of this many is a crowd.
const CROWD: usize = 4;
/// How long the next may gather: about as long as a flush takes.
const GATHERING: Duration = Duration::from_micros(500);

/// What a writer knows of those who come.
#[derive(Debug, Default)]
pub struct Crowd {
    last: usize,
}

impl Crowd {
    /// Notes how many came together.
    pub fn came(&mut self, together: usize) {
        self.last = together;
    }

    /// How long the next group may gather.
    pub fn gathers(&self) -> Duration {
        if self.last < CROWD {
            Duration::ZERO
        } else {
            GATHERING
        }
    }

    /// Blocks the thread, which has to be the writer's own, while the next group gathers.
    pub fn wait(&self) {
        let moment = self.gathers();
        if !moment.is_zero() {
            #[expect(clippy::disallowed_methods, reason = "the thread is the writer's own")]
            std::thread::sleep(moment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_crowd_is_waited_for() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.gathers(), Duration::ZERO, "nobody came yet");
        crowd.came(CROWD);
        assert_eq!(crowd.gathers(), GATHERING);
        crowd.came(CROWD - 1);
        assert_eq!(crowd.gathers(), Duration::ZERO, "the crowd is gone");
    }
}
