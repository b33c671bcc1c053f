//! `/metrics`, which two systems share: the union of what [`super::node_sqlite`] and [`super::go_sqlite`]
//! answer there.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use order_core::lifecycle::Status;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::problem::ApiError;

pub fn routes() -> Router<App> {
    Router::new().route("/metrics", get(metrics))
}

async fn metrics(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let metrics = app.metrics().await?;
    let (pending, processing) = (metrics.count(Status::Pending), metrics.count(Status::Processing));
    let completed = metrics.count(Status::Completed);
    Ok(Json(json!({
        "total_orders": metrics.total,
        "average_processing_time": metrics.average_processing_seconds(),
        "order_counts": { "Pending": pending, "Processing": processing, "Completed": completed },
        "avg_processing_time": metrics.average_processing_seconds(),
        "pending_orders": pending,
        "processing_orders": processing,
        "completed_orders": completed,
    })))
}
