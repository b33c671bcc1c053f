//! Time and randomness.

use std::time::{Duration, SystemTime};

use order_core::order::Timestamp;
use order_core::worker::Clock;

/// The host's wall clock.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(since_epoch.as_millis() as i64)
}

/// 64 random bits.
///
/// # Panics
/// Where the host has no randomness, which WASI does not provide for.
pub fn random() -> u64 {
    getrandom::u64().expect("the host has randomness")
}

/// 128 random bits.
pub fn random_128() -> u128 {
    u128::from(random()) << 64 | u128::from(random())
}

/// The host's clock, sleep and randomness, for the worker.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        now()
    }

    fn sleep_ms(&self, millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
    }

    fn random(&self) -> u64 {
        random()
    }
}
