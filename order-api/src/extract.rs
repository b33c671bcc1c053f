//! What handlers take from a request, checked.

use axum::body::{Body, Bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use order_core::draft::{self, Shape};
use order_core::order::{Id, NewOrder, Timestamp};
use order_core::store::{DeadLetterCursor, DeadLetterFilter, RequestKey};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::problem::{ApiError, DialectErrors};
use crate::runtime;
use crate::writer::Keyed;

/// The longest body of a request, in bytes: room for 1,000 items of the longest identifiers, three times.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// A POST: its body, JSON by its header and not too long, and its Idempotency-Key.
pub struct Post {
    body: Vec<u8>,
    /// The key that it came with.
    pub keyed: Option<Keyed>,
}

impl Post {
    /// Reads the body as an order of this shape.
    pub fn order(&self, shape: &Shape) -> Result<NewOrder, ApiError> {
        Ok(shape.parse(&self.body, runtime::new_order_id)?)
    }

    /// Reads the body as a choice of failed orders, and how many of them are meant at most.
    pub fn dead_letter_filter(&self) -> Result<(DeadLetterFilter, u32), ApiError> {
        Ok(draft::dead_letter_filter(&self.body)?)
    }
}

impl<S: Sync> FromRequest<S> for Post {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let key = request_key(request.headers())?.map(|key| (key, request.uri().path().to_owned()));
        let errors = request.extensions().get::<DialectErrors>().copied();
        // RFC 9110, section 8.3: without the header the recipient may look at the data; the parser does.
        if let Some(content_type) = request.headers().get(header::CONTENT_TYPE)
            && !is_json(content_type.as_bytes())
        {
            return Err(ApiError::UnsupportedMediaType);
        }
        let length =
            request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = read(request.into_body(), length).await?;
        let keyed = key.map(|(key, path)| Keyed { key, fingerprint: digest(&[path.as_bytes(), &body]), errors });
        Ok(Self { body, keyed })
    }
}

/// The Idempotency-Key of a request, apart for each caller: those with different credentials do not meet.
fn request_key(headers: &HeaderMap) -> Result<Option<RequestKey>, ApiError> {
    let mut values = headers.get_all("idempotency-key").into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
    match (key, values.next()) {
        (Some(key), None) => {
            let credentials = headers.get(header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
            Ok(Some(RequestKey { caller: digest(&[credentials]), key: key.to_owned() }))
        }
        _ => Err(ApiError::InvalidIdempotencyKey),
    }
}

/// SHA-256 over `parts`, each with its length in front, in hexadecimal.
fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `application/json` or `application/*+json` (RFC 6839), with any parameters.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

/// Reads a body of this length, or to its end where the length is not known. To wait for the end of one whose
/// length is known would be another two turns of the instance's event loop.
async fn read(mut body: Body, length: Option<u64>) -> Result<Vec<u8>, ApiError> {
    if length.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(ApiError::BodyTooLarge);
    }
    let mut read = Vec::new();
    while length != Some(read.len() as u64)
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(|_| ApiError::BodyUnreadable)?;
        read.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
        if read.len() > MAX_BODY_BYTES {
            return Err(ApiError::BodyTooLarge);
        }
    }
    Ok(read)
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

/// Which page of which failed orders a query means: `user_id`, `failed_from`, `failed_before`, `limit`, `after`.
pub struct DeadLetterQuery {
    /// Which ones.
    pub filter: DeadLetterFilter,
    /// Where the page begins.
    pub after: Option<DeadLetterCursor>,
    /// How many the page holds.
    pub limit: u32,
}

/// The most orders on a page, and how many are on one when the query does not say.
const MAX_PAGE: u32 = 1_000;
const DEFAULT_PAGE: u32 = 100;

impl<S: Send + Sync> FromRequestParts<S> for DeadLetterQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Parameters {
            user_id: Option<String>,
            failed_from: Option<String>,
            failed_before: Option<String>,
            limit: Option<u32>,
            after: Option<String>,
        }
        let invalid = |what: String| ApiError::InvalidQuery(what);
        let query: Result<Query<Parameters>, QueryRejection> = Query::from_request_parts(parts, state).await;
        let Query(query) = query.map_err(|error| invalid(error.body_text()))?;
        let time = |name: &str, text: Option<String>| match text {
            None => Ok(None),
            Some(text) => match Timestamp::parse_rfc3339(&text) {
                Some(time) => Ok(Some(time)),
                None => Err(invalid(format!("{name} must be a time as RFC 3339 writes them"))),
            },
        };
        let filter = DeadLetterFilter {
            order_ids: None,
            user_id: query.user_id,
            failed_from: time("failed_from", query.failed_from)?,
            failed_before: time("failed_before", query.failed_before)?,
        };
        let after = match query.after {
            None => None,
            Some(text) => {
                let cursor = DeadLetterCursor::parse(&text);
                Some(cursor.ok_or_else(|| invalid("after must be what an earlier page gave as next".to_owned()))?)
            }
        };
        let limit = query.limit.unwrap_or(DEFAULT_PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            return Err(invalid(format!("limit must be from 1 to {MAX_PAGE}")));
        }
        Ok(Self { filter, after, limit })
    }
}
