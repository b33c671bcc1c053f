//! Answers a constant to every request: what the runtime does when the component does nothing.

use spin_sdk::http::{IntoResponse, Request};
use spin_sdk::http_service;

#[http_service]
async fn handle(_: Request) -> impl IntoResponse {
    "hello"
}
