//! The store on a pool of connections.

use std::cell::Cell;
use std::rc::Rc;

use super::changes::{MAX_CHANGES, STEP};
use super::connection::{Connection, Pool, Row, Value};
use super::migrate;
use crate::store::StoreError;

/// How many slots an owner's counters have: writers wait for each other where they draw the same one.
const SLOTS: u64 = 64;
/// How often a statement is tried that was rolled back for somebody else's sake.
const TRIES: usize = 5;

/// A [`Store`](crate::store::Store) on a pool of connections, or within a transaction on one of them.
pub struct PostgresStore<P: Pool> {
    pool: Rc<P>,
    /// The connection of the transaction that this is.
    connection: Option<P::Connection>,
    /// Where this store counts.
    slot: i64,
    /// How many places for changes are taken in the transaction.
    places: Cell<i64>,
}

impl<P: Pool> PostgresStore<P> {
    /// Brings the database to [`SCHEMA_VERSION`](super::SCHEMA_VERSION). `random` spreads stores over the counters.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`] when the database has a later version than this build knows.
    pub async fn open(pool: P, random: u64) -> Result<Self, StoreError> {
        let connection = pool.take().await?;
        migrate::migrate(&connection).await?;
        migrate::raise_numbering(&connection).await?;
        let slot = (random % SLOTS) as i64;
        Ok(Self { pool: Rc::new(pool), connection: None, slot, places: Cell::new(0) })
    }

    pub(super) fn slot(&self) -> i64 {
        self.slot
    }

    /// Begins a transaction.
    pub(super) async fn within_transaction(&self) -> Result<Self, StoreError> {
        let connection = self.pool.take().await?;
        connection.execute("BEGIN", vec![]).await?;
        Ok(Self { pool: self.pool.clone(), connection: Some(connection), slot: self.slot, places: Cell::new(0) })
    }

    /// Runs a statement: in the transaction that this is, or as one of its own.
    pub(super) async fn execute(&self, sql: &str, parameters: Vec<Value>) -> Result<Vec<Row>, StoreError> {
        if let Some(connection) = &self.connection {
            return connection.execute(sql, parameters).await;
        }
        let connection = self.pool.take().await?;
        for _ in 1..TRIES {
            match connection.execute(sql, parameters.clone()).await {
                Err(StoreError::Conflict) => {}
                outcome => return outcome,
            }
        }
        connection.execute(sql, parameters).await
    }

    /// Runs a statement that answers a row for each change that it makes, or takes `places` for what it may make; its
    /// first two parameters come before `parameters`.
    pub(super) async fn change(
        &self,
        sql: &str,
        places: usize,
        parameters: impl IntoIterator<Item = Value>,
    ) -> Result<Vec<Row>, StoreError> {
        let taken = self.places.get();
        let parameters = [(STEP * taken).into(), self.slot.into()].into_iter().chain(parameters).collect();
        let rows = self.execute(sql, parameters).await?;
        if self.connection.is_some() {
            let taken = taken + rows.len().max(places) as i64;
            if taken > MAX_CHANGES {
                return Err(StoreError::Broken("a transaction makes too many changes".to_owned()));
            }
            self.places.set(taken);
        }
        Ok(rows)
    }
}
