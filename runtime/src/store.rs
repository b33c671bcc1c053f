//! Where the store is opened: the one place that knows which database it is.

use order_core::sqlite::SqliteStore;
use order_core::store::{Store, StoreError};

use crate::sqlite::BlockingConnection;

/// How many KiB of pages a connection for lookups keeps: the inner pages of a table and an index of ten million
/// orders take 5,000; what each lookup then reads anew is a leaf of both.
#[cfg(feature = "async")]
const LOOKUPS_PAGES_KIB: u32 = 8_000;

/// A store by blocking calls, for a component that does one thing at a time.
///
/// # Errors
/// It cannot be opened now.
pub async fn open_blocking() -> Result<Box<dyn Store>, StoreError> {
    Ok(Box::new(SqliteStore::open(BlockingConnection::open()?).await?))
}

/// A store by blocking calls for reading a row or a few, in a component with many requests: all of them wait for
/// each call, so the store must have been brought to its schema before, by another connection.
///
/// # Errors
/// It cannot be opened now.
#[cfg(feature = "async")]
pub async fn open_for_lookups() -> Result<Box<dyn Store>, StoreError> {
    let store = SqliteStore::open(BlockingConnection::open()?).await?;
    Ok(Box::new(store.keep_pages(LOOKUPS_PAGES_KIB).await?))
}

/// A store by calls that let the component go on with its other requests.
///
/// # Errors
/// It cannot be opened now.
#[cfg(feature = "async")]
pub async fn open_async() -> Result<Box<dyn Store>, StoreError> {
    Ok(Box::new(SqliteStore::open(crate::sqlite::AsyncConnection::open().await?).await?))
}
