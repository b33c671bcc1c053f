//! What an instance has: its settings, its connections and its write queue, made once and handed to every handler.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use axum::extract::FromRef;
use order_core::dead_letters::DeadLetterRequest;
use order_core::order::{Attempt, Event, Order};
use order_core::page::Page;
use order_core::principal::NOBODY;
use order_core::store::{Metrics, Scope, Store, StoreError};
use runtime::variables::{self, VariableError};
use send_wrapper::SendWrapper;

use crate::http::budget::BodyBudget;
use crate::http::post::{PostPolicy, Sender};
use crate::http::problem::ApiError;
use crate::http::reply::Reply;
use crate::stores::{Purpose, Stores};
use crate::write::WriteQueue;
use crate::write::command::Command;

/// A handle on the instance's state. Its futures are bound to the one thread of the component, while axum asks for ones
/// that could move: `SendWrapper` says that they never do.
#[derive(Clone)]
pub struct App(Arc<SendWrapper<AppState>>);

/// See [`App`].
pub struct AppState {
    stores: Rc<Stores>,
    writes: Rc<WriteQueue>,
    post: PostPolicy,
}

impl App {
    /// Reads the settings; connections are opened when they are first needed.
    ///
    /// # Errors
    /// The first variable that breaks its rule, or cannot be read.
    pub fn new() -> Result<Self, VariableError> {
        // Those of the worker too: what is wrong is said before anything is served.
        let settings = variables::settings()?;
        let stores = Rc::new(Stores::default());
        let state = AppState {
            writes: WriteQueue::new(stores.clone(), settings.max_backlog),
            post: PostPolicy {
                caller_header: settings.caller_header.map(Arc::from),
                budget: SendWrapper::new(BodyBudget::new()),
            },
            stores,
        };
        Ok(Self(Arc::new(SendWrapper::new(state))))
    }

    fn state(&self) -> &AppState {
        self.0.deref()
    }

    /// Carries out a command; what this answers is durable.
    pub async fn execute(&self, command: Command, sender: Sender) -> Result<Reply, ApiError> {
        SendWrapper::new(self.state().writes.execute(command, sender)).await
    }

    /// The order with this identifier.
    ///
    /// # Errors
    /// [`ApiError::OrderNotFound`].
    pub async fn order(&self, order_id: String) -> Result<Order, ApiError> {
        let found = self.read(Purpose::Lookups, async |store| store.find(&NOBODY, &order_id).await).await?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    }

    /// The order's events.
    ///
    /// # Errors
    /// [`ApiError::OrderNotFound`].
    pub async fn events(&self, order_id: String) -> Result<Vec<Event>, ApiError> {
        let found = self.read(Purpose::Lookups, async |store| store.events(&NOBODY, &order_id).await).await?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    }

    /// The order's attempts.
    ///
    /// # Errors
    /// [`ApiError::OrderNotFound`].
    pub async fn attempts(&self, order_id: String) -> Result<Vec<Attempt>, ApiError> {
        let found = self.read(Purpose::Lookups, async |store| store.attempts(&NOBODY, &order_id).await).await?;
        found.ok_or(ApiError::OrderNotFound(order_id))
    }

    /// A page of the failed orders.
    pub async fn dead_letters(&self, request: DeadLetterRequest) -> Result<Page<Order>, ApiError> {
        let DeadLetterRequest { filter, after, limit } = request;
        Ok(self.read(Purpose::Lists, async |store| store.list(&NOBODY, &filter, after, limit).await).await?)
    }

    /// The counters.
    pub async fn metrics(&self) -> Result<Metrics, ApiError> {
        Ok(self.read(Purpose::Lookups, async |store| store.metrics(Scope::All).await).await?)
    }

    /// Reads by a connection for `purpose`; after an error the next read opens another one.
    async fn read<T>(
        &self,
        purpose: Purpose,
        read: impl AsyncFnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        SendWrapper::new(async {
            let stores = &self.state().stores;
            let store = stores.get(purpose).await?;
            read(&*store).await.inspect_err(|_| stores.forget(purpose))
        })
        .await
    }
}

impl FromRef<App> for PostPolicy {
    fn from_ref(app: &App) -> Self {
        app.state().post.clone()
    }
}
