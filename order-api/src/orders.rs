//! What every route does in the end: change something through the [`writer`](crate::writer), look an order up,
//! read the counters.
//!
//! The functions here are where the component waits for its host. Their futures are bound to the one thread
//! of the component, while axum asks for ones that could move: `SendWrapper` says that they never do.

use std::cell::Cell;
use std::rc::Rc;
use std::thread::LocalKey;

use order_core::lifecycle::Status;
use order_core::order::{Attempt, Event, Order, Timestamp};
use order_core::sqlite::SqliteStore;
use order_core::store::{DeadLetterCursor, DeadLetterFilter, DeadLetters, Metrics, OrderStore, StoreError};
use send_wrapper::SendWrapper;

use crate::kept::Kept;
use crate::problem::ApiError;
use crate::runtime::{self, PatientConnection, PromptConnection};
use crate::writer::{self, Keyed, Reply, Write};

/// Carries out a change; see [`writer::write`].
pub async fn write(write: Write, keyed: Option<Keyed>) -> Result<Reply, ApiError> {
    SendWrapper::new(writer::write(write, keyed)).await
}

/// The order with this identifier.
///
/// # Errors
/// [`ApiError::OrderNotFound`].
pub async fn find(order_id: String) -> Result<Order, ApiError> {
    SendWrapper::new(async move {
        let found = keep_unless_failed(&LOOKUPS, lookups().await?.find(&order_id).await)?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    })
    .await
}

/// The order's events.
///
/// # Errors
/// [`ApiError::OrderNotFound`].
pub async fn events(order_id: String) -> Result<Vec<Event>, ApiError> {
    SendWrapper::new(async move {
        let found = keep_unless_failed(&LOOKUPS, lookups().await?.events(&order_id).await)?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    })
    .await
}

/// The order's attempts.
///
/// # Errors
/// [`ApiError::OrderNotFound`].
pub async fn attempts(order_id: String) -> Result<Vec<Attempt>, ApiError> {
    SendWrapper::new(async move {
        let found = keep_unless_failed(&LOOKUPS, lookups().await?.attempts(&order_id).await)?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    })
    .await
}

/// A page of the failed orders.
pub async fn dead_letters(
    filter: DeadLetterFilter,
    after: Option<DeadLetterCursor>,
    limit: u32,
) -> Result<DeadLetters, ApiError> {
    SendWrapper::new(async move {
        let lists = patient(&LISTS).await?;
        Ok(keep_unless_failed(&LISTS, lists.dead_letters(&filter, after, limit).await)?)
    })
    .await
}

/// The counters.
pub async fn metrics() -> Result<Metrics, ApiError> {
    SendWrapper::new(async move { Ok(keep_unless_failed(&LOOKUPS, lookups().await?.metrics().await)?) }).await
}

/// A store that may take its time: the one that writes, for instance.
pub type PatientStore = SqliteStore<PatientConnection>;

thread_local! {
    /// Reads have connections of their own, so that they see no transaction before its end and wait for none:
    /// one for lookups, one for lists, which may take their time.
    static LOOKUPS: Kept<PromptConnection> = const { Kept::nothing() };
    static LISTS: Kept<PatientConnection> = const { Kept::nothing() };
    static WRITES: Kept<PatientConnection> = const { Kept::nothing() };
}

/// How many KiB of pages the connection for lookups keeps: the inner pages of a table and an index of ten million
/// orders take 5,000, and what is read anew for each lookup then is the two leaves.
const LOOKUPS_PAGES_KIB: u32 = 8_000;

async fn lookups() -> Result<Rc<SqliteStore<PromptConnection>>, StoreError> {
    Kept::or_open(&LOOKUPS, async || {
        // A migration takes its turns, and those of the instance's own writer with it: this connection, for which
        // the instance waits, must find it done.
        drop(patient(&LISTS).await?);
        SqliteStore::open(PromptConnection::open()?).await?.keep_pages(LOOKUPS_PAGES_KIB).await
    })
    .await
}

/// Passes an outcome on; after an error the next one gets a connection anew.
fn keep_unless_failed<C, T>(
    place: &'static LocalKey<Kept<C>>,
    outcome: Result<T, StoreError>,
) -> Result<T, StoreError> {
    outcome.inspect_err(|_| Kept::forget(place))
}

/// The store that the leader of the writer has for itself.
pub async fn writing_store() -> Result<Rc<PatientStore>, StoreError> {
    patient(&WRITES).await
}

/// Has the next [`writing_store`] be a new one.
pub fn forget_writing_store() {
    Kept::forget(&WRITES);
}

async fn patient(place: &'static LocalKey<Kept<PatientConnection>>) -> Result<Rc<PatientStore>, StoreError> {
    Kept::or_open(place, async || SqliteStore::open(PatientConnection::open().await?).await).await
}

/// How old the count of the backlog may be, in milliseconds: a burst overshoots the limit by what comes in
/// meanwhile, and the count costs next to nothing.
const BACKLOG_COUNTED_EVERY_MS: u64 = 250;

/// Whether so many orders wait that new ones are refused.
pub async fn backlog_is_full(store: &PatientStore) -> Result<bool, StoreError> {
    thread_local! {
        static COUNTED: Cell<Option<(Timestamp, u64)>> = const { Cell::new(None) };
        static LIMIT: Cell<Option<u64>> = const { Cell::new(None) };
    }
    let limit = match LIMIT.get() {
        Some(limit) => limit,
        None => runtime::max_backlog().await.inspect(|limit| LIMIT.set(Some(*limit))).map_err(StoreError::Broken)?,
    };
    let now = runtime::now();
    let fresh = COUNTED.get().filter(|(at, _)| *at <= now && now.millis_since(*at) < BACKLOG_COUNTED_EVERY_MS);
    let waiting = match fresh {
        Some((_, waiting)) => waiting,
        None => {
            let waiting = store.metrics().await?.count(Status::Pending);
            COUNTED.set(Some((now, waiting)));
            waiting
        }
    };
    Ok(waiting >= limit)
}
