//! The canonical API.

use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use order_core::draft::{OrderIdField, Shape};
use order_core::lifecycle::Status;
use order_core::order::{Amount, Currency, Id, Order, Timestamp};
use order_core::store::Metrics;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::extract::{DeadLetterQuery, OrderIdInPath, Post};
use crate::orders;
use crate::problem::ApiError;
use crate::writer::{Reply, Write};

/// The routes under `/v1`.
pub fn routes() -> Router {
    Router::new()
        .route("/v1/orders", post(create))
        .route("/v1/orders/{order_id}", get(read))
        .route("/v1/orders/{order_id}/events", get(events))
        .route("/v1/orders/{order_id}/attempts", get(attempts))
        .route("/v1/orders/{order_id}/cancel", post(cancel))
        .route("/v1/orders/{order_id}/retry", post(retry))
        .route("/v1/dead-letters", get(dead_letters))
        .route("/v1/dead-letters/retry", post(retry_dead_letters))
        .route("/v1/metrics", get(metrics))
}

const ORDER: Shape = Shape { order_id: OrderIdField::Optional, items_field: "item_ids" };

async fn create(post: Post) -> Result<Reply, ApiError> {
    fn accepted(order: &Order) -> Reply {
        let location = Some(location(&order.content.order_id));
        Reply { location, ..Reply::json(StatusCode::ACCEPTED, &OrderResource::from(order)) }
    }
    orders::write(Write::Accept(post.order(&ORDER)?, accepted), post.keyed).await
}

fn found(order: &Order) -> Reply {
    Reply::json(StatusCode::OK, &OrderResource::from(order))
}

async fn cancel(OrderIdInPath(order_id): OrderIdInPath, post: Post) -> Result<Reply, ApiError> {
    orders::write(Write::Cancel(order_id, found), post.keyed).await
}

async fn retry(OrderIdInPath(order_id): OrderIdInPath, post: Post) -> Result<Reply, ApiError> {
    orders::write(Write::Retry(order_id, found), post.keyed).await
}

async fn retry_dead_letters(post: Post) -> Result<Reply, ApiError> {
    let (filter, limit) = post.dead_letter_filter()?;
    let retried = |count: usize| Reply::json(StatusCode::OK, &json!({ "retried": count }));
    orders::write(Write::RetryDeadLetters(filter, limit, retried), post.keyed).await
}

async fn read(OrderIdInPath(order_id): OrderIdInPath) -> Result<Reply, ApiError> {
    Ok(found(&orders::find(order_id).await?))
}

async fn events(OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "events": orders::events(order_id).await? })))
}

async fn attempts(OrderIdInPath(order_id): OrderIdInPath) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({ "attempts": orders::attempts(order_id).await? })))
}

async fn dead_letters(DeadLetterQuery { filter, after, limit }: DeadLetterQuery) -> Result<Reply, ApiError> {
    let page = orders::dead_letters(filter, after, limit).await?;
    let page = DeadLettersResource {
        orders: page.orders.iter().map(OrderResource::from).collect(),
        next: page.next.map(|next| next.to_string()),
    };
    Ok(Reply::json(StatusCode::OK, &page))
}

async fn metrics() -> Result<Json<MetricsResource>, ApiError> {
    Ok(Json(orders::metrics().await?.into()))
}

/// A page of failed orders.
#[derive(Serialize)]
struct DeadLettersResource<'a> {
    orders: Vec<OrderResource<'a>>,
    /// What to send as `after` for the next page.
    next: Option<String>,
}

/// The path of an order, with the characters encoded that a path segment cannot hold (RFC 3986, section 3.3).
fn location(order_id: &Id) -> String {
    const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    format!("/v1/orders/{}", utf8_percent_encode(order_id.as_str(), NOT_UNRESERVED))
}

/// An order as `/v1` shows it.
#[derive(Serialize)]
struct OrderResource<'a> {
    order_id: &'a Id,
    user_id: &'a Id,
    item_ids: &'a [Id],
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
