//! The API, a file per noun.

mod dead_letters;
mod metrics;
mod orders;

use axum::Router;

use crate::app::App;

/// The routes under `/v1`.
pub fn routes() -> Router<App> {
    Router::new().merge(orders::routes()).merge(dead_letters::routes()).merge(metrics::routes())
}
