//! The answers to requests with an Idempotency-Key.

use async_trait::async_trait;

use super::error::StoreError;
use crate::order::Timestamp;
use crate::principal::Principal;

/// How long a record is kept, in milliseconds: a day, as clients of such keys expect.
pub const RECORDS_KEPT_MS: u64 = 24 * 60 * 60 * 1_000;

/// Names a request that may be sent again: who sends it, and the key that they gave it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// Who sends it.
    pub principal: Principal,
    /// The Idempotency-Key, 1–255 characters.
    pub key: String,
}

/// What was answered to a request, kept for when it is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// A digest of what was asked.
    pub fingerprint: String,
    /// The HTTP status.
    pub status: u16,
    /// The header Location.
    pub location: Option<String>,
    /// The body, byte for byte.
    pub body: String,
}

/// Idempotency records by their keys.
#[async_trait(?Send)]
pub trait Idempotency {
    /// The records kept under `keys` at `since` or later, in the order of `keys`.
    async fn records(
        &self,
        keys: &[RequestKey],
        since: Timestamp,
    ) -> Result<Vec<Option<IdempotencyRecord>>, StoreError>;

    /// Keeps a record under each key, in the place of one that is older than [`RECORDS_KEPT_MS`]. All of it belongs in one
    /// transaction with what the records tell.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where a younger one is there: somebody else has answered a request under this key.
    async fn keep(&self, records: &[(RequestKey, IdempotencyRecord)], now: Timestamp) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_for_a_day() {
        assert_eq!(RECORDS_KEPT_MS, 86_400_000);
    }
}
