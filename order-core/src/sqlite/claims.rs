//! Orders in the hands of workers.

use async_trait::async_trait;

use super::connection::{Connection, Row};
use super::rows::{Columns, content_columns, list};
use super::store::SqliteStore;
use crate::order::{EventNumber, Timestamp};
use crate::store::{Claim, Claims, Due, LEASE_LOST, Settlement, StoreError};

/// The columns of [`claims_of`].
macro_rules! claim_columns {
    () => {
        concat!("seq, attempts, attempts - attempts_forgiven, started_at, ", content_columns!())
    };
}

/// The order that [`Claims::claim_quarantined`] would take at ?1, with ?2 as the limit of attempts.
macro_rules! next_quarantined {
    () => {
        "SELECT seq FROM (
             SELECT * FROM (SELECT seq, due_at FROM orders
                            WHERE lane = 2 AND due_at <= ?1 AND attempts - attempts_forgiven < ?2 ORDER BY due_at LIMIT 1)
             UNION ALL
             SELECT * FROM (SELECT seq, due_at FROM orders
                            WHERE lane = 4 AND due_at <= ?1 AND attempts - attempts_forgiven < ?2 ORDER BY due_at LIMIT 1)
             UNION ALL
             SELECT * FROM (SELECT seq, due_at FROM orders WHERE lane = 3 AND due_at <= ?1 ORDER BY due_at LIMIT 1))
         ORDER BY due_at LIMIT 1"
    };
}

const CLAIM: &str = concat!(
    "UPDATE orders SET status = 'Processing', attempts = 1, started_at = ?2, changed_at = ?2, due_at = ?3
     WHERE seq IN (SELECT value FROM json_each(?1)) AND status = 'Pending' AND attempts = 0
     RETURNING ",
    claim_columns!()
);

const SELECT_DUE: &str = "SELECT 1 FROM orders WHERE lane = ?2 AND due_at <= ?1 LIMIT 1";

// A snoozed order goes on with its attempt; for every other one a new attempt starts. The expressions see
// the row as it was before the update.
const CLAIM_DUE: &str = concat!(
    "UPDATE orders
     SET status = 'Processing', attempts = attempts + (snoozed = 0), started_at = iif(snoozed = 1, started_at, ?1),
         changed_at = iif(snoozed = 1, changed_at, ?1), snoozed = 0, due_at = ?3
     WHERE seq IN (SELECT seq FROM orders WHERE lane = ?2 AND due_at <= ?1 ORDER BY due_at LIMIT ?4)
     RETURNING ",
    claim_columns!()
);

const SELECT_QUARANTINED: &str = next_quarantined!();

const CLAIM_QUARANTINED: &str = concat!(
    "UPDATE orders
     SET quarantined = 1, attempts = attempts + (snoozed = 0), started_at = iif(snoozed = 1, started_at, ?1),
         failure_kind = iif(snoozed = 1, failure_kind, 'LeaseLost'), failure = iif(snoozed = 1, failure, ?5),
         changed_at = iif(snoozed = 1, changed_at, ?1), snoozed = 0, due_at = ?3
     WHERE seq = (",
    next_quarantined!(),
    ") AND (SELECT count(*) FROM (SELECT 1 FROM orders WHERE lane = 4 AND due_at > ?1 LIMIT ?4)) < ?4
     RETURNING ",
    claim_columns!()
);

const FAIL_EXHAUSTED: &str = "UPDATE orders
     SET status = 'Failed', finished_at = ?1, changed_at = ?1, due_at = NULL, quarantined = 0,
         failure_kind = 'LeaseLost', failure = ?3
     WHERE seq IN (
         SELECT seq FROM orders
         WHERE lane IN (2, 4) AND due_at <= ?1 AND attempts - attempts_forgiven >= ?2 LIMIT 100)
     RETURNING seq";

const SETTLE: &str = "UPDATE orders
     SET status = settled.status, snoozed = settled.snoozed, due_at = settled.due_at,
         quarantined = iif(settled.snoozed = 1, quarantined, 0), changed_at = iif(settled.snoozed = 1, changed_at, ?2),
         failure_kind = CASE WHEN settled.snoozed = 1 THEN orders.failure_kind WHEN settled.failure IS NULL THEN NULL
                             ELSE 'Failed' END,
         failure = iif(settled.snoozed = 1, orders.failure, settled.failure),
         finished_at = iif(settled.status IN ('Completed', 'Failed'), ?2, NULL)
     FROM (SELECT value ->> 0 AS seq, value ->> 1 AS attempt, value ->> 2 AS status, value ->> 3 AS snoozed,
                  value ->> 4 AS due_at, value ->> 5 AS failure FROM json_each(?1)) AS settled
     WHERE orders.seq = settled.seq AND orders.attempts = settled.attempt
       AND orders.status = 'Processing' AND orders.snoozed = 0
     RETURNING orders.seq";

const SELECT_BATCH_SIZE: &str = "SELECT batch_size FROM worker_pace WHERE id = 1";

const KEEP_BATCH_SIZE: &str = "INSERT OR REPLACE INTO worker_pace (id, batch_size) VALUES (1, ?1)";

#[cfg(test)]
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    (CLAIM, "INTEGER PRIMARY KEY (rowid=?)"),
    (SELECT_DUE, "orders_due (lane=? AND due_at<?)"),
    (CLAIM_DUE, "orders_due (lane=? AND due_at<?)"),
    (SELECT_QUARANTINED, "orders_due (lane=? AND due_at<?)"),
    (CLAIM_QUARANTINED, "orders_due (lane=? AND due_at>?)"),
    (FAIL_EXHAUSTED, "orders_due (lane=? AND due_at<?)"),
    (SETTLE, "INTEGER PRIMARY KEY (rowid=?)"),
];

#[async_trait(?Send)]
impl<C: Connection> Claims for SqliteStore<C> {
    async fn claim(
        &self,
        orders: &[EventNumber],
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        let numbers: Vec<i64> = orders.iter().map(|order| order.0).collect();
        let parameters = vec![list(&numbers), now.into(), lease_until.into()];
        claims_of(self.execute(CLAIM, parameters).await?)
    }

    async fn claim_due(
        &self,
        due: Due,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Claim>, StoreError> {
        // A look that finds nothing, as it does many times a second in an idle system, takes no lock.
        if self.execute(SELECT_DUE, vec![now.into(), due.lane().into()]).await?.is_empty() {
            return Ok(Vec::new());
        }
        let parameters = vec![now.into(), due.lane().into(), lease_until.into(), limit.into()];
        claims_of(self.execute(CLAIM_DUE, parameters).await?)
    }

    async fn claim_quarantined(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        max_attempts: u32,
        at_once: u32,
    ) -> Result<Option<Claim>, StoreError> {
        if self.execute(SELECT_QUARANTINED, vec![now.into(), max_attempts.into()]).await?.is_empty() {
            return Ok(None);
        }
        let parameters = vec![now.into(), max_attempts.into(), lease_until.into(), at_once.into(), LEASE_LOST.into()];
        Ok(claims_of(self.execute(CLAIM_QUARANTINED, parameters).await?)?.pop())
    }

    async fn fail_exhausted(&self, now: Timestamp, max_attempts: u32) -> Result<usize, StoreError> {
        let parameters = vec![now.into(), max_attempts.into(), LEASE_LOST.into()];
        Ok(self.execute(FAIL_EXHAUSTED, parameters).await?.len())
    }

    async fn settle(&self, settlements: &[(&Claim, Settlement)], now: Timestamp) -> Result<usize, StoreError> {
        let rows: Vec<_> = settlements
            .iter()
            .map(|(claim, settlement)| {
                let (status, is_snoozed, due_at, failure) = settlement.columns();
                let due_at = due_at.map(Timestamp::as_millis);
                (claim.order.0, claim.attempt, status.as_str(), u8::from(is_snoozed), due_at, failure)
            })
            .collect();
        Ok(self.execute(SETTLE, vec![list(&rows), now.into()]).await?.len())
    }

    async fn batch_size(&self) -> Result<Option<u32>, StoreError> {
        let row = self.execute(SELECT_BATCH_SIZE, vec![]).await?.pop();
        row.map(|row| Columns::of(row).small()).transpose()
    }

    async fn keep_batch_size(&self, size: u32) -> Result<(), StoreError> {
        self.execute(KEEP_BATCH_SIZE, vec![size.into()]).await.map(drop)
    }
}

fn claims_of(rows: Vec<Row>) -> Result<Vec<Claim>, StoreError> {
    let claim = |row| {
        let mut columns = Columns::of(row);
        let (order, attempt, tries) = (columns.event_number()?, columns.small()?, columns.small()?);
        let started_at = columns.time()?;
        let (owner, content) = columns.content()?;
        Ok(Claim { order, owner, content, attempt, tries, started_at })
    };
    rows.into_iter().map(claim).collect()
}
