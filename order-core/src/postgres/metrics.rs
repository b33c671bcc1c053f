//! The counters: the sum of their slots.

use async_trait::async_trait;

use super::connection::Pool;
use super::rows::{Columns, unexpected_row};
use super::store::PostgresStore;
use crate::principal::NOBODY;
use crate::store::{Counters, Metrics, Scope, StoreError};

// What $2 counts is taken off.
const SELECT: &str = "SELECT json_build_array(
         coalesce(sum(sign * total), 0), coalesce(sum(sign * pending), 0), coalesce(sum(sign * processing), 0),
         coalesce(sum(sign * completed), 0), coalesce(sum(sign * failed), 0), coalesce(sum(sign * cancelled), 0),
         coalesce(sum(sign * processing_ms), 0), coalesce(sum(sign * completion_ms), 0))::text
     FROM order_counters, LATERAL (SELECT CASE WHEN owner = $1 THEN 1 ELSE -1 END AS sign) AS s
     WHERE owner IN ($1, $2)";

#[async_trait(?Send)]
impl<P: Pool> Counters for PostgresStore<P> {
    async fn metrics(&self, scope: Scope<'_>) -> Result<Metrics, StoreError> {
        let (counted, but_for) = match scope {
            Scope::All => ("", ""),
            // The row of all orders, and the row of those with an owner.
            Scope::Owner(owner) if *owner == NOBODY => ("", "*"),
            Scope::Owner(owner) => (owner.as_str(), owner.as_str()),
        };
        let row = self.execute(SELECT, vec![counted.into(), but_for.into()]).await?.pop().ok_or_else(unexpected_row)?;
        let [total, by_status @ .., processing_ms, completion_ms]: [u64; 8] = Columns::of(row).fields()?;
        Ok(Metrics { total, by_status, processing_ms, completion_ms })
    }
}
