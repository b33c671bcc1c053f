//! The stores of an instance, and what each is for.

use std::rc::Rc;

use order_core::store::{Store, StoreError};
use runtime::store;

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
                    store::open_for_lookups().await.map(Rc::from)
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
    store::open_async().await.map(Rc::from)
}
