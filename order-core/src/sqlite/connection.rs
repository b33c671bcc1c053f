//! What the backend needs of a connection.

use std::time::Duration;

use crate::order::Timestamp;
use crate::store::StoreError;

/// A value that goes into or comes out of a statement. The schema needs no others.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// A 64-bit integer.
    Integer(i64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
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

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

/// A row of a result.
pub type Row = Vec<Value>;

/// How long a statement waits for a lock: the busy timeout that Spin and rusqlite set, which clients wait out.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// An open connection to an SQLite database.
pub trait Connection {
    /// Runs the first statement of `sql` and answers its rows. Where the database is locked it waits for `patience` before
    /// it gives up with [`StoreError::Busy`].
    async fn execute_within(
        &self,
        patience: Duration,
        sql: &str,
        parameters: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError>;

    /// The same with [`PATIENCE`].
    async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        self.execute_within(PATIENCE, sql, parameters).await
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
