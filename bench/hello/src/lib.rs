//! Answers a constant to every request, once it has read the body: what the runtime does when the component does
//! nothing.

use http_body_util::BodyExt as _;
use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    if request.method() == "POST" {
        let mut body = request.into_body();
        while let Some(Ok(_)) = body.frame().await {}
    }
    "hello"
}
