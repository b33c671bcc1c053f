//! What handlers take from a request, checked.

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header;
use axum::http::request::Parts;
use order_core::draft::Shape;
use order_core::order::{Id, NewOrder};
use serde::Deserialize;

use crate::problem::ApiError;
use crate::runtime;

/// The longest body of a request, in bytes: room for 1,000 items of the longest identifiers, three times.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// The body of a request that is JSON by its header, and not too long.
pub struct JsonBody(Bytes);

impl JsonBody {
    /// Reads the body as an order of this shape.
    pub fn order(&self, shape: &Shape) -> Result<NewOrder, ApiError> {
        Ok(shape.parse(&self.0, runtime::new_order_id)?)
    }
}

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        // RFC 9110, section 8.3: without the header the recipient may look at the data; the parser does.
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE)
            && !is_json(content_type.as_bytes())
        {
            return Err(ApiError::UnsupportedMediaType);
        }
        let announced =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if announced.is_some_and(|length: u64| length > MAX_BODY_BYTES as u64) {
            return Err(ApiError::BodyTooLarge);
        }
        match axum::body::to_bytes(request.into_body(), MAX_BODY_BYTES).await {
            Ok(body) => Ok(Self(body)),
            Err(error) if is_length_limit(&error) => Err(ApiError::BodyTooLarge),
            Err(_) => Err(ApiError::BodyUnreadable),
        }
    }
}

/// `application/json` or `application/*+json` (RFC 6839), with any parameters.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

fn is_length_limit(error: &axum::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The order that the path names. What cannot be an identifier is an order that does not exist.
pub struct OrderIdInPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for OrderIdInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match path {
            Ok(Path(text)) => existing_id(text).map(Self),
            // Not UTF-8 once decoded.
            Err(_) => Err(ApiError::OrderNotFound(parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned())),
        }
    }
}

/// The order that the query parameter `order_id` names.
pub struct OrderIdInQuery(pub String);

impl<S: Send + Sync> FromRequestParts<S> for OrderIdInQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        struct Parameters {
            order_id: String,
        }
        let query: Result<Query<Parameters>, QueryRejection> = Query::from_request_parts(parts, state).await;
        match query {
            Ok(Query(Parameters { order_id })) => existing_id(order_id).map(Self),
            Err(_) => Err(ApiError::InvalidQuery("The query parameter order_id must stand there once".to_owned())),
        }
    }
}

fn existing_id(text: String) -> Result<String, ApiError> {
    match Id::from_text(text.as_str()) {
        Some(_) => Ok(text),
        None => Err(ApiError::OrderNotFound(text)),
    }
}
