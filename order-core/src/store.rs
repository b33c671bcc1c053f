//! The seam to the database: what the rest of the service asks of the place where orders are kept.
//!
//! The SQLite backend is in [`crate::sqlite`]. Another database is another implementation of [`OrderStore`];
//! `store_suite` (feature `store-suite`) says what any of them must do.

use std::borrow::Borrow;

use crate::lifecycle::Status;
use crate::order::{Attempt, Event, NewOrder, Order, Timestamp};

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
    /// Its identifier is taken, and the store failed before it could tell by what. Nothing was changed.
    Undecided(StoreError),
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
    /// How many attempts were started since intake or since the last retry by hand, this one included: what
    /// the limit counts.
    pub tries: u32,
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

/// What became of a client's wish to change an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is done; this is how the order stands.
    Done(Order),
    /// The order's status does not allow it.
    NotAllowed(Status),
    /// There is no such order.
    NotFound,
}

/// Which failed orders are meant. Nothing given means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Those with one of these identifiers.
    pub order_ids: Option<Vec<String>>,
    /// Those of this user.
    pub user_id: Option<String>,
    /// Those that failed at this moment or later.
    pub failed_from: Option<Timestamp>,
    /// Those that failed before this moment.
    pub failed_before: Option<Timestamp>,
}

/// A place in the list of failed orders: behind the order that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterCursor {
    /// When that order failed.
    pub failed_at: Timestamp,
    /// The store's own name for it.
    pub seq: i64,
}

impl DeadLetterCursor {
    /// Reads what [`Display`](std::fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (failed_at, seq) = text.split_once('.')?;
        Some(Self { failed_at: Timestamp::from_millis(failed_at.parse().ok()?), seq: seq.parse().ok()? })
    }
}

impl std::fmt::Display for DeadLetterCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.failed_at.as_millis(), self.seq)
    }
}

/// A page of the list of failed orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// The orders, in the order in which they failed.
    pub orders: Vec<Order>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<DeadLetterCursor>,
}

/// Names a request that may be sent again: who sent it, and the key that they gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// A digest of who sent it.
    pub caller: String,
    /// The Idempotency-Key, 1–255 characters.
    pub key: String,
}

/// The answer to a request, kept for when it is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// A digest of what was asked.
    pub fingerprint: String,
    /// The HTTP status.
    pub status: u16,
    /// The header Location.
    pub location: Option<String>,
    /// The body, byte for byte.
    pub body: String,
}

/// How long an answer is kept, in milliseconds: a day, as clients of such keys expect.
pub const ANSWERS_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// How much is removed at once by [`OrderStore::prune`], in rows: some milliseconds of the database's time.
pub const PRUNED_AT_ONCE: u32 = 500;

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
        orders: &[impl Borrow<NewOrder>],
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
    /// parked ones go on with their attempt, those that were never announced or wait for a retry start a new
    /// one. Orders for [`Self::claim_suspect`] are passed over.
    async fn claim_due(&self, now: Timestamp, lease_until: Timestamp, limit: u32) -> Result<Vec<Claim>, StoreError>;

    /// Takes the one order that is longest due of those that may have brought a worker down: one whose lease
    /// ran out starts a new attempt, if it has one left of `max_attempts`, and one whose attempt follows such
    /// a loss goes on with it.
    async fn claim_suspect(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        max_attempts: u32,
    ) -> Result<Option<Claim>, StoreError>;

    /// Fails up to a hundred orders whose lease ran out on their last allowed attempt. Answers how many.
    async fn fail_exhausted(&self, now: Timestamp, max_attempts: u32) -> Result<usize, StoreError>;

    /// Carries out each verdict whose claim still holds: the order is `Processing`, not parked, and no later
    /// attempt was started. Answers how many held.
    async fn settle(&self, verdicts: &[(&Claim, Verdict)], now: Timestamp) -> Result<usize, StoreError>;

    /// Calls an order off that is `Pending`.
    async fn cancel(&self, order_id: &str, now: Timestamp) -> Result<Change, StoreError>;

    /// Has an order tried again that is `Failed`: it is `Pending` and due, and its attempts count anew.
    async fn retry(&self, order_id: &str, now: Timestamp) -> Result<Change, StoreError>;

    /// Does to up to `limit` failed orders what [`Self::retry`] does to one, those first that failed first.
    /// Answers how many.
    async fn retry_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        now: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError>;

    /// Up to `limit` failed orders in the order in which they failed, from behind `after`.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<DeadLetters, StoreError>;

    /// An order's events, oldest first; `None` when there is no such order.
    async fn events(&self, order_id: &str) -> Result<Option<Vec<Event>>, StoreError>;

    /// An order's attempts, oldest first; `None` when there is no such order.
    async fn attempts(&self, order_id: &str) -> Result<Option<Vec<Attempt>>, StoreError>;

    /// Begins a transaction that takes in every operation until [`Self::commit`] or [`Self::rollback`]. The
    /// caller must be the only one who uses this store.
    async fn begin(&self) -> Result<(), StoreError>;

    /// Makes durable what was done since [`Self::begin`]. After an error it may be durable or not.
    async fn commit(&self) -> Result<(), StoreError>;

    /// Undoes what was done since [`Self::begin`].
    async fn rollback(&self) -> Result<(), StoreError>;

    /// The answers kept under `keys` at `since` or later, in the order of `keys`.
    async fn kept_answers(&self, keys: &[RequestKey], since: Timestamp) -> Result<Vec<Option<KeptAnswer>>, StoreError>;

    /// Keeps an answer under each key, in the place of one that is there.
    async fn keep_answers(&self, answers: &[(RequestKey, KeptAnswer)], now: Timestamp) -> Result<(), StoreError>;

    /// Removes up to [`PRUNED_AT_ONCE`] answers that are older than [`ANSWERS_KEPT_MS`] and, when
    /// `finished_before` is given, as many orders that reached a final status before it, with their history.
    async fn prune(&self, now: Timestamp, finished_before: Option<Timestamp>) -> Result<usize, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        let cursor = DeadLetterCursor { failed_at: Timestamp::from_millis(-5), seq: 7 };
        assert_eq!(cursor.to_string(), "-5.7");
        assert_eq!(DeadLetterCursor::parse("-5.7"), Some(cursor));
        for text in ["", "5", "5.", ".5", "5.x", "5.6.7"] {
            assert_eq!(DeadLetterCursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn averages_are_over_completed_orders_in_seconds() {
        let metrics = Metrics { total: 5, by_status: [1, 1, 2, 1, 0], processing_ms: 3_001, completion_ms: 5_000 };
        assert_eq!((metrics.average_processing_seconds(), metrics.average_completion_seconds()), (1.501, 2.5));
        assert_eq!(Metrics::default().average_processing_seconds(), 0.0);
    }

    #[test]
    fn answers_are_kept_for_a_day() {
        assert_eq!(ANSWERS_KEPT_MS, 86_400_000);
    }
}
