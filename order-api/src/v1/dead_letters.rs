//! Failed orders as a list.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use order_core::dead_letters::DeadLetterRequest;
use serde::Serialize;
use serde_json::json;

use super::orders::OrderResource;
use crate::app::App;
use crate::http::post::Post;
use crate::http::problem::ApiError;
use crate::http::reply::Reply;
use crate::http::uri::Parameters;
use crate::write::command::Command;

pub fn routes() -> Router<App> {
    Router::new().route("/v1/dead-letters", get(list)).route("/v1/dead-letters/retry", post(retry))
}

/// A page of failed orders.
#[derive(Serialize)]
struct DeadLettersResource<'a> {
    orders: Vec<OrderResource<'a>>,
    /// What to send as `after` for the next page.
    next: Option<String>,
}

async fn list(State(app): State<App>, Parameters(parameters): Parameters) -> Result<Reply, ApiError> {
    let request = DeadLetterRequest::from_query(&parameters).map_err(|errors| ApiError::invalid_query(&errors))?;
    let page = app.dead_letters(request).await?;
    let orders = page.entries.iter().map(OrderResource::from).collect();
    Ok(Reply::ok(&DeadLettersResource { orders, next: page.next.map(|next| next.to_string()) }))
}

async fn retry(State(app): State<App>, post: Post) -> Result<Reply, ApiError> {
    let (DeadLetterRequest { filter, limit, .. }, sender) = post.into_dead_letters()?;
    let retried = |count: usize| Reply::ok(&json!({ "retried": count }));
    app.execute(Command::RetryDeadLetters(filter, limit, retried), sender).await
}
