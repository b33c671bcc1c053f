//! What happened to an order: written by the statement that makes the change.

use async_trait::async_trait;

use super::connection::Pool;
use super::rows::{Columns, unexpected_row};
use super::store::PostgresStore;
use crate::lifecycle::Status;
use crate::order::{Attempt, AttemptEnd, Event, EventNumber, Timestamp};
use crate::principal::Owner;
use crate::store::{History, StoreError};

// The first event is the creation, which the order itself tells.
const SELECT_EVENTS: &str = "SELECT json_build_array(number, at, status, attempt, reason)::text FROM (
         SELECT number, created_at AS at, 'Pending' AS status, 0 AS attempt, NULL AS reason
         FROM orders WHERE owner = $1 AND order_id = $2
         UNION ALL
         SELECT e.number, e.at, e.status, e.attempt, e.reason
         FROM orders o JOIN order_events e ON e.order_number = o.number WHERE o.owner = $1 AND o.order_id = $2
     ) AS events ORDER BY number";

// The attempt that is under way is told by the order. The row of nulls says that there is an order.
const SELECT_ATTEMPTS: &str = "SELECT json_build_array(number, started_at, ended_at, outcome, reason)::text FROM (
         SELECT 0 AS number, NULL::int8 AS started_at, NULL::int8 AS ended_at, NULL AS outcome, NULL AS reason
         FROM orders WHERE owner = $1 AND order_id = $2
         UNION ALL
         SELECT a.number, a.started_at, a.ended_at, a.outcome, a.reason
         FROM orders o JOIN order_attempts a ON a.order_number = o.number WHERE o.owner = $1 AND o.order_id = $2
         UNION ALL
         SELECT attempts, started_at, NULL, NULL, NULL
         FROM orders WHERE owner = $1 AND order_id = $2 AND status = 'Processing'
     ) AS attempts ORDER BY number";

#[async_trait(?Send)]
impl<P: Pool> History for PostgresStore<P> {
    async fn events(&self, owner: &Owner, order_id: &str) -> Result<Option<Vec<Event>>, StoreError> {
        let rows = self.execute(SELECT_EVENTS, vec![owner.as_str().into(), order_id.into()]).await?;
        let event = |row| {
            let (number, at, status, attempt, reason): (i64, i64, String, u32, Option<String>) =
                Columns::of(row).fields()?;
            Ok(Event {
                number: EventNumber(number),
                at: Timestamp::from_millis(at),
                status: Status::parse(&status).ok_or_else(unexpected_row)?,
                attempt,
                reason,
            })
        };
        let events = rows.into_iter().map(event).collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }

    async fn attempts(&self, owner: &Owner, order_id: &str) -> Result<Option<Vec<Attempt>>, StoreError> {
        type Fields = (u32, Option<i64>, Option<i64>, Option<String>, Option<String>);
        let rows = self.execute(SELECT_ATTEMPTS, vec![owner.as_str().into(), order_id.into()]).await?;
        let attempt = |row| {
            let (number, started_at, ended_at, end, reason): Fields = Columns::of(row).fields()?;
            Ok(Attempt {
                number,
                started_at: started_at.map(Timestamp::from_millis).ok_or_else(unexpected_row)?,
                ended_at: ended_at.map(Timestamp::from_millis),
                end: end.map(|name| AttemptEnd::parse(&name).ok_or_else(unexpected_row)).transpose()?,
                reason,
            })
        };
        let mut rows = rows.into_iter();
        match rows.next() {
            Some(_) => rows.map(attempt).collect::<Result<_, _>>().map(Some),
            None => Ok(None),
        }
    }
}
