//! The five dialects: the routes and wire shapes of systems that this service replaces, so that their
//! clients can be pointed here unchanged. A file each, with nothing but routes and shapes.
//!
//! Common to all: an order sent again is the same order, fields that a dialect does not know are ignored,
//! and errors are problems with the extension members that the clients read ([`DialectErrors`]).

mod echo_mysql;
mod fastapi_postgres;
mod fastapi_sqlite;
mod go_sqlite;
mod node_sqlite;
mod plain_metrics;

use axum::middleware::map_response;
use axum::response::Response;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use crate::extract::OrderIdInPath;
use crate::orders;
use crate::problem::{ApiError, DialectErrors};

/// The routes of all dialects.
pub fn routes() -> Router {
    let dialects = [
        (echo_mysql::routes(), DialectErrors::USUAL),
        (fastapi_postgres::routes(), fastapi_postgres::ERRORS),
        (node_sqlite::routes(), DialectErrors::USUAL),
        (fastapi_sqlite::routes(), fastapi_sqlite::ERRORS),
        (go_sqlite::routes(), DialectErrors::USUAL),
        (plain_metrics::routes(), DialectErrors::USUAL),
    ];
    dialects.into_iter().fold(Router::new(), |router, (routes, errors)| {
        // Before the layer, which is to see these answers too.
        let routes = routes.method_not_allowed_fallback(async || -> Response { ApiError::MethodNotAllowed.into() });
        let routes = routes.layer(map_response(move |response: Response| async move { errors.apply(response) }));
        // For those who keep an answer.
        router.merge(routes.layer(Extension(errors)))
    })
}

/// What both FastAPI services answer to the question for an order.
async fn identifier_and_status(OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    let order = orders::find(order_id).await?;
    Ok(Json(json!({ "order_id": order.content.order_id, "status": order.status })))
}
