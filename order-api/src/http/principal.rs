//! Who asks.

use std::sync::LazyLock;

use axum::http::{HeaderMap, header};
use order_core::principal::Principal;

use super::digest::digest;
use super::problem::ApiError;

/// The longest name of a caller, in bytes.
const MAX_CALLER: usize = 255;

/// Who sends a request with these headers.
///
/// A gateway that knows its callers names them in the header that the variable `caller_header` names: that name stays
/// when a token is renewed. Where it is absent, callers are told apart by a digest of their credentials, so that no two of
/// them meet under one Idempotency-Key; a client that renews its token is another caller then.
///
/// # Errors
/// [`ApiError::InvalidCaller`] where the gateway's header appears more than once or cannot be a name.
pub fn principal(headers: &HeaderMap, caller_header: Option<&str>) -> Result<Principal, ApiError> {
    if let Some(name) = caller_header {
        let mut values = headers.get_all(name).into_iter();
        match (values.next(), values.next()) {
            // It did not come through the gateway.
            (None, _) => {}
            (Some(value), None) if value.len() <= MAX_CALLER => {
                let caller = value.to_str().map_err(|_| ApiError::InvalidCaller(name.to_owned()))?;
                return Ok(Principal { caller: format!("caller:{caller}"), ..Principal::default() });
            }
            _ => return Err(ApiError::InvalidCaller(name.to_owned())),
        }
    }
    /// The digest of no credentials, which most requests bring.
    static NO_CREDENTIALS: LazyLock<String> = LazyLock::new(|| digest(&[b""]));
    let caller = match headers.get(header::AUTHORIZATION) {
        Some(credentials) => digest(&[credentials.as_bytes()]),
        None => NO_CREDENTIALS.clone(),
    };
    Ok(Principal { caller, ..Principal::default() })
}
