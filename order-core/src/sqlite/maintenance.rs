//! Removing what is no longer kept.

use async_trait::async_trait;

use super::connection::Connection;
use super::store::SqliteStore;
use crate::order::Timestamp;
use crate::store::{Maintenance, PRUNED_AT_ONCE, RECORDS_KEPT_MS, StoreError};

const PRUNE_RECORDS: &str = "DELETE FROM idempotency_keys
     WHERE (owner, caller, key) IN (
         SELECT owner, caller, key FROM idempotency_keys WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)
     RETURNING 1";

const PRUNE_ORDERS: &str = "DELETE FROM orders
     WHERE seq IN (SELECT seq FROM orders WHERE finished_at < ?1 ORDER BY finished_at LIMIT ?2)
     RETURNING 1";

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] =
    &[(PRUNE_RECORDS, "idempotency_keys_created (created_at<?)"), (PRUNE_ORDERS, "orders_finished (finished_at<?)")];

#[async_trait(?Send)]
impl<C: Connection> Maintenance for SqliteStore<C> {
    async fn prune(&self, now: Timestamp, finished_before: Option<Timestamp>) -> Result<usize, StoreError> {
        let oldest = now.minus_millis(RECORDS_KEPT_MS);
        let mut pruned = self.execute(PRUNE_RECORDS, vec![oldest.into(), PRUNED_AT_ONCE.into()]).await?.len();
        if let Some(finished_before) = finished_before {
            pruned += self.execute(PRUNE_ORDERS, vec![finished_before.into(), PRUNED_AT_ONCE.into()]).await?.len();
        }
        Ok(pruned)
    }
}
