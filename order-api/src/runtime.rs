//! The component's seams over the host's interfaces.

use std::time::SystemTime;

use order_core::intake;
use order_core::order::{Id, Timestamp};
use order_core::queue::{KeyValue, QueueError};
use order_core::sqlite::{Connection, Row, Value};
use order_core::store::StoreError;
use spin_sdk::key_value::{self, Store};
use spin_sdk::sqlite::wit::sqlite as blocking;
use spin_sdk::wasip3::random::random::get_random_u64;
use spin_sdk::wasip3::wit_stream;
use spin_sdk::wit_bindgen::StreamWriter;
use spin_sdk::{sqlite, variables};

/// The host's wall clock.
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(since_epoch.as_millis() as i64)
}

/// 128 random bits.
pub fn random() -> u128 {
    u128::from(get_random_u64()) << 64 | u128::from(get_random_u64())
}

/// An identifier for an order whose client gave none.
pub fn new_order_id() -> Id {
    intake::new_order_id(now(), random())
}

/// What one task has of another's wait; the wait ends when this is dropped.
pub struct UntilDropped(#[expect(dead_code, reason = "it is kept to be dropped")] StreamWriter<u8>);

/// A wait that ends when something is dropped.
///
/// Nothing is ever written: who waits, waits for a stream to end. A task of the component model wakes another one of
/// its instance by such means only; Rust's wakers would need wit-bindgen's inter-task-wakeup, whose way of reading
/// its stream traps on wasmtime 48.
pub fn wait_for_drop() -> (UntilDropped, impl Future<Output = ()>) {
    let (writer, mut reader) = wit_stream::new::<u8>();
    (UntilDropped(writer), async move { _ = reader.next().await })
}

/// How many orders may wait before new ones are refused, when the variable `max_backlog` is not declared: some
/// minutes of work, beyond which waiting clients are better told.
const DEFAULT_MAX_BACKLOG: u64 = 100_000;

/// The variable `max_backlog`.
pub async fn max_backlog() -> Result<u64, String> {
    match variables::get("max_backlog").await {
        Ok(text) => {
            text.trim().parse().map_err(|_| format!("variable max_backlog must be a whole number, not {text:?}"))
        }
        Err(variables::Error::Undefined(_)) => Ok(DEFAULT_MAX_BACKLOG),
        Err(error) => Err(format!("variable max_backlog: {error}")),
    }
}

/// A connection to the database labelled `default` for what takes time: while a statement runs, the instance goes
/// on with its other requests.
pub struct PatientConnection(sqlite::Connection);

impl PatientConnection {
    pub async fn open() -> Result<Self, StoreError> {
        sqlite::Connection::open_default().await.map(Self).map_err(store_error)
    }
}

impl Connection for PatientConnection {
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let result = self.0.execute(sql, parameters.into_iter().map(to_host)).await.map_err(store_error)?;
        // Only the end of the stream tells whether the statement worked.
        let rows = result.collect().await.map_err(store_error)?;
        rows.into_iter().map(|row| row.values.into_iter().map(from_host).collect()).collect()
    }
}

/// A connection to the database labelled `default` for lookups: the instance waits for them, which takes less
/// time than going on with something else and coming back. (spin-sdk itself offers only the patient way.)
pub struct PromptConnection(blocking::Connection);

impl PromptConnection {
    pub fn open() -> Result<Self, StoreError> {
        blocking::Connection::open("default").map(Self).map_err(store_error)
    }
}

impl Connection for PromptConnection {
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let parameters: Vec<_> = parameters.into_iter().map(to_host).collect();
        let rows = self.0.execute(sql, &parameters).map_err(store_error)?.rows;
        rows.into_iter().map(|row| row.values.into_iter().map(from_host).collect()).collect()
    }
}

fn to_host(value: Value) -> sqlite::Value {
    match value {
        Value::Null => sqlite::Value::Null,
        Value::Integer(integer) => sqlite::Value::Integer(integer),
        Value::Text(text) => sqlite::Value::Text(text),
    }
}

fn from_host(value: sqlite::Value) -> Result<Value, StoreError> {
    match value {
        sqlite::Value::Null => Ok(Value::Null),
        sqlite::Value::Integer(integer) => Ok(Value::Integer(integer)),
        sqlite::Value::Text(text) => Ok(Value::Text(text)),
        sqlite::Value::Real(_) | sqlite::Value::Blob(_) => {
            Err(StoreError::Broken("a column has a type that the schema does not use".to_owned()))
        }
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

/// The key-value store labelled `default`, opened for each operation: opening is no I/O.
pub struct StoreKeyValue;

impl KeyValue for StoreKeyValue {
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError> {
        open().await?.set(key, value).await.map_err(queue_error)
    }

    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        open().await?.get(key).await.map_err(queue_error)
    }

    async fn delete(&self, keys: &[String]) -> Result<(), QueueError> {
        let store = open().await?;
        for key in keys {
            store.delete(key).await.map_err(queue_error)?;
        }
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<String>, QueueError> {
        open().await?.get_keys().await.collect().await.map_err(queue_error)
    }
}

async fn open() -> Result<Store, QueueError> {
    Store::open_default().await.map_err(queue_error)
}

fn queue_error(error: key_value::Error) -> QueueError {
    QueueError(error.to_string())
}
