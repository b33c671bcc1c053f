//! How many orders may be unfinished before new ones are refused.

use std::cell::Cell;

use order_core::order::Timestamp;
use order_core::store::{Scope, Store, StoreError};
use runtime::clock;

/// How old the count may be, in milliseconds: a burst overshoots the limit by what comes in meanwhile, and counting
/// costs next to nothing.
const COUNTED_EVERY_MS: u64 = 250;

/// The limit, and the latest count.
pub struct Backlog {
    limit: u64,
    counted: Cell<Option<(Timestamp, u64)>>,
}

impl Backlog {
    /// Up to `limit` orders may be unfinished.
    pub fn new(limit: u64) -> Self {
        Self { limit, counted: Cell::new(None) }
    }

    /// Whether so many orders are unfinished that new ones are refused.
    pub async fn is_full(&self, store: &dyn Store) -> Result<bool, StoreError> {
        let now = clock::now();
        let fresh = self.counted.get().filter(|(at, _)| *at <= now && now.millis_since(*at) < COUNTED_EVERY_MS);
        let unfinished = match fresh {
            Some((_, unfinished)) => unfinished,
            None => {
                let unfinished = store.metrics(Scope::All).await?.unfinished();
                self.counted.set(Some((now, unfinished)));
                unfinished
            }
        };
        Ok(unfinished >= self.limit)
    }
}
