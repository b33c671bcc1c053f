//! What every route does in the end: take an order in, look one up, read the counters.
//!
//! The functions here are where the component waits for its host. Their futures are bound to the one thread
//! of the component, while axum asks for ones that could move: `SendWrapper` says that they never do.

use std::cell::RefCell;
use std::rc::Rc;

use order_core::order::{NewOrder, Order};
use order_core::sqlite::SqliteStore;
use order_core::store::{Acceptance, Metrics, OrderStore, StoreError};
use send_wrapper::SendWrapper;

use crate::group_commit;
use crate::problem::ApiError;
use crate::runtime::SqliteConnection;

/// Takes an order in. When this returns, the order is durable; the same order sent again is the same order.
///
/// # Errors
/// [`ApiError::OrderConflict`] when the identifier belongs to an order with other content.
pub async fn create(order: NewOrder) -> Result<Order, ApiError> {
    SendWrapper::new(async move {
        let order_id = order.order_id.as_str().to_owned();
        match group_commit::accept(order).await? {
            Acceptance::Created(order) | Acceptance::Existing(order) => Ok(order),
            Acceptance::Conflict => Err(ApiError::OrderConflict(order_id)),
        }
    })
    .await
}

/// The order with this identifier.
///
/// # Errors
/// [`ApiError::OrderNotFound`].
pub async fn find(order_id: String) -> Result<Order, ApiError> {
    SendWrapper::new(async move {
        let found = store().await?.find(&order_id).await?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    })
    .await
}

/// The counters.
pub async fn metrics() -> Result<Metrics, ApiError> {
    SendWrapper::new(async move { Ok(store().await?.metrics().await?) }).await
}

type Store = SqliteStore<SqliteConnection>;

/// The instance's store: the connection is opened, and the schema looked at, once.
pub async fn store() -> Result<Rc<Store>, StoreError> {
    thread_local! {
        static STORE: RefCell<Option<Rc<Store>>> = const { RefCell::new(None) };
    }
    if let Some(store) = STORE.with_borrow(Clone::clone) {
        return Ok(store);
    }
    // Requests that come together each open one, and one of them stays.
    let store = Rc::new(SqliteStore::open(SqliteConnection::open().await?).await?);
    STORE.set(Some(store.clone()));
    Ok(store)
}
