//! The routes and wire shapes of five systems that this service replaces, so that their clients can be pointed here
//! unchanged. A file each, with nothing but routes and shapes.
//!
//! Common to all: an order sent again is the same order, fields that a system does not know are ignored,
//! and errors are problems with the extension members that the clients read ([`ErrorStyle`]).

mod echo_mysql;
mod fastapi;
mod fastapi_postgres;
mod fastapi_sqlite;
mod go_sqlite;
mod node_sqlite;
mod plain_metrics;

use axum::middleware::map_response;
use axum::response::Response;
use axum::{Extension, Router};

use crate::app::App;
use crate::http::problem::{ApiError, ErrorStyle};

/// The routes of all systems.
pub fn routes() -> Router<App> {
    let systems = [
        (echo_mysql::routes(), ErrorStyle::USUAL),
        (fastapi_postgres::routes(), fastapi_postgres::ERRORS),
        (node_sqlite::routes(), ErrorStyle::USUAL),
        (fastapi_sqlite::routes(), fastapi_sqlite::ERRORS),
        (go_sqlite::routes(), ErrorStyle::USUAL),
        (plain_metrics::routes(), ErrorStyle::USUAL),
    ];
    systems.into_iter().fold(Router::new(), |router, (routes, errors)| {
        // Before the layer, which is to see these answers too.
        let routes = routes.method_not_allowed_fallback(async || -> Response { ApiError::MethodNotAllowed.into() });
        let routes = routes.layer(map_response(move |response: Response| async move { errors.apply(response) }));
        // For those who keep an answer.
        router.merge(routes.layer(Extension(errors)))
    })
}
