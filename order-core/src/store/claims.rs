//! Orders in the hands of workers.

use async_trait::async_trait;

use super::error::StoreError;
use crate::lifecycle::Status;
use crate::order::{EventNumber, NewOrder, Timestamp};
use crate::principal::Owner;

/// An order in a worker's hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The order, by the number of its creation.
    pub order: EventNumber,
    /// Whose it is.
    pub owner: Owner,
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
pub enum Settlement {
    /// It is processed.
    Complete,
    /// The attempt goes on; no worker needs to look at it before `until`.
    Snooze {
        /// When to ask the processor again.
        until: Timestamp,
    },
    /// The attempt failed; the order is `Pending` until its next attempt.
    RetryLater {
        /// When the next attempt may start.
        at: Timestamp,
        /// Why this one failed.
        reason: String,
    },
    /// The attempt failed and no other follows.
    Fail {
        /// Why it failed.
        reason: String,
    },
}

impl Settlement {
    /// The order's status then, whether it is snoozed, when it is due, and why the attempt failed: the columns of every
    /// backend.
    pub(crate) fn columns(&self) -> (Status, bool, Option<Timestamp>, Option<&str>) {
        match self {
            Self::Complete => (Status::Completed, false, None, None),
            Self::Snooze { until } => (Status::Processing, true, Some(*until), None),
            Self::RetryLater { at, reason } => (Status::Pending, false, Some(*at), Some(reason)),
            Self::Fail { reason } => (Status::Failed, false, None, Some(reason)),
        }
    }
}

/// Which of the orders that are due are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Those that were started before: snoozed, or waiting for another attempt.
    Started,
    /// Those that were never started, because nothing announced them.
    Unannounced,
}

impl Due {
    /// The lane of these orders; see the column `lane` of the table of orders.
    pub(crate) fn lane(self) -> u32 {
        match self {
            Self::Unannounced => 0,
            Self::Started => 1,
        }
    }
}

/// How the loss of a lease is told: in the reason of the attempt that lost it. Which of these it was, nobody is left
/// to say.
pub const LEASE_LOST: &str = "the worker did not report before its lease ended: the processor brought it down (a trap), \
     did not return in time, or the host was stopped; if there was a trap, it is in the log of order-worker";

/// The operations of workers. An attempt has one owner: the worker that claimed it last.
#[async_trait(?Send)]
pub trait Claims {
    /// Starts the first attempt of each of `orders` that waits for it, with a lease until `lease_until`. Those that
    /// are unknown, taken or past their first attempt are passed over.
    async fn claim(
        &self,
        orders: &[EventNumber],
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Vec<Claim>, StoreError>;

    /// Takes up to `limit` orders that are due by `now`, longest due first, with a lease until `lease_until`: snoozed
    /// ones go on with their attempt, all others start a new one. Orders for [`Self::claim_quarantined`] are passed
    /// over.
    async fn claim_due(
        &self,
        due: Due,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Claim>, StoreError>;

    /// Takes the one order that is longest due of those that may have brought a worker down: one whose lease
    /// ran out starts a new attempt, if it has one left of `max_attempts`, and one whose attempt follows such
    /// a loss goes on with it. Takes none while workers hold `at_once` of them.
    async fn claim_quarantined(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        max_attempts: u32,
        at_once: u32,
    ) -> Result<Option<Claim>, StoreError>;

    /// Fails up to a hundred orders whose lease ran out on their last allowed attempt. Answers how many.
    async fn fail_exhausted(&self, now: Timestamp, max_attempts: u32) -> Result<usize, StoreError>;

    /// Carries out each settlement whose claim still holds: the order is `Processing`, not snoozed, and no later
    /// attempt was started. Answers how many held.
    async fn settle(&self, settlements: &[(&Claim, Settlement)], now: Timestamp) -> Result<usize, StoreError>;

    /// How many orders workers hand to the processor at once, as [`Self::keep_batch_size`] was last told.
    async fn batch_size(&self) -> Result<Option<u32>, StoreError>;

    /// Remembers how many orders workers hand to the processor at once, 1 or more.
    async fn keep_batch_size(&self, size: u32) -> Result<(), StoreError>;
}
