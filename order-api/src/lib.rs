//! The HTTP component.
//!
//! | File | What is there |
//! |---|---|
//! | `router` | all routes, and the layers around them |
//! | `v1` | the API, a file per noun |
//! | `compat` | the routes of five other systems, a file each |
//! | `ops` | what operators ask |
//! | `write` | commands, group commit, idempotency, backlog |
//! | `app` | what an instance has, and how handlers read |
//! | `stores` | the stores of an instance, and what each is for |
//! | `http` | bodies, problems, replies |
//!
//! Conventions of all routes: bodies are JSON; an error is an RFC 9457 problem ([`http::problem`]); what a client
//! sends is checked here and in [`order_core::draft`], and no input traps the component, since a trap would
//! fail the other requests of the instance.

mod app;
mod compat;
mod http;
mod ops;
mod router;
mod shared;
mod stores;
mod v1;
mod write;

use std::cell::OnceCell;

use app::App;
use axum::Router;
use runtime::variables::VariableError;
use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;
use tower_service::Service;

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    thread_local! {
        /// Built once per instance; a clone of it is a reference.
        static ROUTER: OnceCell<Router> = const { OnceCell::new() };
    }
    let mut router = ROUTER.with(|router| router.get().cloned()).unwrap_or_else(|| match App::new() {
        Err(VariableError::Unreadable(error)) => {
            // The next request tries anew.
            eprintln!("order-api: {error}");
            router::unavailable()
        }
        read => ROUTER.with(|router| router.get_or_init(|| new_router(read)).clone()),
    });
    match router.call(request).await {
        Ok(response) => response,
        Err(infallible) => match infallible {},
    }
}

fn new_router(app: Result<App, VariableError>) -> Router {
    match app {
        Ok(app) => router::routes(app),
        Err(error) => {
            eprintln!("order-api: {error}");
            router::misconfigured(error.to_string())
        }
    }
}
