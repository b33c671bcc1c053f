//! The HTTP component: the canonical API under `/v1` and the five dialects of the source systems, over one
//! intake and one set of queries.
//!
//! Conventions of all routes: bodies are JSON; an error is an RFC 9457 problem ([`problem`]); what a client
//! sends is checked here and in [`order_core::draft`], and no input traps the component, since a trap would
//! fail the other requests of the instance.

mod dialects;
mod extract;
mod kept;
mod orders;
mod problem;
mod runtime;
mod v1;
mod writer;

use std::cell::OnceCell;

use axum::Router;
use axum::http::Uri;
use axum::response::Response;
use problem::ApiError;
use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;
use tower_service::Service;

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    thread_local! {
        /// Built once per instance; a clone of it is a reference.
        static ROUTER: OnceCell<Router> = const { OnceCell::new() };
    }
    let mut router = ROUTER.with(|router| router.get_or_init(router_of_all_routes).clone());
    match router.call(request).await {
        Ok(response) => response,
        Err(infallible) => match infallible {},
    }
}

fn router_of_all_routes() -> Router {
    Router::new()
        .merge(v1::routes())
        .merge(dialects::routes())
        .fallback(async |uri: Uri| -> Response { ApiError::UnknownPath(uri.path().to_owned()).into() })
        .method_not_allowed_fallback(async || -> Response { ApiError::MethodNotAllowed.into() })
}
