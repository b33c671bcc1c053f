//! The store on one connection.

use std::cell::Cell;

use super::connection::{Connection, Row, Value};
use super::migrate;
use crate::store::StoreError;

/// A [`Store`](crate::store::Store) on one connection.
pub struct SqliteStore<C> {
    connection: C,
    /// Whether a transaction was dropped without an end: everything from then on would be part of it.
    abandoned: Cell<bool>,
}

impl<C: Connection> SqliteStore<C> {
    /// Takes a new connection that is this call's alone, and brings its database to
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] when the database has a later version than this build knows.
    pub async fn open(connection: C) -> Result<Self, StoreError> {
        // A commit is durable before it returns, whatever the host's default is.
        connection.execute("PRAGMA synchronous = FULL", vec![]).await?;
        migrate::migrate(&connection).await?;
        Ok(Self { connection, abandoned: Cell::new(false) })
    }

    /// Lets the connection keep so many KiB of pages; SQLite's default is 2,000.
    pub async fn keep_pages(self, kib: u32) -> Result<Self, StoreError> {
        self.connection.execute(&format!("PRAGMA cache_size = -{kib}"), vec![]).await?;
        Ok(self)
    }

    pub(super) async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        if self.abandoned.get() {
            return Err(StoreError::Unavailable("a transaction on this connection did not end".to_owned()));
        }
        self.connection.execute(sql, parameters).await
    }

    /// Refuses everything from now on.
    pub(super) fn abandon(&self) {
        self.abandoned.set(true);
    }
}
