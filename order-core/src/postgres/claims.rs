//! Orders in the hands of workers.

use async_trait::async_trait;

use super::changes::change;
use super::connection::{Pool, Row, Value};
use super::rows::{Columns, ContentFields, content_fields};
use super::store::PostgresStore;
use crate::order::{EventNumber, Timestamp};
use crate::store::{Claim, Claims, Due, LEASE_LOST, Settlement, StoreError};

/// The columns of [`claims_of`].
macro_rules! claim_columns {
    () => {
        concat!(
            "json_build_array(number, attempts, attempts - attempts_forgiven, started_at, ",
            content_fields!(),
            ")::text, item_ids"
        )
    };
}

// A message is heard by one worker, and the order may be due for another one at the same time: whoever has it locked
// takes it.
const CLAIM: &str = change! {
    picked: "orders o WHERE o.number = ANY ($5::int8[]) AND o.status = 'Pending' AND o.attempts = 0
             ORDER BY o.number FOR UPDATE SKIP LOCKED",
    more: "",
    set: "status = 'Processing', attempts = 1, started_at = $3::int8, changed_at = $3::int8, due_at = $4::int8",
    select: claim_columns!(),
};

// Without an order the planner may read the table instead, and expects to find one soon.
const SELECT_DUE: &str = "SELECT 1::int8 FROM orders WHERE lane = $2 AND due_at <= $1 ORDER BY due_at LIMIT 1";

// A snoozed order goes on with its attempt; for every other one a new attempt starts. The expressions see the row as it
// was before the update.
const CLAIM_DUE: &str = change! {
    picked: "orders o WHERE o.lane = $5 AND o.due_at <= $3 ORDER BY o.due_at LIMIT $6 FOR UPDATE SKIP LOCKED",
    more: "",
    set: "status = 'Processing', attempts = o.attempts + (NOT o.snoozed)::int, snoozed = false, due_at = $4::int8,
          started_at = CASE WHEN o.snoozed THEN o.started_at ELSE $3::int8 END,
          changed_at = CASE WHEN o.snoozed THEN o.changed_at ELSE $3::int8 END",
    select: claim_columns!(),
};

/// The number of the order that [`Claims::claim_quarantined`] would take at `now`, with `max` as the limit of attempts.
macro_rules! next_quarantined {
    ($now:literal, $max:literal) => {
        concat!(
            "SELECT number FROM (
                (SELECT number, due_at FROM orders WHERE lane = 2 AND due_at <= ",
            $now,
            " AND attempts - attempts_forgiven < ",
            $max,
            " ORDER BY due_at LIMIT 1)
                UNION ALL
                (SELECT number, due_at FROM orders WHERE lane = 4 AND due_at <= ",
            $now,
            " AND attempts - attempts_forgiven < ",
            $max,
            " ORDER BY due_at LIMIT 1)
                UNION ALL
                (SELECT number, due_at FROM orders WHERE lane = 3 AND due_at <= ",
            $now,
            " ORDER BY due_at LIMIT 1)) AS next
             ORDER BY due_at LIMIT 1"
        )
    };
}

const SELECT_QUARANTINED: &str = next_quarantined!("$1::int8", "$2::int8");

// Where two workers pick the same one, the second finds it locked or no longer due, and takes none this time.
const CLAIM_QUARANTINED: &str = change! {
    picked: concat!(
        "orders o WHERE o.number = (", next_quarantined!("$3::int8", "$5::int8"),
        ") AND o.due_at <= $3 AND o.lane IN (2, 3, 4)
           AND (SELECT count(*) FROM (SELECT 1 FROM orders WHERE lane = 4 AND due_at > $3 LIMIT $6) AS held) < $6
         FOR UPDATE OF o SKIP LOCKED"
    ),
    more: "",
    set: "quarantined = true, attempts = o.attempts + (NOT o.snoozed)::int, snoozed = false, due_at = $4::int8,
          started_at = CASE WHEN o.snoozed THEN o.started_at ELSE $3::int8 END,
          changed_at = CASE WHEN o.snoozed THEN o.changed_at ELSE $3::int8 END,
          failure_kind = CASE WHEN o.snoozed THEN o.failure_kind ELSE 'LeaseLost' END,
          failure = CASE WHEN o.snoozed THEN o.failure ELSE $7::text END",
    select: claim_columns!(),
};

const FAIL_EXHAUSTED: &str = change! {
    picked: "orders o WHERE o.lane IN (2, 4) AND o.due_at <= $3 AND o.attempts - o.attempts_forgiven >= $4::int8
             ORDER BY o.due_at LIMIT 100 FOR UPDATE SKIP LOCKED",
    more: "",
    set: "status = 'Failed', finished_at = $3::int8, changed_at = $3::int8, due_at = NULL, quarantined = false,
          failure_kind = 'LeaseLost', failure = $5::text",
    select: "number",
};

// Whoever waits for a locked row looks at it anew: the claim holds or it does not.
const SETTLE: &str = change! {
    picked: "orders o JOIN unnest($4::int8[], $5::int8[], $6::text[], $7::int8[], $8::int8[], $9::text[])
                 AS settled (number, attempt, status, snoozed, due_at, failure) ON o.number = settled.number
             WHERE o.attempts = settled.attempt AND o.status = 'Processing' AND NOT o.snoozed
             ORDER BY o.number FOR UPDATE OF o",
    more: ", settled.status AS to_status, settled.snoozed = 1 AS is_snoozed, settled.due_at AS to_due_at,
           settled.failure AS to_failure",
    set: "status = p.to_status, snoozed = p.is_snoozed, due_at = p.to_due_at,
          quarantined = o.quarantined AND p.is_snoozed,
          changed_at = CASE WHEN p.is_snoozed THEN o.changed_at ELSE $3::int8 END,
          failure_kind = CASE WHEN p.is_snoozed THEN o.failure_kind WHEN p.to_failure IS NOT NULL THEN 'Failed' END,
          failure = CASE WHEN p.is_snoozed THEN o.failure ELSE p.to_failure END,
          finished_at = CASE WHEN p.to_status IN ('Completed', 'Failed') THEN $3::int8 END",
    select: "number",
};

const SELECT_BATCH_SIZE: &str = "SELECT batch_size FROM worker_pace WHERE id = 1";

const KEEP_BATCH_SIZE: &str = "INSERT INTO worker_pace (id, batch_size) VALUES (1, $1)
     ON CONFLICT (id) DO UPDATE SET batch_size = excluded.batch_size";

#[async_trait(?Send)]
impl<P: Pool> Claims for PostgresStore<P> {
    async fn claim(
        &self,
        orders: &[EventNumber],
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        let parameters = [now.into(), lease_until.into(), orders.iter().map(|order| order.0).collect()];
        claims_of(self.change(CLAIM, 0, parameters).await?)
    }

    async fn claim_due(
        &self,
        due: Due,
        now: Timestamp,
        lease_until: Timestamp,
        limit: u32,
    ) -> Result<Vec<Claim>, StoreError> {
        // A look that finds nothing, as it does many times a second in an idle system, begins no transaction that writes.
        if self.execute(SELECT_DUE, vec![now.into(), due.lane().into()]).await?.is_empty() {
            return Ok(Vec::new());
        }
        let parameters = [now.into(), lease_until.into(), due.lane().into(), limit.into()];
        claims_of(self.change(CLAIM_DUE, 0, parameters).await?)
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
        let parameters = [now.into(), lease_until.into(), max_attempts.into(), at_once.into(), LEASE_LOST.into()];
        Ok(claims_of(self.change(CLAIM_QUARANTINED, 0, parameters).await?)?.pop())
    }

    async fn fail_exhausted(&self, now: Timestamp, max_attempts: u32) -> Result<usize, StoreError> {
        let parameters = [now.into(), max_attempts.into(), LEASE_LOST.into()];
        Ok(self.change(FAIL_EXHAUSTED, 0, parameters).await?.len())
    }

    async fn settle(&self, settlements: &[(&Claim, Settlement)], now: Timestamp) -> Result<usize, StoreError> {
        let (mut statuses, mut snoozed, mut due, mut failures) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (_, settlement) in settlements {
            let (status, is_snoozed, due_at, failure) = settlement.columns();
            statuses.push(status.as_str());
            snoozed.push(i64::from(is_snoozed));
            due.push(due_at.map(Timestamp::as_millis));
            // PostgreSQL has no text with this character in it.
            failures.push(failure.map(|reason| reason.replace('\0', "\u{fffd}")));
        }
        let parameters = [
            now.into(),
            settlements.iter().map(|(claim, _)| claim.order.0).collect(),
            settlements.iter().map(|(claim, _)| i64::from(claim.attempt)).collect(),
            statuses.into_iter().collect(),
            snoozed.into_iter().collect(),
            Value::Integers(due),
            Value::Texts(failures),
        ];
        Ok(self.change(SETTLE, 0, parameters).await?.len())
    }

    async fn batch_size(&self) -> Result<Option<u32>, StoreError> {
        let row = self.execute(SELECT_BATCH_SIZE, vec![]).await?.pop();
        Ok(row.map(|row| Columns::of(row).integer()).transpose()?.and_then(|size| u32::try_from(size).ok()))
    }

    async fn keep_batch_size(&self, size: u32) -> Result<(), StoreError> {
        self.execute(KEEP_BATCH_SIZE, vec![size.into()]).await.map(drop)
    }
}

fn claims_of(rows: Vec<Row>) -> Result<Vec<Claim>, StoreError> {
    let claim = |row| {
        let mut columns = Columns::of(row);
        let (order, attempt, tries, started_at, content): (i64, u32, u32, i64, ContentFields) = columns.fields()?;
        let (owner, content) = columns.content(content)?;
        let (order, started_at) = (EventNumber(order), Timestamp::from_millis(started_at));
        Ok(Claim { order, owner, content, attempt, tries, started_at })
    };
    rows.into_iter().map(claim).collect()
}
