//! What operators and the platforms that run the service ask.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::app::App;
use crate::http::problem::ApiError;

/// The path of [`ready`].
pub const READY: &str = "/readyz";

/// The routes.
pub fn routes() -> Router<App> {
    Router::new().route(READY, get(ready))
}

/// Whether requests can be served: the settings make sense (there is no [`App`] otherwise) and the database answers.
async fn ready(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    app.metrics().await?;
    Ok(Json(json!({ "status": "ready" })))
}
