//! The dialect of the Go service on Echo and MySQL, under `/order-service/order`.

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::Order;
use serde::Serialize;
use serde_json::{Value, json};

use crate::extract::{OrderIdInQuery, Post};
use crate::orders;
use crate::problem::ApiError;
use crate::writer::{Reply, Write};

pub fn routes() -> Router {
    Router::new()
        .route("/order-service/order/create", post(create))
        .route("/order-service/order/order-status", get(status))
        .route("/order-service/order/order-metric", get(metrics))
}

/// `items_ids` is how this dialect spells it.
const ORDER: Shape = Shape { order_id: OrderIdField::Required, items_field: "items_ids" };

async fn create(post: Post) -> Result<Reply, ApiError> {
    let accepted = |_: &Order| Reply::json(StatusCode::OK, &json!({ "message": "Order created successfully" }));
    orders::write(Write::Accept(post.order(&ORDER)?, accepted), post.keyed).await
}

async fn status(OrderIdInQuery(order_id): OrderIdInQuery) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "order_status": orders::find(order_id).await?.status })))
}

async fn metrics() -> Result<Json<Value>, ApiError> {
    #[derive(Serialize)]
    struct StatusCount {
        status: Status,
        count: u64,
    }
    let metrics = orders::metrics().await?;
    let counts = Status::ALL.map(|status| StatusCount { status, count: metrics.count(status) });
    Ok(Json(json!({
        "order_metrics": {
            "total_orders": metrics.total,
            "avg_processing_time": metrics.average_processing_seconds(),
            "orders_by_status": counts,
        }
    })))
}
