//! Connections by calls that do not block, of WASI 0.3.

use std::time::Duration;

use order_core::sqlite::{Connection, Row, Value};
use order_core::store::StoreError;
use spin_sdk::sqlite;
use spin_sdk::wasip3::clocks::monotonic_clock;

use super::conversions::conversions;
use super::tries::{BUSY_TIMEOUT, Tries};

mod of_host {
    super::conversions!(spin_sdk::sqlite);
}
use of_host::{from_host, store_error, to_host};

/// A connection by calls that let the component go on with its other requests while a statement runs.
pub struct AsyncConnection(sqlite::Connection);

impl AsyncConnection {
    /// Opens a connection.
    ///
    /// # Errors
    /// The host has no such database, does not grant it, or cannot open it.
    pub async fn open() -> Result<Self, StoreError> {
        let connection = Self(sqlite::Connection::open_default().await.map_err(store_error)?);
        connection.execute_once(BUSY_TIMEOUT, vec![]).await?;
        Ok(connection)
    }

    async fn execute_once(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        let result = self.0.execute(sql, parameters.into_iter().map(to_host)).await.map_err(store_error)?;
        // Only the end of the stream tells whether the statement worked.
        let rows = result.collect().await.map_err(store_error)?;
        rows.into_iter().map(|row| row.values.into_iter().map(from_host).collect()).collect()
    }
}

impl Connection for AsyncConnection {
    async fn execute_within(
        &self,
        patience: Duration,
        sql: &str,
        parameters: Vec<Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut tries = Tries::within(patience);
        loop {
            match self.execute_once(sql, parameters.clone()).await {
                Err(StoreError::Busy) => match tries.pause() {
                    Some(pause) => monotonic_clock::wait_for(pause.as_nanos() as u64).await,
                    None => return Err(StoreError::Busy),
                },
                outcome => return outcome,
            }
        }
    }
}
