//! The routes of the Go service on SQLite, under `/order`; its metrics are in [`super::plain_metrics`].

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::{Id, Items, Order};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::http::post::Post;
use crate::http::problem::ApiError;
use crate::http::reply::Reply;
use crate::http::uri::OrderIdInPath;
use crate::write::command::Command;

pub fn routes() -> Router<App> {
    Router::new().route("/order", post(create)).route("/order/{order_id}", get(read))
}

const ORDER: Shape = Shape { order_id: OrderIdField::Required, items_field: "item_ids" };

async fn create(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        // Here, and only here, the identifier is a string whatever the client sent.
        let order_id = order.content.order_id.as_str();
        let message = "Order processing initiated successfully";
        Reply::json(StatusCode::ACCEPTED, &json!({ "message": message, "order_id": order_id }))
    }
    let (order, sender) = post.into_order(&ORDER)?;
    app.execute(Command::Accept(order, accepted), sender).await
}

#[derive(Serialize)]
struct OrderResource {
    order_id: Id,
    user_id: Id,
    item_ids: Items,
    total_amount: Box<RawValue>,
    status: Status,
    created_time: String,
    processed_time: Option<String>,
}

async fn read(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<OrderResource>, ApiError> {
    let order = app.order(order_id).await?;
    let completed_at = order.finished_at.filter(|_| order.status == Status::Completed);
    Ok(Json(OrderResource {
        total_amount: order.content.total_amount.to_json_number(),
        order_id: order.content.order_id,
        user_id: order.content.user_id,
        item_ids: order.content.item_ids,
        status: order.status,
        created_time: order.created_at.to_sql_datetime(),
        processed_time: completed_at.map(|time| time.to_sql_datetime()),
    }))
}
