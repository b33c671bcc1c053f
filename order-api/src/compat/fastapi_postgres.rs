//! The routes of the FastAPI service on PostgreSQL, under `/api/v1`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::Order;
use serde_json::{Value, json};

use super::fastapi::identifier_and_status;
use crate::app::App;
use crate::http::post::Post;
use crate::http::problem::{ApiError, ErrorStyle};
use crate::http::reply::Reply;
use crate::write::command::Command;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/api/v1/orders", post(create))
        .route("/api/v1/orders/{order_id}", get(identifier_and_status))
        .route("/api/v1/metrics", get(metrics))
}

/// Its clients know a taken identifier by a 400 and these words.
pub const ERRORS: ErrorStyle = ErrorStyle {
    conflict: StatusCode::BAD_REQUEST,
    conflict_message: Some(|order_id| format!("Order with order_id {order_id} already exists.")),
    ..ErrorStyle::USUAL
};

const ORDER: Shape = Shape { order_id: OrderIdField::Required, items_field: "item_ids" };

async fn create(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        let order_id = order.content.order_id.as_str();
        let message = format!("Order successfully processed. Please check status for order id: {order_id}");
        Reply::json(StatusCode::ACCEPTED, &json!({ "status_code": 202, "message": message }))
    }
    let (order, sender) = post.into_order(&ORDER)?;
    app.execute(Command::Accept(order, accepted), sender).await
}

async fn metrics(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let metrics = app.metrics().await?;
    Ok(Json(json!({
        "status_code": 200,
        // The words are the documented ones.
        "message": "Succesfully fetched metrics Ddta",
        "data": {
            "total_orders_processed": metrics.count(Status::Completed),
            // A sum of seconds over the completed orders.
            "total_processing_time": metrics.processing_ms as f64 / 1_000.0,
            "status_counts": {
                "Pending": metrics.count(Status::Pending),
                "Processing": metrics.count(Status::Processing),
                "Completed": metrics.count(Status::Completed),
            }
        }
    })))
}
