//! What both FastAPI services have in common.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::problem::ApiError;
use crate::http::uri::OrderIdInPath;

/// The answer to the question for an order.
pub async fn identifier_and_status(
    State(app): State<App>,
    OrderIdInPath(order_id): OrderIdInPath,
) -> Result<Json<Value>, ApiError> {
    let order = app.order(order_id).await?;
    Ok(Json(json!({ "order_id": order.content.order_id, "status": order.status })))
}
