//! The routes of the Go service on Echo and MySQL, under `/order-service/order`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::Order;
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::post::Post;
use crate::http::problem::ApiError;
use crate::http::reply::Reply;
use crate::http::uri::OrderIdInQuery;
use crate::write::command::Command;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/order-service/order/create", post(create))
        .route("/order-service/order/order-status", get(status))
        .route("/order-service/order/order-metric", get(metrics))
}

/// `items_ids` is how this system spells it.
const ORDER: Shape = Shape { order_id: OrderIdField::Required, items_field: "items_ids" };

async fn create(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    let accepted = |_: &Order| Reply::json(StatusCode::OK, &json!({ "message": "Order created successfully" }));
    let (order, sender) = post.into_order(&ORDER)?;
    app.execute(Command::Accept(order, accepted), sender).await
}

async fn status(State(app): State<App>, OrderIdInQuery(order_id): OrderIdInQuery) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "order_status": app.order(order_id).await?.status })))
}

async fn metrics(State(app): State<App>) -> Result<Json<Value>, ApiError> {
    #[derive(Serialize)]
    struct StatusCount {
        status: Status,
        count: u64,
    }
    let metrics = app.metrics().await?;
    let counts = Status::ALL.map(|status| StatusCount { status, count: metrics.count(status) });
    Ok(Json(json!({
        "order_metrics": {
            "total_orders": metrics.total,
            "avg_processing_time": metrics.average_processing_seconds(),
            "orders_by_status": counts,
        }
    })))
}
