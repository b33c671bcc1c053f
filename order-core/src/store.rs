//! The seam to the database: what the rest of the service asks of the place where orders are kept.
//!
//! The SQLite backend is in [`crate::sqlite`]. Another database is another implementation of [`OrderStore`];
//! `store_suite` (feature `store-suite`) says what any of them must do.

use crate::lifecycle::Status;
use crate::order::{NewOrder, Order, Timestamp};

/// Why the store could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another connection holds the lock of the database. Nothing was changed.
    #[error("the database is locked")]
    Busy,
    /// The database cannot do it now and may later: it is full, read-only, or out of reach.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The database is damaged, of another version, or not what this code expects; waiting will not help.
    #[error("the database is broken: {0}")]
    Broken(String),
}

/// What became of an order that was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is new and now durable.
    Created(Order),
    /// It was accepted before with the same content; this is how it stands.
    Existing(Order),
    /// Its identifier belongs to an order with other content.
    Conflict,
}

/// An order in a worker's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The store's own name for the order.
    pub seq: i64,
    /// What is to be processed.
    pub content: NewOrder,
    /// The number of this attempt, 1 for the first. It is the fencing token: only the worker that holds the
    /// latest attempt can change the order.
    pub attempt: u32,
    /// When this attempt started.
    pub started_at: Timestamp,
}

/// What is to become of a claimed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is processed.
    Complete,
    /// The attempt goes on; no worker needs to look at it before `due_at`.
    Park {
        /// When to ask the processor again.
        due_at: Timestamp,
    },
    /// The attempt failed; the order is `Pending` until its next attempt.
    RetryLater {
        /// When the next attempt may start.
        due_at: Timestamp,
        /// Why this one failed.
        reason: String,
    },
    /// The attempt failed and no other follows.
    Fail {
        /// Why it failed.
        reason: String,
    },
}

/// The counters, all read at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Orders ever accepted and still kept.
    pub total: u64,
    /// Orders per status, in the order of [`Status::ALL`].
    pub by_status: [u64; Status::ALL.len()],
    /// The sum over completed orders of the time from the start of the last attempt, in milliseconds.
    pub processing_ms: u64,
    /// The sum over completed orders of the time from intake, in milliseconds.
    pub completion_ms: u64,
}

impl Metrics {
    /// How many orders have `status`.
    pub fn count(&self, status: Status) -> u64 {
        self.by_status[status as usize]
    }

    /// Average seconds from the start of the last attempt to completion; 0 while nothing is completed.
    pub fn average_processing_seconds(&self) -> f64 {
        self.per_completed(self.processing_ms)
    }

    /// Average seconds from intake to completion; 0 while nothing is completed.
    pub fn average_completion_seconds(&self) -> f64 {
        self.per_completed(self.completion_ms)
    }

    /// Rounded to whole milliseconds, the precision of the clock behind it.
    fn per_completed(&self, total_ms: u64) -> f64 {
        let completed = self.count(Status::Completed).max(1);
        (total_ms as f64 / completed as f64).round() / 1_000.0
    }
}

/// Where orders are kept. Every operation is one atomic change that is durable when it returns.
pub trait OrderStore {
    /// Keeps each of `orders` that is new, as `Pending`, created at `now` and due for a worker at `due_at`
    /// even if no message announces it. The answers stand in the order of `orders`; of two orders with one
    /// identifier in the same call the first is the new one.
    async fn accept(
        &self,
        orders: &[NewOrder],
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<Vec<Acceptance>, StoreError>;

    /// The order with this identifier.
    async fn find(&self, order_id: &str) -> Result<Option<Order>, StoreError>;

    /// The counters.
    async fn metrics(&self) -> Result<Metrics, StoreError>;

    /// Starts the first attempt of each order in `order_ids` that waits for it, with a lease until `lease_until`.
    /// Identifiers of orders that are unknown, taken or past their first attempt are passed over.
    async fn claim(
        &self,
        order_ids: &[String],
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Vec<Claim>, StoreError>;

    /// Takes up to `limit` orders that are due by `now`, longest due first, with a lease until `lease_until`:
    /// parked ones go on with their attempt, all others (never announced, due for a retry, or with a lease
    /// that ran out) start a new one.
    async fn claim_due(&self, now: Timestamp, lease_until: Timestamp, limit: u32) -> Result<Vec<Claim>, StoreError>;

    /// Carries out each verdict whose claim still holds: the order is `Processing`, not parked, and no later
    /// attempt was started. Answers how many held.
    async fn settle(&self, verdicts: &[(&Claim, Verdict)], now: Timestamp) -> Result<usize, StoreError>;
}
