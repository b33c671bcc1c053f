//! The routes of the Node.js service on SQLite, under `/orders`; its metrics are in [`super::plain_metrics`].

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use order_core::lifecycle::Status;
use order_core::order::{Id, Items, NewOrder, Order};
use serde::Serialize;

use crate::app::App;
use crate::http::post::Post;
use crate::http::problem::ApiError;
use crate::http::reply::Reply;
use crate::http::uri::OrderIdInPath;
use crate::write::command::Command;

pub fn routes() -> Router<App> {
    Router::new().route("/orders", post(create)).route("/orders/{order_id}/status", get(status))
}

/// Its clients never name their orders.
const ORDER: Shape = Shape { order_id: OrderIdField::Unknown, items_field: "item_ids" };

#[derive(Serialize)]
struct Created {
    order_id: Id,
    user_id: Id,
    item_ids: Items,
    total_amount: Box<RawValue>,
    status: Status,
}

async fn create(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        let NewOrder { order_id, user_id, item_ids, total_amount, .. } = order.content.clone();
        let total_amount = total_amount.to_json_number();
        Reply::json(StatusCode::CREATED, &Created { order_id, user_id, item_ids, total_amount, status: order.status })
    }
    let (order, sender) = post.into_order(&ORDER)?;
    app.execute(Command::Accept(order, accepted), sender).await
}

async fn status(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "status": app.order(order_id).await?.status })))
}
