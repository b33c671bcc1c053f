//! The dialect of the Node.js service on SQLite, under `/orders`; its metrics are in [`super::plain_metrics`].

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use order_core::lifecycle::Status;
use order_core::order::Id;
use serde::Serialize;

use crate::extract::{JsonBody, OrderIdInPath};
use crate::orders;
use crate::problem::ApiError;

pub fn routes() -> Router {
    Router::new().route("/orders", post(create)).route("/orders/{order_id}/status", get(status))
}

/// Its clients never name their orders.
const ORDER: Shape = Shape { order_id: OrderIdField::Unknown, items_field: "item_ids" };

#[derive(Serialize)]
struct Created {
    order_id: Id,
    user_id: Id,
    item_ids: Vec<Id>,
    total_amount: Box<RawValue>,
    status: Status,
}

async fn create(body: JsonBody) -> Result<(StatusCode, Json<Created>), ApiError> {
    let order = orders::create(body.order(&ORDER)?).await?;
    let created = Created {
        total_amount: order.content.total_amount.to_json_number(),
        order_id: order.content.order_id,
        user_id: order.content.user_id,
        item_ids: order.content.item_ids,
        status: order.status,
    };
    Ok((StatusCode::CREATED, Json(created)))
}

async fn status(OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "status": orders::find(order_id).await?.status })))
}
