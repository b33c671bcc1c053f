//! The bodies of requests and answers.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

/// The longest body that is read before its request is handed over, in bytes: as large as requests are, besides uploads.
pub const MAX_BUFFERED_BYTES: usize = 256 * 1024;

/// A body that is all there.
pub fn whole(bytes: impl Into<Bytes>) -> WasiBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Waits for a body, so that an instance neither waits for a slow client nor is woken for each part of what comes. One
/// that is longer than [`MAX_BUFFERED_BYTES`] is passed on as it comes.
pub async fn buffered(request: Request<Incoming>) -> hyper::Result<Request<WasiBody>> {
    let (head, mut body) = request.into_parts();
    if body.size_hint().lower() > MAX_BUFFERED_BYTES as u64 {
        return Ok(Request::from_parts(head, body.map_err(HttpError::Hyper).boxed_unsync()));
    }
    let first = match body.frame().await {
        Some(frame) => frame?.into_data().unwrap_or_default(),
        None => Bytes::new(),
    };
    // A small body is there at once, and need not be copied.
    if body.is_end_stream() {
        return Ok(Request::from_parts(head, whole(first)));
    }
    let mut read = BytesMut::with_capacity(body.size_hint().exact().unwrap_or(0) as usize + first.len());
    read.extend_from_slice(&first);
    while read.len() <= MAX_BUFFERED_BYTES {
        match body.frame().await {
            Some(frame) => {
                if let Ok(data) = frame?.into_data() {
                    read.extend_from_slice(&data);
                }
            }
            None => return Ok(Request::from_parts(head, whole(read.freeze()))),
        }
    }
    let begun = Begun { read: Some(read.freeze()), rest: body };
    Ok(Request::from_parts(head, begun.boxed_unsync()))
}

/// A body of which a part has been read.
struct Begun {
    read: Option<Bytes>,
    rest: Incoming,
}

impl Body for Begun {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match self.read.take() {
            Some(read) => Poll::Ready(Some(Ok(Frame::data(read)))),
            None => Pin::new(&mut self.rest).poll_frame(context).map_err(HttpError::Hyper),
        }
    }
}
