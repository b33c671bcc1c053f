//! The SQLite backend of [`OrderStore`], and all SQL of the service besides `migrations/`.
//!
//! Spin runs only the first statement of an `execute` and shares one connection between the concurrent
//! requests of an instance, so each operation here is one statement that is its own transaction. Lists
//! travel as one JSON parameter, which keeps the statements few: Spin caches 16 per connection.

use std::borrow::Borrow;
use std::collections::HashMap;

use serde::Serialize;

use crate::lifecycle::Status;
use crate::order::{Amount, Attempt, AttemptOutcome, Currency, Event, Id, NewOrder, Order, Timestamp};
use crate::store::{
    ANSWERS_KEPT_MS, Acceptance, Change, Claim, DeadLetterCursor, DeadLetterFilter, DeadLetters, KeptAnswer, Metrics,
    OrderStore, PRUNED_AT_ONCE, RequestKey, StoreError, Verdict,
};

mod migrate;

pub use migrate::SCHEMA_VERSION;

/// A value that goes into or comes out of a statement. The schema needs no others.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// UTF-8 text.
    Text(String),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Integer(time.as_millis())
    }
}

/// A row of a result.
pub type Row = Vec<Value>;

/// An open connection to an SQLite database.
pub trait Connection {
    /// Runs the first statement of `sql` and answers its rows.
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError>;
}

impl StoreError {
    /// What SQLite's message says about the error's nature; hosts pass on the message only.
    pub fn from_sqlite_message(message: impl Into<String>) -> Self {
        /// The messages of SQLITE_FULL, SQLITE_READONLY, SQLITE_IOERR and SQLITE_CANTOPEN (sqlite3_errstr), and
        /// Spin's for too many connections: what an operator can mend while the service runs.
        const UNAVAILABLE: [&str; 6] =
            ["is full", "readonly database", "disk I/O error", "unable to open", "out of memory", "too many"];
        let message = message.into();
        // SQLITE_BUSY and SQLITE_LOCKED, and SQLITE_PROTOCOL, which is a race for the log's locks.
        if message.contains("is locked") || message.contains("locking protocol") {
            Self::Busy
        } else if UNAVAILABLE.iter().any(|part| message.contains(part)) {
            Self::Unavailable(message)
        } else {
            Self::Broken(message)
        }
    }

    fn unexpected_row() -> Self {
        Self::Broken("a row does not have the columns that its statement asks for".to_owned())
    }
}

/// An [`OrderStore`] on one connection.
pub struct SqliteStore<C> {
    connection: C,
}

/// How often a statement is tried again that found the database locked. SQLite itself waits 5 s each time (Spin's
/// and rusqlite's busy timeout), but does not queue: in a crowd of writers one may be unlucky for longer.
const BUSY_RETRIES: usize = 3;

impl<C: Connection> SqliteStore<C> {
    /// Takes a new connection that is this call's alone, and brings its database to [`SCHEMA_VERSION`].
    ///
    /// # Errors
    /// [`StoreError::Broken`] when the database has a later version than this build knows.
    pub async fn open(connection: C) -> Result<Self, StoreError> {
        // A commit is durable before it returns, whatever the host's default is.
        connection.execute("PRAGMA synchronous = FULL", vec![]).await?;
        migrate::migrate(&connection).await?;
        Ok(Self { connection })
    }

    /// Lets the connection keep so many KiB of pages; SQLite's default is 2,000.
    pub async fn keep_pages(self, kib: u32) -> Result<Self, StoreError> {
        self.connection.execute(&format!("PRAGMA cache_size = -{kib}"), vec![]).await?;
        Ok(self)
    }

    /// Runs one of the statements below. All of them are safe to try again: one that finds the database
    /// locked has changed nothing.
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        for _ in 0..BUSY_RETRIES {
            match self.connection.execute(sql, parameters.clone()).await {
                Err(StoreError::Busy) => {}
                outcome => return outcome,
            }
        }
        self.connection.execute(sql, parameters).await
    }

    /// The orders with these identifiers, in no order.
    async fn find_many(&self, order_ids: &[&str]) -> Result<Vec<Order>, StoreError> {
        let rows = self.execute(SELECT_ORDERS, vec![list(order_ids)]).await?;
        rows.into_iter().map(|row| Columns::of(row).order()).collect()
    }
}

/// The columns of [`Columns::content`], for SELECT and RETURNING.
macro_rules! content_columns {
    () => {
        "order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency"
    };
}

/// The columns of [`Columns::order`].
macro_rules! order_columns {
    () => {
        concat!(content_columns!(), ", status, attempts, created_at, started_at, finished_at, failure")
    };
}

/// The columns of [`Columns::claim`].
macro_rules! claim_columns {
    () => {
        concat!("seq, attempts, attempts - attempts_forgiven, started_at, ", content_columns!())
    };
}

/// The failed orders that a [`DeadLetterFilter`] means, as the parameters ?1 to ?4.
macro_rules! dead_letters {
    () => {
        "FROM orders
     WHERE status = 'Failed'
       AND (?1 IS NULL OR order_id IN (SELECT value FROM json_each(?1)))
       AND (?2 IS NULL OR user_id = ?2)
       AND (?3 IS NULL OR finished_at >= ?3)
       AND (?4 IS NULL OR finished_at < ?4)"
    };
}

const SELECT_ORDERS: &str =
    concat!("SELECT ", order_columns!(), " FROM orders WHERE order_id IN (SELECT value FROM json_each(?1))");

const SELECT_ORDER: &str = concat!("SELECT ", order_columns!(), " FROM orders WHERE order_id = ?1");

const INSERT_ORDERS: &str =
    "INSERT INTO orders (order_id, order_id_int, user_id, user_id_int, item_ids, total_amount, currency,
                         status, created_at, changed_at, due_at)
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
            'Pending', ?2, ?2, ?3
     FROM json_each(?1) WHERE true
     ON CONFLICT (order_id) DO NOTHING
     RETURNING order_id";

const SELECT_COUNTERS: &str =
    "SELECT total, pending, processing, completed, failed, cancelled, processing_ms, completion_ms
     FROM order_counters WHERE id = 1";

const CLAIM: &str = concat!(
    "UPDATE orders SET status = 'Processing', attempts = 1, started_at = ?2, changed_at = ?2, due_at = ?3
     WHERE order_id IN (SELECT value FROM json_each(?1)) AND status = 'Pending' AND attempts = 0
     RETURNING ",
    claim_columns!()
);

const SELECT_DUE: &str = "SELECT 1 FROM orders
     WHERE due_at <= ?1 AND suspect = 0 AND (status = 'Pending' OR parked = 1) LIMIT 1";

// A parked order goes on with its attempt; for every other one a new attempt starts. The expressions see
// the row as it was before the update.
const CLAIM_DUE: &str = concat!(
    "UPDATE orders
     SET status = 'Processing', attempts = attempts + (parked = 0), started_at = iif(parked = 1, started_at, ?1),
         changed_at = iif(parked = 1, changed_at, ?1), parked = 0, due_at = ?2
     WHERE seq IN (
         SELECT seq FROM orders
         WHERE due_at <= ?1 AND suspect = 0 AND (status = 'Pending' OR parked = 1)
         ORDER BY due_at LIMIT ?3)
     RETURNING ",
    claim_columns!()
);

const SELECT_SUSPECT: &str = "SELECT 1 FROM orders
     WHERE due_at <= ?1 AND status = 'Processing'
       AND iif(parked = 1, suspect = 1, attempts - attempts_forgiven < ?2) LIMIT 1";

const CLAIM_SUSPECT: &str = concat!(
    "UPDATE orders
     SET suspect = 1, attempts = attempts + (parked = 0), started_at = iif(parked = 1, started_at, ?1),
         changed_at = iif(parked = 1, changed_at, ?1), parked = 0, due_at = ?2
     WHERE seq = (
         SELECT seq FROM orders
         WHERE due_at <= ?1 AND status = 'Processing'
           AND iif(parked = 1, suspect = 1, attempts - attempts_forgiven < ?3)
         ORDER BY due_at LIMIT 1)
     RETURNING ",
    claim_columns!()
);

const FAIL_EXHAUSTED: &str = "UPDATE orders
     SET status = 'Failed', finished_at = ?1, changed_at = ?1, due_at = NULL, suspect = 0, failure = 'its lease ran out'
     WHERE seq IN (
         SELECT seq FROM orders
         WHERE due_at <= ?1 AND status = 'Processing' AND parked = 0 AND attempts - attempts_forgiven >= ?2
         ORDER BY due_at LIMIT 100)
     RETURNING seq";

const SETTLE: &str = "UPDATE orders
     SET status = verdict.status, parked = verdict.parked, due_at = verdict.due_at,
         suspect = iif(verdict.parked = 1, suspect, 0), changed_at = iif(verdict.parked = 1, changed_at, ?2),
         failure = iif(verdict.parked = 1, orders.failure, verdict.failure),
         finished_at = iif(verdict.status IN ('Completed', 'Failed'), ?2, NULL)
     FROM (SELECT value ->> 0 AS seq, value ->> 1 AS attempt, value ->> 2 AS status, value ->> 3 AS parked,
                  value ->> 4 AS due_at, value ->> 5 AS failure FROM json_each(?1)) AS verdict
     WHERE orders.seq = verdict.seq AND orders.attempts = verdict.attempt
       AND orders.status = 'Processing' AND orders.parked = 0
     RETURNING orders.seq";

const CANCEL: &str = concat!(
    "UPDATE orders SET status = 'Cancelled', finished_at = ?2, changed_at = ?2, due_at = NULL
     WHERE order_id = ?1 AND status = 'Pending' RETURNING ",
    order_columns!()
);

const RETRY: &str = concat!(
    "UPDATE orders SET status = 'Pending', finished_at = NULL, changed_at = ?2, due_at = ?2, attempts_forgiven = attempts
     WHERE order_id = ?1 AND status = 'Failed' RETURNING ",
    order_columns!()
);

const RETRY_DEAD_LETTERS: &str = concat!(
    "UPDATE orders SET status = 'Pending', finished_at = NULL, changed_at = ?5, due_at = ?5, attempts_forgiven = attempts
     WHERE seq IN (SELECT seq ",
    dead_letters!(),
    " ORDER BY finished_at, seq LIMIT ?6) RETURNING seq"
);

const SELECT_DEAD_LETTERS: &str = concat!(
    "SELECT seq, ",
    order_columns!(),
    " ",
    dead_letters!(),
    " AND (?5 IS NULL OR (finished_at, seq) > (?5, ?6)) ORDER BY finished_at, seq LIMIT ?7"
);

// The first event is the intake, which the order itself tells.
const SELECT_EVENTS: &str = "SELECT created_at AS at, 'Pending' AS status, 0 AS attempt, NULL AS reason, 0 AS number
     FROM orders WHERE order_id = ?1
     UNION ALL
     SELECT at, status, attempt, reason, number FROM order_events
     WHERE seq = (SELECT seq FROM orders WHERE order_id = ?1)
     ORDER BY number";

const SELECT_ATTEMPTS: &str = "SELECT number, started_at, ended_at, outcome, reason FROM order_attempts
     WHERE seq = (SELECT seq FROM orders WHERE order_id = ?1) ORDER BY number";

const SELECT_ANSWERS: &str = "SELECT caller, key, fingerprint, status, location, body FROM idempotency_keys
     WHERE (caller, key) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?1)) AND created_at >= ?2";

const KEEP_ANSWERS: &str =
    "INSERT OR REPLACE INTO idempotency_keys (caller, key, fingerprint, status, location, body, created_at)
     SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, ?2 FROM json_each(?1)";

const PRUNE_ANSWERS: &str = "DELETE FROM idempotency_keys
     WHERE (caller, key) IN (SELECT caller, key FROM idempotency_keys WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)
     RETURNING 1";

const PRUNE_ORDERS: &str = "DELETE FROM orders
     WHERE seq IN (SELECT seq FROM orders WHERE finished_at < ?1 ORDER BY finished_at LIMIT ?2)
     RETURNING 1";

impl<C: Connection> OrderStore for SqliteStore<C> {
    async fn accept(
        &self,
        orders: &[impl Borrow<NewOrder>],
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<Vec<Acceptance>, StoreError> {
        let rows: Vec<_> = orders
            .iter()
            .map(|order| {
                let order = order.borrow();
                (
                    order.order_id.as_str(),
                    order.order_id.is_integer() as u8,
                    order.user_id.as_str(),
                    order.user_id.is_integer() as u8,
                    // A string: SQLite keeps the array's text as it is.
                    serde_json::to_string(&order.item_ids).expect("identifiers are JSON"),
                    order.total_amount.minor(),
                    order.currency.as_str(),
                )
            })
            .collect();
        let parameters = vec![list(&rows), now.into(), due_at.into()];
        let mut created: Vec<String> = Vec::with_capacity(orders.len());
        for row in self.execute(INSERT_ORDERS, parameters).await? {
            match row.into_iter().next() {
                Some(Value::Text(order_id)) => created.push(order_id),
                _ => return Err(StoreError::unexpected_row()),
            }
        }
        created.sort_unstable();

        // Of two orders with one identifier the first was inserted.
        let mut acceptances: Vec<Option<Acceptance>> = orders
            .iter()
            .map(|order| {
                let order = order.borrow();
                let position = created.binary_search_by(|id| id.as_str().cmp(order.order_id.as_str())).ok()?;
                created.remove(position);
                Some(Acceptance::Created(Order {
                    content: order.clone(),
                    status: Status::Pending,
                    attempts: 0,
                    created_at: now,
                    started_at: None,
                    finished_at: None,
                    failure: None,
                }))
            })
            .collect();
        debug_assert!(created.is_empty());

        let known: Vec<&str> = orders
            .iter()
            .zip(&acceptances)
            .filter(|(_, acceptance)| acceptance.is_none())
            .map(|(order, _)| order.borrow().order_id.as_str())
            .collect();
        if !known.is_empty() {
            // What was created is durable by now: an error here must not take the others' answers away.
            let existing = self.find_many(&known).await;
            for (order, acceptance) in orders.iter().zip(&mut acceptances).filter(|(_, a)| a.is_none()) {
                let order = order.borrow();
                *acceptance = Some(match &existing {
                    Ok(existing) => match existing.iter().find(|found| found.content.order_id == order.order_id) {
                        Some(found) if found.content == *order => Acceptance::Existing(found.clone()),
                        Some(_) => Acceptance::Conflict,
                        None => {
                            let removed = "the order was removed between two statements".to_owned();
                            Acceptance::Undecided(StoreError::Unavailable(removed))
                        }
                    },
                    Err(error) => Acceptance::Undecided(error.clone()),
                });
            }
        }
        Ok(acceptances.into_iter().flatten().collect())
    }

    async fn find(&self, order_id: &str) -> Result<Option<Order>, StoreError> {
        let rows = self.execute(SELECT_ORDER, vec![order_id.into()]).await?;
        rows.into_iter().next().map(|row| Columns::of(row).order()).transpose()
    }

    async fn metrics(&self) -> Result<Metrics, StoreError> {
        let rows = self.execute(SELECT_COUNTERS, vec![]).await?;
        let row = rows.into_iter().next().ok_or_else(StoreError::unexpected_row)?;
        let mut columns = Columns::of(row);
        Ok(Metrics {
            total: columns.count()?,
            by_status: [columns.count()?, columns.count()?, columns.count()?, columns.count()?, columns.count()?],
            processing_ms: columns.count()?,
            completion_ms: columns.count()?,
        })
    }

    async fn claim(
        &self,
        order_ids: &[String],
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Vec<Claim>, StoreError> {
        let parameters = vec![list(order_ids), now.into(), lease_until.into()];
        claims_from_rows(self.execute(CLAIM, parameters).await?)
    }

    async fn claim_due(&self, now: Timestamp, lease_until: Timestamp, limit: u32) -> Result<Vec<Claim>, StoreError> {
        // A look that finds nothing, as it does many times a second in an idle system, takes no lock.
        if self.execute(SELECT_DUE, vec![now.into()]).await?.is_empty() {
            return Ok(Vec::new());
        }
        let parameters = vec![now.into(), lease_until.into(), Value::Integer(i64::from(limit))];
        claims_from_rows(self.execute(CLAIM_DUE, parameters).await?)
    }

    async fn claim_suspect(
        &self,
        now: Timestamp,
        lease_until: Timestamp,
        max_attempts: u32,
    ) -> Result<Option<Claim>, StoreError> {
        if self.execute(SELECT_SUSPECT, vec![now.into(), Value::Integer(max_attempts.into())]).await?.is_empty() {
            return Ok(None);
        }
        let parameters = vec![now.into(), lease_until.into(), Value::Integer(max_attempts.into())];
        Ok(claims_from_rows(self.execute(CLAIM_SUSPECT, parameters).await?)?.pop())
    }

    async fn fail_exhausted(&self, now: Timestamp, max_attempts: u32) -> Result<usize, StoreError> {
        Ok(self.execute(FAIL_EXHAUSTED, vec![now.into(), Value::Integer(max_attempts.into())]).await?.len())
    }

    async fn settle(&self, verdicts: &[(&Claim, Verdict)], now: Timestamp) -> Result<usize, StoreError> {
        let rows: Vec<_> = verdicts
            .iter()
            .map(|(claim, verdict)| {
                let (status, parked, due_at, failure) = match verdict {
                    Verdict::Complete => (Status::Completed, 0, None, None),
                    Verdict::Park { due_at } => (Status::Processing, 1, Some(due_at), None),
                    Verdict::RetryLater { due_at, reason } => (Status::Pending, 0, Some(due_at), Some(reason)),
                    Verdict::Fail { reason } => (Status::Failed, 0, None, Some(reason)),
                };
                let due_at = due_at.map(|time| time.as_millis());
                (claim.seq, claim.attempt, status.as_str(), parked, due_at, failure)
            })
            .collect();
        let parameters = vec![list(&rows), now.into()];
        Ok(self.execute(SETTLE, parameters).await?.len())
    }

    async fn cancel(&self, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        self.change(CANCEL, order_id, now).await
    }

    async fn retry(&self, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        self.change(RETRY, order_id, now).await
    }

    async fn retry_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        now: Timestamp,
        limit: u32,
    ) -> Result<usize, StoreError> {
        let mut parameters = filter_parameters(filter);
        parameters.extend([now.into(), Value::Integer(limit.into())]);
        Ok(self.execute(RETRY_DEAD_LETTERS, parameters).await?.len())
    }

    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadLetterCursor>,
        limit: u32,
    ) -> Result<DeadLetters, StoreError> {
        let mut parameters = filter_parameters(filter);
        // One more than asked for tells whether there is a next page.
        parameters.extend([
            after.map_or(Value::Null, |after| after.failed_at.into()),
            after.map_or(Value::Null, |after| Value::Integer(after.seq)),
            Value::Integer(i64::from(limit) + 1),
        ]);
        let rows = self.execute(SELECT_DEAD_LETTERS, parameters).await?;
        let more = rows.len() > limit as usize;
        let mut last = None;
        let mut orders = Vec::new();
        for row in rows.into_iter().take(limit as usize) {
            let mut columns = Columns::of(row);
            let seq = columns.integer()?;
            let order = columns.order()?;
            last = order.finished_at.map(|failed_at| DeadLetterCursor { failed_at, seq });
            orders.push(order);
        }
        Ok(DeadLetters { orders, next: last.filter(|_| more) })
    }

    async fn events(&self, order_id: &str) -> Result<Option<Vec<Event>>, StoreError> {
        let rows = self.execute(SELECT_EVENTS, vec![order_id.into()]).await?;
        let events = rows.into_iter().map(|row| {
            let mut columns = Columns::of(row);
            Ok(Event {
                at: columns.time()?,
                status: columns.status()?,
                attempt: columns.attempt()?,
                reason: columns.optional_text()?,
            })
        });
        let events = events.collect::<Result<Vec<_>, StoreError>>()?;
        Ok(Some(events).filter(|events| !events.is_empty()))
    }

    async fn attempts(&self, order_id: &str) -> Result<Option<Vec<Attempt>>, StoreError> {
        let rows = self.execute(SELECT_ATTEMPTS, vec![order_id.into()]).await?;
        if rows.is_empty() && self.find(order_id).await?.is_none() {
            return Ok(None);
        }
        let attempts = rows.into_iter().map(|row| {
            let mut columns = Columns::of(row);
            Ok(Attempt {
                number: columns.attempt()?,
                started_at: columns.time()?,
                ended_at: columns.optional_time()?,
                outcome: match columns.optional_text()?.as_deref() {
                    None => None,
                    Some("Completed") => Some(AttemptOutcome::Completed),
                    Some("Failed") => Some(AttemptOutcome::Failed),
                    Some("LeaseLost") => Some(AttemptOutcome::LeaseLost),
                    Some(_) => return Err(StoreError::unexpected_row()),
                },
                reason: columns.optional_text()?,
            })
        });
        attempts.collect::<Result<_, _>>().map(Some)
    }

    async fn begin(&self) -> Result<(), StoreError> {
        self.execute("BEGIN IMMEDIATE", vec![]).await.map(drop)
    }

    async fn commit(&self) -> Result<(), StoreError> {
        self.execute("COMMIT", vec![]).await.map(drop)
    }

    async fn rollback(&self) -> Result<(), StoreError> {
        self.execute("ROLLBACK", vec![]).await.map(drop)
    }

    async fn kept_answers(&self, keys: &[RequestKey], since: Timestamp) -> Result<Vec<Option<KeptAnswer>>, StoreError> {
        let names: Vec<_> = keys.iter().map(|key| (&key.caller, &key.key)).collect();
        let rows = self.execute(SELECT_ANSWERS, vec![list(&names), since.into()]).await?;
        let mut found = HashMap::new();
        for row in rows {
            let mut columns = Columns::of(row);
            let key = RequestKey { caller: columns.text()?, key: columns.text()? };
            let answer = KeptAnswer {
                fingerprint: columns.text()?,
                status: u16::try_from(columns.integer()?).map_err(|_| StoreError::unexpected_row())?,
                location: columns.optional_text()?,
                body: columns.text()?,
            };
            found.insert(key, answer);
        }
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    async fn keep_answers(&self, answers: &[(RequestKey, KeptAnswer)], now: Timestamp) -> Result<(), StoreError> {
        let rows: Vec<_> = answers
            .iter()
            .map(|(key, answer)| {
                (&key.caller, &key.key, &answer.fingerprint, answer.status, &answer.location, &answer.body)
            })
            .collect();
        self.execute(KEEP_ANSWERS, vec![list(&rows), now.into()]).await.map(drop)
    }

    async fn prune(&self, now: Timestamp, finished_before: Option<Timestamp>) -> Result<usize, StoreError> {
        let limit = Value::Integer(PRUNED_AT_ONCE.into());
        let oldest = now.minus_millis(ANSWERS_KEPT_MS);
        let mut pruned = self.execute(PRUNE_ANSWERS, vec![oldest.into(), limit.clone()]).await?.len();
        if let Some(finished_before) = finished_before {
            pruned += self.execute(PRUNE_ORDERS, vec![finished_before.into(), limit]).await?.len();
        }
        Ok(pruned)
    }
}

impl<C: Connection> SqliteStore<C> {
    /// Runs a statement that changes the order ?1 at the moment ?2, and tells why it did not where it did not.
    async fn change(&self, statement: &str, order_id: &str, now: Timestamp) -> Result<Change, StoreError> {
        let mut rows = self.execute(statement, vec![order_id.into(), now.into()]).await?;
        if let Some(row) = rows.pop() {
            return Ok(Change::Done(Columns::of(row).order()?));
        }
        Ok(match self.find(order_id).await? {
            Some(order) => Change::NotAllowed(order.status),
            None => Change::NotFound,
        })
    }
}

fn filter_parameters(filter: &DeadLetterFilter) -> Vec<Value> {
    vec![
        filter.order_ids.as_ref().map_or(Value::Null, |order_ids| list(order_ids)),
        filter.user_id.as_deref().map_or(Value::Null, Value::from),
        filter.failed_from.map_or(Value::Null, Value::from),
        filter.failed_before.map_or(Value::Null, Value::from),
    ]
}

/// A list as one parameter, for json_each.
fn list<T: Serialize>(items: &[T]) -> Value {
    Value::Text(serde_json::to_string(items).expect("what is stored is JSON"))
}

/// Takes the columns of a row one after the other.
struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    fn of(row: Row) -> Self {
        Self(row.into_iter())
    }

    fn integer(&mut self) -> Result<i64, StoreError> {
        self.optional_integer()?.ok_or_else(StoreError::unexpected_row)
    }

    fn optional_integer(&mut self) -> Result<Option<i64>, StoreError> {
        match self.0.next() {
            Some(Value::Integer(integer)) => Ok(Some(integer)),
            Some(Value::Null) => Ok(None),
            _ => Err(StoreError::unexpected_row()),
        }
    }

    fn count(&mut self) -> Result<u64, StoreError> {
        u64::try_from(self.integer()?).map_err(|_| StoreError::Broken("a counter is below zero".to_owned()))
    }

    fn attempt(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.integer()?).map_err(|_| StoreError::unexpected_row())
    }

    fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.integer().map(Timestamp::from_millis)
    }

    fn optional_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.optional_integer()?.map(Timestamp::from_millis))
    }

    fn text(&mut self) -> Result<String, StoreError> {
        self.optional_text()?.ok_or_else(StoreError::unexpected_row)
    }

    fn optional_text(&mut self) -> Result<Option<String>, StoreError> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(StoreError::unexpected_row()),
        }
    }

    fn id(&mut self) -> Result<Id, StoreError> {
        Ok(Id::from_stored(self.text()?, self.integer()? == 1))
    }

    fn status(&mut self) -> Result<Status, StoreError> {
        Status::parse(&self.text()?).ok_or_else(StoreError::unexpected_row)
    }

    fn order(&mut self) -> Result<Order, StoreError> {
        Ok(Order {
            content: self.content()?,
            status: self.status()?,
            attempts: self.attempt()?,
            created_at: self.time()?,
            started_at: self.optional_time()?,
            finished_at: self.optional_time()?,
            failure: self.optional_text()?,
        })
    }

    fn claim(&mut self) -> Result<Claim, StoreError> {
        Ok(Claim {
            seq: self.integer()?,
            attempt: self.attempt()?,
            tries: self.attempt()?,
            started_at: self.time()?,
            content: self.content()?,
        })
    }

    /// The columns that [`content_columns`] names.
    fn content(&mut self) -> Result<NewOrder, StoreError> {
        Ok(NewOrder {
            order_id: self.id()?,
            user_id: self.id()?,
            item_ids: items_from_json(&self.text()?).ok_or_else(StoreError::unexpected_row)?,
            total_amount: Amount::from_minor(self.integer()?).ok_or_else(StoreError::unexpected_row)?,
            currency: Currency::parse(self.text()?).ok_or_else(StoreError::unexpected_row)?,
        })
    }
}

fn items_from_json(json: &str) -> Option<Vec<Id>> {
    let items: Vec<serde_json::Value> = serde_json::from_str(json).ok()?;
    let ids = items.into_iter().map(|item| match item {
        serde_json::Value::String(text) => Some(Id::from_stored(text, false)),
        number => number.as_i64().map(Id::from_integer),
    });
    ids.collect()
}

fn claims_from_rows(rows: Vec<Row>) -> Result<Vec<Claim>, StoreError> {
    rows.into_iter().map(|row| Columns::of(row).claim()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_doubles::RusqliteConnection;

    #[test]
    fn passes_the_store_suite() {
        pollster::block_on(crate::store_suite::run(async || {
            let connection = RusqliteConnection::in_memory();
            SqliteStore::open(connection).await.unwrap()
        }));
    }

    #[test]
    fn the_statements_of_the_hot_paths_use_an_index() {
        pollster::block_on(async {
            let connection = RusqliteConnection::in_memory();
            migrate::migrate(&connection).await.unwrap();
            for (sql, index) in [
                (SELECT_ORDERS, "sqlite_autoindex_orders_1 (order_id=?)"),
                (CLAIM, "sqlite_autoindex_orders_1 (order_id=?)"),
                (SELECT_DUE, "orders_due (due_at<?)"),
                (CLAIM_DUE, "orders_due (due_at<?)"),
                (SELECT_SUSPECT, "orders_due (due_at<?)"),
                (CLAIM_SUSPECT, "orders_due (due_at<?)"),
                (FAIL_EXHAUSTED, "orders_due (due_at<?)"),
                (CANCEL, "sqlite_autoindex_orders_1 (order_id=?)"),
                (RETRY, "sqlite_autoindex_orders_1 (order_id=?)"),
                (SELECT_DEAD_LETTERS, "orders_failed"),
                (SELECT_EVENTS, "PRIMARY KEY (seq=?)"),
                (SELECT_ATTEMPTS, "PRIMARY KEY (seq=?)"),
                (PRUNE_ORDERS, "orders_finished (finished_at<?)"),
                (SETTLE, "INTEGER PRIMARY KEY (rowid=?)"),
                (SELECT_COUNTERS, "INTEGER PRIMARY KEY (rowid=?)"),
            ] {
                let parameters = (1..).take_while(|number| sql.contains(&format!("?{number}")));
                let parameters = parameters.map(|_| Value::Text("[]".to_owned())).collect();
                let plan = connection.execute(&format!("EXPLAIN QUERY PLAN {sql}"), parameters).await.unwrap();
                let plan = format!("{plan:?}");
                assert!(plan.contains(index), "{sql}: {plan}");
                assert!(!plan.contains("SCAN orders\""), "{sql}: {plan}");
            }
        });
    }

    #[test]
    fn an_error_is_told_apart_by_its_message() {
        assert_eq!(StoreError::from_sqlite_message("database is locked"), StoreError::Busy);
        assert_eq!(StoreError::from_sqlite_message("database table is locked: orders"), StoreError::Busy);
        for message in ["database or disk is full", "attempt to write a readonly database"] {
            assert!(matches!(StoreError::from_sqlite_message(message), StoreError::Unavailable(_)), "{message}");
        }
        for message in ["no such table: orders", "database disk image is malformed", "file is not a database"] {
            assert!(matches!(StoreError::from_sqlite_message(message), StoreError::Broken(_)), "{message}");
        }
    }
}
