//! The body that chooses failed orders.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_core::draft::{MAX_RETRIED, Rejection, dead_letter_filter};

fuzz_target!(|body: &[u8]| {
    match dead_letter_filter(body) {
        Ok((filter, limit)) => {
            assert!((1..=MAX_RETRIED).contains(&limit));
            assert!(filter.order_ids.is_none_or(|ids| !ids.is_empty()));
        }
        Err(Rejection::Invalid(errors)) => assert!(!errors.is_empty()),
        Err(Rejection::Malformed(_)) => {}
    }
});
