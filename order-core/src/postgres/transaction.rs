//! Several changes that are one.

use async_trait::async_trait;

use super::connection::Pool;
use super::store::PostgresStore;
use crate::store::{Store, StoreError, Transaction, Writes};

#[async_trait(?Send)]
impl<P: Pool> Store for PostgresStore<P> {
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, StoreError> {
        Ok(Box::new(Open(self.within_transaction().await?)))
    }
}

/// A transaction that is open on a connection of its own. When this is dropped, the pool rolls it back.
struct Open<P: Pool>(PostgresStore<P>);

#[async_trait(?Send)]
impl<P: Pool> Transaction for Open<P> {
    fn writes(&self) -> &dyn Writes {
        &self.0
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.0.execute("COMMIT", vec![]).await.map(drop)
    }

    async fn roll_back(self: Box<Self>) -> Result<(), StoreError> {
        self.0.execute("ROLLBACK", vec![]).await.map(drop)
    }
}
