//! Connections by blocking calls, of WASI 0.2.

use std::time::Duration;

use order_core::sqlite::{Connection, Row, Value};
use order_core::store::StoreError;

use super::conversions::conversions;
use super::tries::{BUSY_TIMEOUT, Tries};
use crate::bindings::spin::sqlite::sqlite;

mod of_host {
    super::conversions!(crate::bindings::spin::sqlite::sqlite);
}

/// A connection by blocking calls: the component waits for each. For lookups that takes less time than going on with
/// something else and coming back.
pub struct BlockingConnection(sqlite::Connection);

impl BlockingConnection {
    /// Opens a connection.
    ///
    /// # Errors
    /// The host has no such database, does not grant it, or cannot open it.
    pub fn open() -> Result<Self, StoreError> {
        let connection = Self(sqlite::Connection::open("default").map_err(of_host::store_error)?);
        connection.execute_once(BUSY_TIMEOUT, &[])?;
        Ok(connection)
    }

    fn execute_once(&self, sql: &str, parameters: &[sqlite::Value]) -> Result<Vec<Row>, StoreError> {
        let rows = self.0.execute(sql, parameters).map_err(of_host::store_error)?.rows;
        rows.into_iter().map(|row| row.values.into_iter().map(of_host::from_host).collect()).collect()
    }
}

impl Connection for BlockingConnection {
    async fn execute_within(
        &self,
        patience: Duration,
        sql: &str,
        parameters: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let parameters: Vec<_> = parameters.into_iter().map(of_host::to_host).collect();
        let mut tries = Tries::within(patience);
        loop {
            match self.execute_once(sql, &parameters) {
                Err(StoreError::Busy) => match tries.pause() {
                    Some(pause) => std::thread::sleep(pause),
                    None => return Err(StoreError::Busy),
                },
                outcome => return outcome,
            }
        }
    }
}
