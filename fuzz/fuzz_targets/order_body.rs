//! The body of a request: whatever is accepted keeps to the rules and comes back as itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use order_core::draft::{OrderIdField, Shape};
use order_core::json::Rejection;
use order_core::order::{Amount, Id, Items};

fuzz_target!(|body: &[u8]| {
    for order_id in [OrderIdField::Required, OrderIdField::Optional, OrderIdField::Unknown] {
        let shape = Shape { order_id, items_field: "item_ids" };
        match shape.parse(body, || Id::from_integer(1)) {
            Ok(order) => {
                assert!((1..=Items::MAX).contains(&order.item_ids.to_ids().len()));
                assert!((0..=Amount::MAX.minor()).contains(&order.total_amount.minor()));
                let again = serde_json::json!({
                    "order_id": order.order_id, "user_id": order.user_id, "item_ids": order.item_ids,
                    "total_amount": order.total_amount, "currency": order.currency,
                });
                let shape = Shape { order_id: OrderIdField::Required, ..shape };
                let again = serde_json::to_vec(&again).unwrap();
                assert_eq!(shape.parse(&again, || unreachable!()), Ok(order));
            }
            Err(Rejection::Invalid(errors)) => assert!(!errors.is_empty()),
            Err(Rejection::Malformed(_)) => {}
        }
    }
});
