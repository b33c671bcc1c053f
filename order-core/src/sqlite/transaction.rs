//! Several changes that are one.

use async_trait::async_trait;

use super::connection::Connection;
use super::store::SqliteStore;
use crate::store::{Store, StoreError, Transaction, Writes};

#[async_trait(?Send)]
impl<C: Connection> Store for SqliteStore<C> {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, StoreError> {
        // The write lock at once: a transaction that first reads may find no way to write.
        self.execute("BEGIN IMMEDIATE", vec![]).await?;
        Ok(Box::new(Open { store: self, has_ended: false }))
    }
}

/// A transaction that is open on a store's only connection.
struct Open<'a, C: Connection> {
    store: &'a SqliteStore<C>,
    has_ended: bool,
}

#[async_trait(?Send)]
impl<C: Connection> Transaction for Open<'_, C> {
    fn writes(&self) -> &dyn Writes {
        self.store
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.end("COMMIT").await
    }

    async fn roll_back(mut self: Box<Self>) -> Result<(), StoreError> {
        self.end("ROLLBACK").await
    }
}

impl<C: Connection> Open<'_, C> {
    async fn end(&mut self, statement: &str) -> Result<(), StoreError> {
        self.store.execute(statement, vec![]).await?;
        self.has_ended = true;
        Ok(())
    }
}

impl<C: Connection> Drop for Open<'_, C> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.store.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Counters as _, Scope};
    use crate::test_doubles::RusqliteConnection;

    #[test]
    fn a_store_whose_transaction_was_dropped_is_used_no_more() {
        pollster::block_on(async {
            let store = SqliteStore::open(RusqliteConnection::in_memory()).await.unwrap();
            store.begin().await.unwrap().commit().await.unwrap();
            store.begin().await.unwrap().roll_back().await.unwrap();
            assert!(store.metrics(Scope::All).await.is_ok());
            drop(store.begin().await.unwrap());
            assert!(matches!(store.metrics(Scope::All).await, Err(StoreError::Unavailable(_))));
        });
    }
}
