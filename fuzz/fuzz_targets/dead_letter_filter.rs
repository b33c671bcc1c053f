//! The request that chooses failed orders, as a body and as a query.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_core::dead_letters::DeadLetterRequest;
use order_core::json::Rejection;

fuzz_target!(|bytes: &[u8]| {
    let check = |request: DeadLetterRequest| {
        assert!((1..=DeadLetterRequest::MAX_LIMIT).contains(&request.limit));
        assert!(request.filter.order_ids.is_none_or(|ids| !ids.is_empty()));
    };
    match DeadLetterRequest::from_json(bytes) {
        Ok(request) => check(request),
        Err(Rejection::Invalid(errors)) => assert!(!errors.is_empty()),
        Err(Rejection::Malformed(_)) => {}
    }
    let parameters: Vec<(String, String)> =
        form_urlencoded::parse(bytes).map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    match DeadLetterRequest::from_query(&parameters) {
        Ok(request) => check(request),
        Err(errors) => assert!(!errors.is_empty()),
    }
});
