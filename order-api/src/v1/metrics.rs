//! The counters.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use order_core::lifecycle::Status;
use order_core::store::Metrics;
use serde::Serialize;

use crate::app::App;
use crate::http::problem::ApiError;

pub fn routes() -> Router<App> {
    Router::new().route("/v1/metrics", get(metrics))
}

async fn metrics(State(app): State<App>) -> Result<Json<MetricsResource>, ApiError> {
    Ok(Json(app.metrics().await?.into()))
}

/// The metrics as `/v1` shows them. Averages are in seconds, over completed orders, 0 while there are none.
#[derive(Serialize)]
struct MetricsResource {
    total_orders: u64,
    orders_by_status: StatusCounts,
    /// From the start of the last attempt to completion.
    average_processing_seconds: f64,
    /// From intake to completion.
    average_completion_seconds: f64,
}

/// How many orders stand where.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct StatusCounts {
    pending: u64,
    processing: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
}

impl From<Metrics> for MetricsResource {
    fn from(metrics: Metrics) -> Self {
        Self {
            total_orders: metrics.total,
            orders_by_status: StatusCounts {
                pending: metrics.count(Status::Pending),
                processing: metrics.count(Status::Processing),
                completed: metrics.count(Status::Completed),
                failed: metrics.count(Status::Failed),
                cancelled: metrics.count(Status::Cancelled),
            },
            average_processing_seconds: metrics.average_processing_seconds(),
            average_completion_seconds: metrics.average_completion_seconds(),
        }
    }
}
