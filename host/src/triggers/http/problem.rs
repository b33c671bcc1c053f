//! What the host itself answers: problems as RFC 9457 has them, without a type of their own.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use wasmtime_wasi_http::WasiBody;

use super::body::whole;

/// A response with this body.
pub fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<WasiBody> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A problem whose title is the phrase of its status; `detail` is a sentence without what JSON would escape.
pub fn problem(status: StatusCode, detail: &'static str) -> Response<WasiBody> {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = format!(r#"{{"type":"about:blank","title":"{title}","status":{code},"detail":"{detail}"}}"#);
    response(status, "application/problem+json", body)
}
