//! The dialect of the FastAPI service on SQLite, under `/api`.

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::Order;
use serde_json::{Value, json};

use crate::extract::Post;
use crate::orders;
use crate::problem::{ApiError, DialectErrors};
use crate::writer::{Reply, Write};

pub fn routes() -> Router {
    Router::new()
        .route("/api/order", post(create))
        .route("/api/order/{order_id}", get(super::identifier_and_status))
        .route("/api/metrics", get(metrics))
}

pub const ERRORS: DialectErrors = DialectErrors { invalid: StatusCode::UNPROCESSABLE_ENTITY, ..DialectErrors::USUAL };

const ORDER: Shape = Shape { order_id: OrderIdField::Required, items_field: "item_ids" };

async fn create(post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        Reply::json(StatusCode::OK, &json!({ "message": "Order received", "order_id": order.content.order_id }))
    }
    orders::write(Write::Accept(post.order(&ORDER)?, accepted), post.keyed).await
}

async fn metrics() -> Result<Json<Value>, ApiError> {
    let metrics = orders::metrics().await?;
    Ok(Json(json!({
        "total_orders": metrics.total,
        "orders_pending": metrics.count(Status::Pending),
        "orders_processing": metrics.count(Status::Processing),
        "orders_completed": metrics.count(Status::Completed),
        "average_processing_time": metrics.average_processing_seconds(),
    })))
}
