//! Every error that a client can meet, and how it is told: `application/problem+json` (RFC 9457).
//!
//! All handlers return [`ApiError`]. Store errors become one here; the errors of a body are those of
//! [`order_core::json`]. What went wrong inside is logged and not told.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use order_core::json::FieldError;
use order_core::lifecycle::{Action, Status};
use order_core::store::StoreError;
use serde::Serialize;

use super::budget::MAX_BODY_BYTES;

/// What can go wrong with a request.
#[derive(Clone, Debug)]
pub enum ApiError {
    /// No route has this path.
    UnknownPath(String),
    /// The path's routes do not have this method; the router adds `Allow`.
    MethodNotAllowed,
    /// A browser sends this on behalf of another site's page.
    CrossSite,
    /// The Content-Type is not JSON.
    UnsupportedMediaType,
    /// The body is longer than [`MAX_BODY_BYTES`](super::budget::MAX_BODY_BYTES).
    BodyTooLarge,
    /// The body broke off.
    BodyUnreadable,
    /// The body is not JSON; says where.
    MalformedJson(String),
    /// Fields of the body break their rules.
    InvalidOrder(Vec<FieldError>),
    /// Fields of a body that is not an order break their rules.
    InvalidRequest(Vec<FieldError>),
    /// A query parameter is missing, unknown or repeated, or breaks its rule.
    InvalidQuery(String),
    /// The header that names the caller, of this name, is repeated or is no name.
    InvalidCaller(String),
    /// There is no order with this identifier.
    OrderNotFound(String),
    /// This identifier belongs to an order with other content.
    OrderConflict(String),
    /// The order's status does not allow what was asked.
    ActionNotAllowed(String, Status),
    /// The header Idempotency-Key is not one.
    InvalidIdempotencyKey,
    /// The Idempotency-Key was sent before with another request.
    IdempotencyKeyReused,
    /// A request with this Idempotency-Key is being carried out.
    IdempotencyKeyInFlight,
    /// The backlog is full, or too many requests are waiting.
    Overloaded,
    /// The service cannot do it now.
    Unavailable,
    /// The service cannot do it at all.
    Internal,
    /// A variable breaks its rule; says which, and the rule.
    Misconfigured(String),
}

/// The media type of a problem (RFC 9457, section 3).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// How long a client should wait after a 503, in seconds: a lock or a restart is over by then.
const RETRY_AFTER_SECONDS: &str = "1";

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::UnknownPath(_) | Self::OrderNotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::CrossSite => StatusCode::FORBIDDEN,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyUnreadable | Self::MalformedJson(_) | Self::InvalidQuery(_) => StatusCode::BAD_REQUEST,
            Self::InvalidIdempotencyKey | Self::InvalidCaller(_) => StatusCode::BAD_REQUEST,
            Self::InvalidOrder(_) | Self::InvalidRequest(_) | Self::IdempotencyKeyReused => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::OrderConflict(_) | Self::ActionNotAllowed(..) | Self::IdempotencyKeyInFlight => StatusCode::CONFLICT,
            Self::Overloaded | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal | Self::Misconfigured(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The problem type, which never changes once released, and its title.
    fn kind(&self) -> (&'static str, &'static str) {
        match self {
            Self::UnknownPath(_) => ("urn:problem-type:orders:unknown-path", "There is nothing at this path"),
            Self::MethodNotAllowed => ("urn:problem-type:orders:method-not-allowed", "The method is not allowed here"),
            Self::CrossSite => ("urn:problem-type:orders:cross-site-request", "Cross-site requests are not allowed"),
            Self::UnsupportedMediaType => {
                ("urn:problem-type:orders:unsupported-media-type", "The body must be application/json")
            }
            Self::BodyTooLarge => ("urn:problem-type:orders:body-too-large", "The body is too large"),
            Self::BodyUnreadable => ("urn:problem-type:orders:body-unreadable", "The body could not be read"),
            Self::MalformedJson(_) => ("urn:problem-type:orders:malformed-json", "The body is not valid JSON"),
            Self::InvalidOrder(_) => ("urn:problem-type:orders:invalid-order", "The order breaks a rule"),
            Self::InvalidRequest(_) => ("urn:problem-type:orders:invalid-request", "The request breaks a rule"),
            Self::InvalidQuery(_) => ("urn:problem-type:orders:invalid-query", "The query breaks a rule"),
            Self::InvalidCaller(_) => ("urn:problem-type:orders:invalid-caller", "The caller's name breaks a rule"),
            Self::OrderNotFound(_) => ("urn:problem-type:orders:order-not-found", "There is no such order"),
            Self::OrderConflict(_) => ("urn:problem-type:orders:order-conflict", "Another order has this identifier"),
            Self::ActionNotAllowed(..) => {
                ("urn:problem-type:orders:action-not-allowed", "The order's status does not allow this")
            }
            Self::InvalidIdempotencyKey => {
                ("urn:problem-type:orders:invalid-idempotency-key", "The Idempotency-Key breaks a rule")
            }
            Self::IdempotencyKeyReused => {
                ("urn:problem-type:orders:idempotency-key-reused", "The Idempotency-Key belongs to another request")
            }
            Self::IdempotencyKeyInFlight => {
                ("urn:problem-type:orders:idempotency-key-in-flight", "The first request is still in progress")
            }
            Self::Overloaded => ("urn:problem-type:orders:overloaded", "The service is overloaded"),
            Self::Unavailable => ("urn:problem-type:orders:unavailable", "The service is busy"),
            Self::Internal => ("urn:problem-type:orders:internal", "The service failed"),
            Self::Misconfigured(_) => ("urn:problem-type:orders:misconfigured", "A setting breaks a rule"),
        }
    }

    /// What is wrong with the parameters of a query.
    pub fn invalid_query(errors: &[FieldError]) -> Self {
        Self::InvalidQuery(in_words(errors))
    }

    fn detail(&self) -> String {
        match self {
            Self::UnknownPath(path) => format!("No route matches {path}"),
            Self::MethodNotAllowed => "The header Allow lists the methods of this path".to_owned(),
            Self::CrossSite => "Pages on other sites may not send requests that change data".to_owned(),
            Self::UnsupportedMediaType => "A body needs the header Content-Type: application/json".to_owned(),
            Self::BodyTooLarge => format!("The body must not be longer than {MAX_BODY_BYTES} bytes"),
            Self::BodyUnreadable => "The body ended early".to_owned(),
            Self::MalformedJson(error) => format!("The body cannot be parsed as JSON: {error}"),
            Self::InvalidOrder(errors) | Self::InvalidRequest(errors) => in_words(errors),
            Self::InvalidQuery(error) => error.clone(),
            Self::InvalidCaller(name) => {
                format!("The header {name} must appear at most once, with at most 255 printable ASCII characters")
            }
            Self::OrderNotFound(id) => format!("No order has the identifier {id}"),
            Self::OrderConflict(id) => format!("Order {id} was already accepted with different content"),
            Self::ActionNotAllowed(id, status) => {
                let actions: Vec<_> = status.client_actions().map(Action::as_str).collect();
                let allowed = match actions.is_empty() {
                    true => "no actions are allowed".to_owned(),
                    false => format!("the allowed actions are: {}", actions.join(", ")),
                };
                format!("Order {id} is {}; {allowed}", status.as_str())
            }
            Self::InvalidIdempotencyKey => {
                "The header Idempotency-Key must appear at most once, with 1 to 255 printable ASCII characters"
                    .to_owned()
            }
            Self::IdempotencyKeyReused => {
                "This key was used before with another path or body; use a new key".to_owned()
            }
            Self::IdempotencyKeyInFlight => "Send the request again in a moment to get its answer".to_owned(),
            Self::Overloaded => {
                "The backlog is full, so the request was not accepted; please send it again later".to_owned()
            }
            Self::Unavailable => {
                "Retry shortly; sending the request again is safe if it has an order_id or an Idempotency-Key"
                    .to_owned()
            }
            Self::Internal => "The error was logged".to_owned(),
            Self::Misconfigured(error) => error.clone(),
        }
    }

    /// Whether it is the outcome of carrying the request out, and not a failure to carry it out: such an answer
    /// is kept under the request's key as a success is.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::OrderNotFound(_) | Self::OrderConflict(_) | Self::ActionNotAllowed(..))
    }

    /// The status and the body, in a route's own style if it has one.
    pub fn told(&self, style: Option<&ErrorStyle>) -> (StatusCode, String) {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'a str,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            errors: Option<&'a [FieldError]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            allowed_actions: Option<Vec<&'a str>>,
            #[serde(flatten)]
            compat: Option<CompatMembers<'a>>,
        }
        /// Extension members for the clients of the source systems, which read one or another of them.
        #[derive(Serialize)]
        struct CompatMembers<'a> {
            error: &'a str,
            message: &'a str,
            status_code: u16,
        }

        let mut status = self.status();
        let (r#type, title) = self.kind();
        let mut detail = self.detail();
        if let Some(style) = style {
            match self {
                Self::InvalidOrder(_) | Self::MalformedJson(_) => status = style.invalid,
                Self::OrderConflict(id) => {
                    status = style.conflict;
                    if let Some(message) = style.conflict_message {
                        detail = message(id);
                    }
                }
                _ => {}
            }
        }
        let status_code = status.as_u16();
        let problem = Problem {
            r#type,
            title,
            status: status_code,
            detail: &detail,
            errors: match self {
                Self::InvalidOrder(errors) | Self::InvalidRequest(errors) => Some(errors),
                _ => None,
            },
            allowed_actions: match self {
                Self::ActionNotAllowed(_, status) => Some(status.client_actions().map(Action::as_str).collect()),
                _ => None,
            },
            compat: style.map(|_| CompatMembers { error: &detail, message: &detail, status_code }),
        };
        (status, serde_json::to_string(&problem).expect("a problem is JSON"))
    }

    fn respond(self, style: Option<&ErrorStyle>) -> Response {
        let (status, body) = self.told(style);
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Field errors as one line.
fn in_words(errors: &[FieldError]) -> String {
    let parts = errors
        .iter()
        .map(|error| format!("{} {}", error.pointer.trim_start_matches('#').trim_start_matches('/'), error.detail));
    parts.collect::<Vec<_>>().join("; ").trim_start().to_owned()
}

impl From<ApiError> for Response {
    fn from(error: ApiError) -> Self {
        error.respond(None)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.into()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        eprintln!("order-api: {error}");
        match error {
            StoreError::Busy | StoreError::Conflict | StoreError::Unavailable(_) | StoreError::NewerSchema { .. } => {
                Self::Unavailable
            }
            StoreError::Broken(_) => Self::Internal,
        }
    }
}

/// How a route's clients were told about errors by the system that they were written for.
#[derive(Clone, Copy)]
pub struct ErrorStyle {
    /// The status of a body that is malformed or breaks a rule.
    pub invalid: StatusCode,
    /// The status of an order whose identifier belongs to another.
    pub conflict: StatusCode,
    /// The words for that, where clients may look for them.
    pub conflict_message: Option<fn(&str) -> String>,
}

impl ErrorStyle {
    /// What most of them do.
    pub const USUAL: Self =
        Self { invalid: StatusCode::BAD_REQUEST, conflict: StatusCode::CONFLICT, conflict_message: None };

    /// Tells an error of these routes in their style; passes everything else on.
    pub fn apply(&self, mut response: Response) -> Response {
        match response.extensions_mut().remove::<ApiError>() {
            Some(error) => error.respond(Some(self)),
            None => response,
        }
    }
}
