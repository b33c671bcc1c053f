//! The routes of the FastAPI service on SQLite, under `/api`.

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
        .route("/api/order", post(create))
        .route("/api/order/{order_id}", get(identifier_and_status))
        .route("/api/metrics", get(metrics))
}

pub const ERRORS: ErrorStyle = ErrorStyle { invalid: StatusCode::UNPROCESSABLE_ENTITY, ..ErrorStyle::USUAL };

const ORDER: Shape = Shape { order_id: OrderIdField::Required, items_field: "item_ids" };

async fn create(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        Reply::json(StatusCode::OK, &json!({ "message": "Order received", "order_id": order.content.order_id }))
    }
    let (order, sender) = post.into_order(&ORDER)?;
    app.execute(Command::Accept(order, accepted), sender).await
}

async fn metrics(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    let metrics = app.metrics().await?;
    Ok(Json(json!({
        "total_orders": metrics.total,
        "orders_pending": metrics.count(Status::Pending),
        "orders_processing": metrics.count(Status::Processing),
        "orders_completed": metrics.count(Status::Completed),
        "average_processing_time": metrics.average_processing_seconds(),
    })))
}
