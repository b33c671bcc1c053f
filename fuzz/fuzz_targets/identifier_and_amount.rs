//! Identifiers and amounts, as text and as JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_core::order::{Amount, Id};
use serde_json::value::RawValue;

fuzz_target!(|text: &str| {
    if let Some(id) = Id::from_text(text) {
        assert_eq!(id.as_str(), text);
        assert!((1..=Id::MAX_LEN).contains(&text.len()) && text.is_ascii());
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(Id::from_json(&RawValue::from_string(json).unwrap()), Some(id));
    }
    if let Ok(amount) = Amount::parse(text) {
        assert!((0..=Amount::MAX.minor()).contains(&amount.minor()));
        assert_eq!(Amount::parse(&amount.to_string()), Ok(amount));
        // A float agrees as far as it can.
        let float: f64 = text.parse().unwrap();
        assert!((float * 100.0 - amount.minor() as f64).abs() < 1.0, "{text}");
    }
    if let Ok(json) = RawValue::from_string(text.to_owned()) {
        let _ = Amount::from_json(&json);
        if let Some(id) = Id::from_json(&json) {
            let again = serde_json::to_string(&id).unwrap();
            assert_eq!(Id::from_json(&RawValue::from_string(again).unwrap()), Some(id));
        }
    }
});
