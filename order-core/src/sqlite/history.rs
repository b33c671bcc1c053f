//! What happened to an order. Triggers write it in the statement that makes the change.

use async_trait::async_trait;

use super::connection::Connection;
use super::rows::{Columns, unexpected_row};
use super::store::SqliteStore;
use crate::order::{Attempt, AttemptEnd, Event};
use crate::principal::Owner;
use crate::store::{History, Orders as _, StoreError};

// The first event is the creation, which the order itself tells.
const SELECT_EVENTS: &str = "SELECT seq AS number, created_at, 'Pending', 0, NULL
     FROM orders WHERE owner = ?1 AND order_id = ?2
     UNION ALL
     SELECT number, at, status, attempt, reason FROM order_events
     WHERE seq = (SELECT seq FROM orders WHERE owner = ?1 AND order_id = ?2)
     ORDER BY number";

const SELECT_ATTEMPTS: &str = "SELECT number, started_at, ended_at, outcome, reason FROM order_attempts
     WHERE seq = (SELECT seq FROM orders WHERE owner = ?1 AND order_id = ?2) ORDER BY number";

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] =
    &[(SELECT_EVENTS, "order_events_of_order (seq=?)"), (SELECT_ATTEMPTS, "PRIMARY KEY (seq=?)")];

#[async_trait(?Send)]
impl<C: Connection> History for SqliteStore<C> {
    async fn events(&self, owner: &Owner, order_id: &str) -> Result<Option<Vec<Event>>, StoreError> {
        let rows = self.execute(SELECT_EVENTS, vec![owner.as_str().into(), order_id.into()]).await?;
        let event = |row| {
            let mut columns = Columns::of(row);
            Ok(Event {
                number: columns.event_number()?,
                at: columns.time()?,
                status: columns.status()?,
                attempt: columns.small()?,
                reason: columns.optional_text()?,
            })
        };
        let events = rows.into_iter().map(event).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }

    async fn attempts(&self, owner: &Owner, order_id: &str) -> Result<Option<Vec<Attempt>>, StoreError> {
        let rows = self.execute(SELECT_ATTEMPTS, vec![owner.as_str().into(), order_id.into()]).await?;
        if rows.is_empty() && self.find(owner, order_id).await?.is_none() {
            return Ok(None);
        }
        let attempt = |row| {
            let mut columns = Columns::of(row);
            Ok(Attempt {
                number: columns.small()?,
                started_at: columns.time()?,
                ended_at: columns.optional_time()?,
                end: columns
                    .optional_text()?
                    .map(|name| AttemptEnd::parse(&name).ok_or_else(unexpected_row))
                    .transpose()?,
                reason: columns.optional_text()?,
            })
        };
        rows.into_iter().map(attempt).collect::<Result<_, _>>().map(Some)
    }
}
