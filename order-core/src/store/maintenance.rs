//! Removing what is no longer kept.

use async_trait::async_trait;

use super::error::StoreError;
use crate::order::Timestamp;

/// How much is removed at once by [`Maintenance::prune`], in rows: some milliseconds of the database's time.
pub const PRUNED_AT_ONCE: u32 = 500;

/// What the store needs from time to time.
#[async_trait(?Send)]
pub trait Maintenance {
    /// Removes up to [`PRUNED_AT_ONCE`] idempotency records that are older than
    /// [`RECORDS_KEPT_MS`](super::idempotency::RECORDS_KEPT_MS) and, when `finished_before` is given, as many orders that
    /// reached a final status before it, with their history. Answers how much it removed.
    async fn prune(&self, now: Timestamp, finished_before: Option<Timestamp>) -> Result<usize, StoreError>;
}
