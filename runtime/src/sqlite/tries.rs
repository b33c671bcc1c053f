//! How a statement is tried while the database is locked.

use std::time::{Duration, Instant};

use crate::clock;

/// How long SQLite itself waits for a lock: its first pauses, of 1, 2 and 4 ms.
pub const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 7";
/// How many tries follow one another at once: a short queue of writers is gone by then.
const EAGER_TRIES: u32 = 3;
/// The longest pause between two tries after that; the shortest is none. It does not grow, so that those who have waited
/// long come no later than those who have just begun to; and it leaves the processors to whoever has the lock.
const MAX_PAUSE: Duration = Duration::from_millis(20);
/// The least pause after a try that ended at once: SQLite does not wait for every lock.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// The tries of one statement. The clock is read once the first has failed: nearly all succeed, and asking the host for
/// the time costs as much as some statements.
pub struct Tries {
    patience: Duration,
    first: Option<Instant>,
    latest: Option<Instant>,
    count: u32,
}

impl Tries {
    /// None yet. After `patience` from the first try there is no other.
    pub fn within(patience: Duration) -> Self {
        Self { patience, first: None, latest: None, count: 0 }
    }

    /// After a try that found the database locked: the pause before the next one, `None` when it was the last.
    pub fn pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        if now.duration_since(first) >= self.patience {
            return None;
        }
        let ended_at_once = self.latest.replace(now).is_some_and(|began| now.duration_since(began) < MIN_PAUSE);
        self.count += 1;
        let by_chance = match self.count > EAGER_TRIES {
            true => MAX_PAUSE.mul_f64(clock::random() as f64 / u64::MAX as f64),
            false => Duration::ZERO,
        };
        Some(by_chance.max(if ended_at_once { MIN_PAUSE } else { Duration::ZERO }))
    }
}
