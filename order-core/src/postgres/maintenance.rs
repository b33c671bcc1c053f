//! Removing what is no longer kept.

use async_trait::async_trait;

use super::changes::{count, scopes};
use super::connection::Pool;
use super::store::PostgresStore;
use crate::order::Timestamp;
use crate::store::{Maintenance, PRUNED_AT_ONCE, RECORDS_KEPT_MS, StoreError};

const PRUNE_RECORDS: &str = "DELETE FROM idempotency_keys
     WHERE (owner, caller, key) IN (
         SELECT owner, caller, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2
         FOR UPDATE SKIP LOCKED)
     RETURNING 1::int8";

// $1 is the moment, $2 the slot of the counters.
const PRUNE_ORDERS: &str = concat!(
    "WITH picked AS MATERIALIZED (
        SELECT number FROM orders WHERE finished_at < $1 ORDER BY finished_at LIMIT $3 FOR UPDATE SKIP LOCKED
    ), removed AS (
        DELETE FROM orders WHERE number IN (SELECT number FROM picked)
        RETURNING number, owner, status, created_at, started_at, finished_at
    ), events AS (
        DELETE FROM order_events WHERE order_number IN (SELECT number FROM removed)
    ), attempts AS (
        DELETE FROM order_attempts WHERE order_number IN (SELECT number FROM removed)
    ), ",
    count!(concat!(
        "SELECT scope, $2::int8, -count(*), 0, 0, -sum((status = 'Completed')::int), -sum((status = 'Failed')::int),
                -sum((status = 'Cancelled')::int),
                -sum(CASE WHEN status = 'Completed' THEN greatest(0, finished_at - started_at) ELSE 0 END),
                -sum(CASE WHEN status = 'Completed' THEN greatest(0, finished_at - created_at) ELSE 0 END)
         FROM removed, ",
        scopes!(),
        " WHERE true"
    )),
    " SELECT 1::int8 FROM removed"
);

#[async_trait(?Send)]
impl<P: Pool> Maintenance for PostgresStore<P> {
    async fn prune(&self, now: Timestamp, finished_before: Option<Timestamp>) -> Result<usize, StoreError> {
        let oldest = now.minus_millis(RECORDS_KEPT_MS);
        let mut pruned = self.execute(PRUNE_RECORDS, vec![oldest.into(), PRUNED_AT_ONCE.into()]).await?.len();
        if let Some(finished_before) = finished_before {
            let parameters = vec![finished_before.into(), self.slot().into(), PRUNED_AT_ONCE.into()];
            pruned += self.execute(PRUNE_ORDERS, parameters).await?.len();
        }
        Ok(pruned)
    }
}
