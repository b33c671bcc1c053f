//! How orders come in: the store first, so that the acknowledgement is true, then a wake-up for the worker.

use uuid::Builder;

use crate::order::{EventNumber, Id, Timestamp};
use crate::queue::{Announcements, QueueError};
use crate::store::{Acceptance, Orders, StoreError, Submission};

/// How long an accepted order waits for its message before a worker takes it up without one, in milliseconds:
/// longer than a message takes, short enough that a client hardly notices a queue that lost everything.
pub const UNANNOUNCED_AFTER_MS: u64 = 3_000;

/// A version 7 UUID (RFC 9562, section 5.7): identifiers made one after the other sort, and lie together in
/// the index of the store.
pub fn new_uuid(now: Timestamp, random: u128) -> String {
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    let random = random.to_be_bytes();
    let tail: [u8; 10] = random[..10].try_into().expect("16 bytes hold 10");
    Builder::from_unix_timestamp_millis(millis, &tail).into_uuid().to_string()
}

/// An identifier for an order whose client gave none.
pub fn new_order_id(now: Timestamp, random: u128) -> Id {
    Id::from_text(new_uuid(now, random)).expect("a UUID is an identifier")
}

/// Accepts `submissions`. When this returns, every one that it says was created is durable, or part of the caller's
/// transaction.
///
/// # Errors
/// Those of the store; nothing was accepted then.
pub async fn accept(
    orders: &(impl Orders + ?Sized),
    submissions: &[Submission<'_>],
    now: Timestamp,
) -> Result<Vec<Acceptance>, StoreError> {
    orders.accept(submissions, now, now.plus_millis(UNANNOUNCED_AFTER_MS)).await
}

/// Wakes a worker for what [`accept`] created, with one message. A failure is worth a line in the log and no
/// more: the worker finds the orders by itself after [`UNANNOUNCED_AFTER_MS`].
///
/// # Errors
/// The queue is not available.
pub async fn announce(
    queue: &impl Announcements,
    created: &[EventNumber],
    now: Timestamp,
    random: u128,
) -> Result<(), QueueError> {
    if created.is_empty() {
        return Ok(());
    }
    queue.announce(&new_uuid(now, random), created).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_identifiers_are_version_7_and_sort_by_time() {
        let first = new_uuid(Timestamp::from_millis(1_700_000_000_000), u128::MAX);
        let second = new_uuid(Timestamp::from_millis(1_700_000_000_001), 0);
        assert!(first < second);
        assert_eq!(first.as_bytes()[14], b'7');
        assert_eq!(first.len(), 36);
    }
}
