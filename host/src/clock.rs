//! The time that components see, and the one that triggers go by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};

/// Where the time comes from. Waiting, in the host and in components, always goes by tokio's time, so a test
/// that pauses it (`tokio::time::pause`) drives every wait as well.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's.
    System,
    /// A test's: it starts where the test says, runs with tokio's time, and jumps when it is told to.
    Test(Arc<TestClock>),
}

/// See [`Clock::Test`].
#[derive(Debug)]
pub struct TestClock {
    start: Instant,
    wall_at_start: Duration,
    jumped_ms: AtomicI64,
}

impl TestClock {
    /// A clock that shows `wall` (since the Unix epoch) now. Must be made inside the tokio runtime whose
    /// time it follows.
    pub fn starting_at(wall: Duration) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), wall_at_start: wall, jumped_ms: AtomicI64::new(0) })
    }

    /// Moves the wall clock by `millis`, forward or back, as an operator or NTP does. The monotonic clock
    /// stays as it is.
    pub fn jump(&self, millis: i64) {
        self.jumped_ms.fetch_add(millis, Ordering::Relaxed);
    }

    fn wall(&self) -> Duration {
        let jumped = self.jumped_ms.load(Ordering::Relaxed);
        let now = self.wall_at_start + self.start.elapsed();
        if jumped >= 0 {
            now + Duration::from_millis(jumped.unsigned_abs())
        } else {
            now.saturating_sub(Duration::from_millis(jumped.unsigned_abs()))
        }
    }
}

impl Clock {
    /// Time since the Unix epoch.
    pub fn wall(&self) -> Duration {
        match self {
            Self::System => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            Self::Test(clock) => clock.wall(),
        }
    }
}

/// What the components' WASI clocks show.
pub(crate) struct WasiClock {
    pub clock: Clock,
    pub start: Instant,
}

impl HostWallClock for WasiClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.clock.wall()
    }
}

impl HostMonotonicClock for WasiClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}
