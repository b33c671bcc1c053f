//! Where the store is opened: the one place that knows which database it is.

use std::rc::Rc;

use order_core::sqlite::SqliteStore;
use order_core::store::{Store, StoreError};
use runtime::sqlite::{AsyncConnection, BlockingConnection};

use crate::shared::SharedConnection;

/// The connections of an instance. Reads have connections of their own, so that they see no transaction before its end
/// and wait for none: one for lookups, one for lists, which may take their time.
#[derive(Default)]
pub struct Stores {
    lookups: SharedConnection,
    lists: SharedConnection,
    writes: SharedConnection,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reading a row or a few, by calls that the instance waits for.
    Lookups,
    /// Reading lists.
    Lists,
    /// Changing something, for the one batch at a time.
    Writes,
}

/// How many KiB of pages the connection for lookups keeps: the inner pages of a table and an index of ten million
/// orders take 5,000; what each lookup then reads anew is a leaf of both.
const LOOKUPS_PAGES_KIB: u32 = 8_000;

impl Stores {
    /// The store for this purpose.
    ///
    /// # Errors
    /// It cannot be opened now; the next call tries anew.
    pub async fn get(&self, purpose: Purpose) -> Result<Rc<dyn Store>, StoreError> {
        match purpose {
            Purpose::Lookups => {
                let open = async || {
                    // A migration may have to wait for other writers, this instance's among them: a connection for
                    // which the whole instance waits must find it done.
                    drop(self.lists.get(open_async).await?);
                    let store = SqliteStore::open(BlockingConnection::open()?).await?;
                    Ok(Rc::new(store.keep_pages(LOOKUPS_PAGES_KIB).await?) as Rc<dyn Store>)
                };
                self.lookups.get(open).await
            }
            Purpose::Lists => self.lists.get(open_async).await,
            Purpose::Writes => self.writes.get(open_async).await,
        }
    }

    /// Drops the store for this purpose, so that the next [`Self::get`] opens another.
    pub fn forget(&self, purpose: Purpose) {
        match purpose {
            Purpose::Lookups => self.lookups.forget(),
            Purpose::Lists => self.lists.forget(),
            Purpose::Writes => self.writes.forget(),
        }
    }
}

async fn open_async() -> Result<Rc<dyn Store>, StoreError> {
    Ok(Rc::new(SqliteStore::open(AsyncConnection::open().await?).await?))
}
