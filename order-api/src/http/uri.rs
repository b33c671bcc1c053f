//! What paths and queries name.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use order_core::order::Id;

use super::problem::ApiError;

/// The order that the path names. What cannot be an identifier is an order that does not exist.
pub struct OrderIdInPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for OrderIdInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match path {
            Ok(Path(text)) => existing_id(text).map(Self),
            // Not UTF-8 once decoded.
            Err(_) => Err(ApiError::OrderNotFound("in this path: it is not valid UTF-8".to_owned())),
        }
    }
}

/// The order that the query parameter `order_id` names.
pub struct OrderIdInQuery(pub String);

impl<S: Send + Sync> FromRequestParts<S> for OrderIdInQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Parameters(parameters) = Parameters::from_request_parts(parts, state).await?;
        let mut named = parameters.into_iter().filter(|(name, _)| name == "order_id");
        match (named.next(), named.next()) {
            (Some((_, order_id)), None) => existing_id(order_id).map(Self),
            _ => Err(ApiError::InvalidQuery("The query parameter order_id must appear exactly once".to_owned())),
        }
    }
}

fn existing_id(text: String) -> Result<String, ApiError> {
    match Id::from_text(text.as_str()) {
        Some(_) => Ok(text),
        None => Err(ApiError::OrderNotFound(text)),
    }
}

/// The parameters of a query, decoded, in their order.
pub struct Parameters(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(error) => Err(ApiError::InvalidQuery(error.body_text())),
        }
    }
}
