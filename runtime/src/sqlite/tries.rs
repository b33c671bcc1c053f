//! How a statement is tried while the database is locked.

use std::time::{Duration, Instant};

/// How long SQLite itself waits for a lock: its first pauses, of 1, 2 and 4 ms.
pub const BUSY_TIMEOUT: &str = "PRAGMA busy_timeout = 7";
/// How long a statement is tried after the first try: the busy timeout that Spin and rusqlite set, which clients wait
/// out.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a try that ended at once: SQLite does not wait for every lock.
const PAUSE: Duration = Duration::from_millis(1);

/// The tries of one statement. The clock is read once the first has failed: nearly all succeed, and asking the host for
/// the time costs as much as some statements.
#[derive(Default)]
pub struct Tries {
    first: Option<Instant>,
    latest: Option<Instant>,
}

impl Tries {
    /// After a try that found the database locked: the pause before the next one, `None` when it was the last.
    pub fn pause(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        let ended_at_once = self.latest.replace(now).is_some_and(|began| now.duration_since(began) < PAUSE);
        (now.duration_since(first) < PATIENCE).then_some(if ended_at_once { PAUSE } else { Duration::ZERO })
    }
}
