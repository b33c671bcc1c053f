//! Query strings: the times, cursors and identifiers in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_core::order::{Id, Timestamp};
use order_core::page::{Cursor, List};

fuzz_target!(|query: &[u8]| {
    for (_, value) in form_urlencoded::parse(query) {
        if let Some(time) = Timestamp::parse_rfc3339(&value) {
            assert_eq!(Timestamp::parse_rfc3339(&time.to_rfc3339()), Some(time));
        }
        if let Some(cursor) = Cursor::parse(List::DeadLetters, &value) {
            assert_eq!(Cursor::parse(List::DeadLetters, &cursor.to_string()), Some(cursor));
        }
        let _ = Id::from_text(value);
    }
});
