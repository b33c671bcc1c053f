//! The worker's seams over the host's interfaces, all of them blocking calls.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use order_core::order::Timestamp;
use order_core::queue::{KeyValue, QueueError};
use order_core::sqlite::{Connection, Row, Value};
use order_core::store::{Claim, StoreError};
use order_core::worker::{Clock, Config, Outcome, Processor};

use crate::bindings::fermyon::spin::variables;
use crate::bindings::orders::fulfillment::processor;
use crate::bindings::spin::sqlite::sqlite;
use crate::bindings::wasi::keyvalue::{batch, store};

/// A connection to the database labelled `default`.
pub struct SqliteConnection(sqlite::Connection);

impl SqliteConnection {
    pub fn open() -> Result<Self, StoreError> {
        sqlite::Connection::open("default").map(Self).map_err(store_error)
    }
}

impl Connection for SqliteConnection {
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let parameters: Vec<sqlite::Value> = parameters
            .into_iter()
            .map(|value| match value {
                Value::Null => sqlite::Value::Null,
                Value::Integer(integer) => sqlite::Value::Integer(integer),
                Value::Text(text) => sqlite::Value::Text(text),
            })
            .collect();
        let result = self.0.execute(sql, &parameters).map_err(store_error)?;
        let value = |value| match value {
            sqlite::Value::Null => Ok(Value::Null),
            sqlite::Value::Integer(integer) => Ok(Value::Integer(integer)),
            sqlite::Value::Text(text) => Ok(Value::Text(text)),
            sqlite::Value::Real(_) | sqlite::Value::Blob(_) => {
                Err(StoreError::Broken("a column has a type that the schema does not use".to_owned()))
            }
        };
        result.rows.into_iter().map(|row| row.values.into_iter().map(value).collect()).collect()
    }
}

fn store_error(error: sqlite::Error) -> StoreError {
    match error {
        sqlite::Error::NoSuchDatabase => StoreError::Broken("the host has no database \"default\"".to_owned()),
        sqlite::Error::AccessDenied => {
            StoreError::Broken("spin.toml does not grant the database \"default\"".to_owned())
        }
        sqlite::Error::InvalidConnection => StoreError::Unavailable("the connection was closed".to_owned()),
        sqlite::Error::DatabaseFull => StoreError::Unavailable("the database is full".to_owned()),
        sqlite::Error::Io(message) => StoreError::from_sqlite_message(message),
    }
}

/// The key-value store labelled `default`; every operation fails where it could not be opened.
pub struct BucketKeyValue(Result<store::Bucket, QueueError>);

impl BucketKeyValue {
    pub fn open() -> Self {
        Self(store::open("default").map_err(queue_error))
    }

    fn bucket(&self) -> Result<&store::Bucket, QueueError> {
        self.0.as_ref().map_err(Clone::clone)
    }
}

impl KeyValue for BucketKeyValue {
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError> {
        self.bucket()?.set(key, &value).map_err(queue_error)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        self.bucket()?.get(key).map_err(queue_error)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), QueueError> {
        let bucket = self.bucket()?;
        // One transaction for all where the backend can, one for each where it cannot.
        if batch::delete_many(bucket, keys).is_ok() {
            return Ok(());
        }
        keys.iter().try_for_each(|key| bucket.delete(key)).map_err(queue_error)
    }

    async fn keys(&self) -> Result<Vec<String>, QueueError> {
        let bucket = self.bucket()?;
        let mut keys = Vec::new();
        let mut cursor = None;
        loop {
            let page = bucket.list_keys(cursor.as_deref()).map_err(queue_error)?;
            keys.extend(page.keys);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(keys);
            }
        }
    }
}

fn queue_error(error: store::Error) -> QueueError {
    QueueError(match error {
        store::Error::NoSuchStore => "the host has no key-value store \"default\"".to_owned(),
        store::Error::AccessDenied => "spin.toml does not grant the key-value store \"default\"".to_owned(),
        store::Error::Other(message) => message,
    })
}

/// The processor that spin.toml wires in as a dependency.
pub struct FulfillmentComponent;

impl Processor for FulfillmentComponent {
    fn process(&self, claims: &[Claim]) -> Vec<Outcome> {
        let tasks: Vec<_> = claims
            .iter()
            .map(|claim| processor::Task {
                order_id: claim.content.order_id.as_str().to_owned(),
                user_id: claim.content.user_id.as_str().to_owned(),
                item_ids: claim.content.item_ids.iter().map(|id| id.as_str().to_owned()).collect(),
                total_amount_minor: claim.content.total_amount.minor() as u64,
                currency: claim.content.currency.as_str().to_owned(),
                attempt: claim.attempt,
                started_at_ms: u64::try_from(claim.started_at.as_millis()).unwrap_or(0),
            })
            .collect();
        let outcome = |outcome| match outcome {
            processor::Outcome::Completed => Outcome::Completed,
            processor::Outcome::InProgress(ask_again_after_ms) => Outcome::InProgress { ask_again_after_ms },
            processor::Outcome::FailedForNow(reason) => Outcome::FailedForNow { reason },
            processor::Outcome::FailedForGood(reason) => Outcome::FailedForGood { reason },
        };
        processor::process(&tasks).into_iter().map(outcome).collect()
    }
}

/// The host's wall clock, sleep and randomness.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(since_epoch.as_millis() as i64)
    }

    fn sleep_ms(&self, millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
    }

    fn random(&self) -> u64 {
        // std seeds its hashers from wasi:random: enough for jitter, without another crate.
        RandomState::new().build_hasher().finish()
    }
}

/// The worker's variables; what is not declared has its default.
pub fn config() -> Result<Config, String> {
    let mut config = Config::default();
    if let Some(lease_ms) = number("lease_ms", 1_000, 3_600_000)? {
        config.lease_ms = lease_ms;
    }
    if let Some(max_attempts) = number("max_attempts", 1, 1_000)? {
        config.retry.max_attempts = max_attempts as u32;
    }
    if let Some(days) = number("retention_days", 0, 36_500)? {
        config.retention_ms = (days > 0).then_some(days * 24 * 60 * 60 * 1_000);
    }
    Ok(config)
}

fn number(name: &str, min: u64, max: u64) -> Result<Option<u64>, String> {
    let text = match variables::get(name) {
        Ok(text) => text,
        Err(variables::Error::Undefined(_)) => return Ok(None),
        Err(error) => return Err(format!("variable {name}: {error}")),
    };
    match text.trim().parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => Err(format!("variable {name} must be a whole number from {min} to {max}, not {text:?}")),
    }
}
