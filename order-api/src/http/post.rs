//! What a POST brings: its body, its key, and who sends it.

use std::rc::Rc;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::{HeaderMap, header};
use http_body_util::BodyExt as _;
use order_core::dead_letters::DeadLetterRequest;
use order_core::draft::Shape;
use order_core::intake;
use order_core::json::Rejection;
use order_core::order::NewOrder;
use order_core::principal::Principal;
use order_core::store::RequestKey;
use runtime::clock;
use send_wrapper::SendWrapper;

use super::browser::is_cross_site;
use super::budget::{BodyBudget, MAX_BODY_BYTES, Reservation};
use super::digest::digest;
use super::principal::principal;
use super::problem::{ApiError, ErrorStyle};

/// Settings for reading POST requests.
#[derive(Clone)]
pub struct PostPolicy {
    /// The header in which a gateway names the caller.
    pub caller_header: Option<Arc<str>>,
    /// What bodies share.
    pub budget: SendWrapper<Rc<BodyBudget>>,
}

/// A POST: its body, JSON by its header and not too long, and its Idempotency-Key.
pub struct Post {
    body: Vec<u8>,
    /// Who sends it, under which key.
    pub sender: Sender,
}

/// Who sends a request, and under which Idempotency-Key.
pub struct Sender {
    /// Who sends it.
    pub principal: Principal,
    /// The key that it came with.
    pub keyed: Option<Keyed>,
    /// What its body takes, until it is answered.
    _reservation: SendWrapper<Reservation>,
}

/// A request's Idempotency-Key and what it was sent with.
#[derive(Clone)]
pub struct Keyed {
    /// The key and who sent it.
    pub key: RequestKey,
    /// A digest of path and body.
    pub fingerprint: String,
    /// How its route tells errors.
    pub errors: Option<ErrorStyle>,
}

impl Post {
    /// Reads the body as an order of this shape.
    ///
    /// # Errors
    /// [`ApiError::MalformedJson`], [`ApiError::InvalidOrder`].
    pub fn into_order(self, shape: &Shape) -> Result<(NewOrder, Sender), ApiError> {
        let new_id = || intake::new_order_id(clock::now(), clock::random_128());
        match shape.parse(&self.body, new_id) {
            Ok(order) => Ok((order, self.sender)),
            Err(Rejection::Malformed(error)) => Err(ApiError::MalformedJson(error)),
            Err(Rejection::Invalid(errors)) => Err(ApiError::InvalidOrder(errors)),
        }
    }

    /// Reads the body as a choice of failed orders.
    ///
    /// # Errors
    /// [`ApiError::MalformedJson`], [`ApiError::InvalidRequest`].
    pub fn into_dead_letters(self) -> Result<(DeadLetterRequest, Sender), ApiError> {
        match DeadLetterRequest::from_json(&self.body) {
            Ok(request) => Ok((request, self.sender)),
            Err(Rejection::Malformed(error)) => Err(ApiError::MalformedJson(error)),
            Err(Rejection::Invalid(errors)) => Err(ApiError::InvalidRequest(errors)),
        }
    }
}

impl<S: Sync> FromRequest<S> for Post
where
    PostPolicy: FromRef<S>,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if is_cross_site(&request) {
            return Err(ApiError::CrossSite);
        }
        let PostPolicy { caller_header, budget } = PostPolicy::from_ref(state);
        let headers = request.headers();
        let principal = principal(headers, caller_header.as_deref())?;
        let key = idempotency_key(headers)?.map(|key| RequestKey { principal: principal.clone(), key });
        let errors = request.extensions().get::<ErrorStyle>().copied();
        let says_json = headers.get(header::CONTENT_TYPE).map(|content_type| is_json(content_type.as_bytes()));
        if says_json == Some(false) {
            return Err(ApiError::UnsupportedMediaType);
        }
        let length: Option<usize> =
            headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length| length > MAX_BODY_BYTES) {
            return Err(ApiError::BodyTooLarge);
        }
        let path = key.is_some().then(|| request.uri().path().to_owned());
        let reserve = async move { budget.reserve(length.unwrap_or(MAX_BODY_BYTES)).await.map(SendWrapper::new) };
        let mut reservation = SendWrapper::new(reserve).await.map_err(|_| ApiError::Overloaded)?;
        let body = read(request.into_body(), length).await?;
        reservation.shrink_to(body.len());
        // A page can have a browser send text of its own choice to anywhere, as long as it does not call it JSON.
        if says_json.is_none() && !body.is_empty() {
            return Err(ApiError::UnsupportedMediaType);
        }
        let fingerprint = path.map(|path| digest(&[path.as_bytes(), &body]));
        let keyed = key.zip(fingerprint).map(|(key, fingerprint)| Keyed { key, fingerprint, errors });
        Ok(Self { body, sender: Sender { principal, keyed, _reservation: reservation } })
    }
}

/// The Idempotency-Key of a request.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut values = headers.get_all("idempotency-key").into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| (1..=255).contains(&key.len()));
    match (key, values.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::InvalidIdempotencyKey),
    }
}

/// `application/json` or `application/*+json` (RFC 6839), with any parameters.
fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    essence == b"application/json" || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

/// Reads a body of this length, or to its end where the length is not known. To wait for the end of one whose
/// length is known would be another two turns of the instance's event loop.
async fn read(mut body: Body, length: Option<usize>) -> Result<Vec<u8>, ApiError> {
    let mut read = Vec::with_capacity(length.unwrap_or(0));
    while length != Some(read.len())
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
