//! Stand-ins for the runtime, for tests and benchmarks: a rusqlite connection, a key-value store in memory, and
//! a clock that stands still until it is told otherwise.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::order::Timestamp;
use crate::queue::{KeyValue, KeyValueSet, QueueError};
use crate::worker::Clock;

#[cfg(any(test, feature = "rusqlite"))]
pub use database::RusqliteConnection;

#[cfg(any(test, feature = "rusqlite"))]
mod database {
    use std::path::Path;
    use std::time::Duration;

    use rusqlite::types;

    use crate::sqlite::{Connection, Row, Value};
    use crate::store::StoreError;

    /// A connection that is rusqlite's, without a runtime in between.
    pub struct RusqliteConnection(pub rusqlite::Connection);

    impl RusqliteConnection {
        /// A database of its own.
        ///
        /// # Panics
        /// When there is no memory for it.
        pub fn in_memory() -> Self {
            Self(rusqlite::Connection::open_in_memory().unwrap())
        }

        /// The database in the file at `path`.
        ///
        /// # Panics
        /// When it cannot be opened.
        pub fn open(path: &Path) -> Self {
            Self(rusqlite::Connection::open(path).unwrap())
        }
    }

    impl Connection for RusqliteConnection {
        async fn execute_within(
            &self,
            patience: Duration,
            sql: &str,
            parameters: Vec<Value>,
        ) -> Result<Vec<Row>, StoreError> {
            let failed = |error: rusqlite::Error| StoreError::from_sqlite_message(error.to_string());
            self.0.busy_timeout(patience).map_err(failed)?;
            let mut statement = self.0.prepare_cached(sql).map_err(failed)?;
            let columns = statement.column_count();
            let parameters = parameters.into_iter().map(|value| match value {
                Value::Null => types::Value::Null,
                Value::Integer(integer) => types::Value::Integer(integer),
                Value::Text(text) => types::Value::Text(text),
                Value::Blob(bytes) => types::Value::Blob(bytes),
            });
            let mut rows = statement.query(rusqlite::params_from_iter(parameters)).map_err(failed)?;
            let mut result = Vec::new();
            while let Some(row) = rows.next().map_err(failed)? {
                let value = |column| match row.get_unwrap(column) {
                    types::Value::Null => Value::Null,
                    types::Value::Integer(integer) => Value::Integer(integer),
                    types::Value::Text(text) => Value::Text(text),
                    types::Value::Blob(bytes) => Value::Blob(bytes),
                    other => panic!("the schema has no {other:?}"),
                };
                result.push((0..columns).map(value).collect());
            }
            Ok(result)
        }
    }
}

/// A key-value store that is gone with the value.
#[derive(Default)]
pub struct MemoryKeyValue(RefCell<BTreeMap<String, Vec<u8>>>);

impl KeyValueSet for MemoryKeyValue {
    async fn set(&self, key: &str, value: Vec<u8>) -> Result<(), QueueError> {
        self.0.borrow_mut().insert(key.to_owned(), value);
        Ok(())
    }
}

impl KeyValue for MemoryKeyValue {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, QueueError> {
        Ok(self.0.borrow().get(key).cloned())
    }

    async fn delete(&self, keys: &[String]) -> Result<(), QueueError> {
        self.0.borrow_mut().retain(|key, _| !keys.contains(key));
        Ok(())
    }

    async fn keys(&self) -> Result<Vec<String>, QueueError> {
        // Reversed, so that nothing comes to rely on an order.
        Ok(self.0.borrow().keys().rev().cloned().collect())
    }
}

/// A clock that starts at one second past the epoch; sleeping moves it on.
pub struct ManualClock(Cell<i64>);

impl Default for ManualClock {
    fn default() -> Self {
        Self(Cell::new(1_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.get())
    }

    fn sleep_ms(&self, millis: u64) {
        self.0.set(self.0.get() + millis as i64);
    }

    fn random(&self) -> u64 {
        u64::MAX
    }
}
