//! Orders, one by one.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::{Amount, Currency, Id, Items, Order, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::post::Post;
use crate::http::problem::ApiError;
use crate::http::reply::Reply;
use crate::http::uri::OrderIdInPath;
use crate::write::command::Command;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/orders", post(create))
        .route("/v1/orders/{order_id}", get(read))
        .route("/v1/orders/{order_id}/events", get(events))
        .route("/v1/orders/{order_id}/attempts", get(attempts))
        .route("/v1/orders/{order_id}/cancel", post(cancel))
        .route("/v1/orders/{order_id}/retry", post(retry))
}

const ORDER: Shape = Shape { order_id: OrderIdField::Optional, items_field: "item_ids" };

async fn create(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        let location = Some(location(&order.content.order_id));
        Reply { location, ..Reply::json(StatusCode::ACCEPTED, &OrderResource::from(order)) }
    }
    let (order, sender) = post.into_order(&ORDER)?;
    app.execute(Command::Accept(order, accepted), sender).await
}

fn found(order: &Order) -> Reply {
    Reply::ok(&OrderResource::from(order))
}

async fn cancel(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath, post: Post) -> Result<Reply, ApiError> {
    app.execute(Command::Cancel(order_id, found), post.sender).await
}

async fn retry(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath, post: Post) -> Result<Reply, ApiError> {
    app.execute(Command::Retry(order_id, found), post.sender).await
}

async fn read(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath) -> Result<Reply, ApiError> {
    Ok(found(&app.order(order_id).await?))
}

async fn events(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "events": app.events(order_id).await? })))
}

async fn attempts(State(app): State<App>, OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "attempts": app.attempts(order_id).await? })))
}

/// The path of an order, with the characters encoded that a path segment cannot hold (RFC 3986, section 3.3).
fn location(order_id: &Id) -> String {
    const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    format!("/v1/orders/{}", utf8_percent_encode(order_id.as_str(), NOT_UNRESERVED))
}

/// An order as `/v1` shows it.
#[derive(Serialize)]
pub struct OrderResource<'a> {
    order_id: &'a Id,
    user_id: &'a Id,
    item_ids: &'a Items,
    /// A decimal string with two decimals.
    total_amount: Amount,
    currency: &'a Currency,
    status: Status,
    attempts: u32,
    created_at: Timestamp,
    /// When the last attempt started.
    started_at: Option<Timestamp>,
    completed_at: Option<Timestamp>,
    /// Why the last attempt failed.
    failure: Option<&'a str>,
}

impl<'a> From<&'a Order> for OrderResource<'a> {
    fn from(order: &'a Order) -> Self {
        Self {
            order_id: &order.content.order_id,
            user_id: &order.content.user_id,
            item_ids: &order.content.item_ids,
            total_amount: order.content.total_amount,
            currency: &order.content.currency,
            status: order.status,
            attempts: order.attempts,
            created_at: order.created_at,
            started_at: order.started_at,
            completed_at: order.finished_at.filter(|_| order.status == Status::Completed),
            failure: order.failure.as_deref(),
        }
    }
}
