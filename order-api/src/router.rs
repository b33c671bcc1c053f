//! All routes. What every POST is checked for is in [`Post`](crate::http::post::Post); the routes of other systems have
//! layers of their own.

use axum::Router;
use axum::http::Uri;
use axum::response::Response;
use axum::routing::get;

use crate::app::App;
use crate::http::problem::ApiError;
use crate::{compat, ops, v1};

/// The routes of an instance that has what it needs.
pub fn routes(app: App) -> Router {
    Router::new()
        .merge(v1::routes())
        .merge(compat::routes())
        .merge(ops::routes())
        .fallback(async |uri: Uri| -> Response { ApiError::UnknownPath(uri.path().to_owned()).into() })
        .method_not_allowed_fallback(async || -> Response { ApiError::MethodNotAllowed.into() })
        .with_state(app)
}

/// The routes while the settings cannot be read: everything is answered 503.
pub fn unavailable() -> Router {
    Router::new().fallback(async || -> Response { ApiError::Unavailable.into() })
}

/// The routes of an instance with a variable that breaks its rule: readiness says so, and nothing is served.
pub fn misconfigured(error: String) -> Router {
    Router::new()
        .route(ops::READY, get(async move || -> Response { ApiError::Misconfigured(error).into() }))
        .fallback(async || -> Response { ApiError::Internal.into() })
}
