//! Successes, and whatever is kept of an answer.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::problem;

/// A success, ready to be sent and, under a key, to be kept; or whatever was kept.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status: a 2xx, or what a kept refusal had.
    pub status: StatusCode,
    /// The header Location.
    pub location: Option<String>,
    /// The body, JSON.
    pub body: String,
    /// Whether this is the answer to an earlier request with the same key.
    pub is_replay: bool,
}

impl Reply {
    /// A reply with this body and nothing else.
    pub fn json(status: StatusCode, body: &impl Serialize) -> Self {
        let body = serde_json::to_string(body).expect("replies are JSON");
        Self { status, location: None, body, is_replay: false }
    }

    /// A 200 with this body.
    pub fn ok(body: &impl Serialize) -> Self {
        Self::json(StatusCode::OK, body)
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let content_type = if self.status.is_success() { "application/json" } else { problem::CONTENT_TYPE };
        let mut response = (self.status, [(header::CONTENT_TYPE, content_type)], self.body).into_response();
        let headers = response.headers_mut();
        if let Some(location) = self.location.and_then(|location| HeaderValue::try_from(location).ok()) {
            headers.insert(header::LOCATION, location);
        }
        if self.is_replay {
            headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}
