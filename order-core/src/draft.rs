//! How a client's JSON becomes a [`NewOrder`].

use crate::json::{Errors, FieldError, Fields, REPEATED, Rejection};
use crate::order::{Amount, Currency, Id, NewOrder};

/// What a draft says about `order_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderIdField {
    /// The client must name its order.
    Required,
    /// The client may name its order; it gets a new identifier otherwise.
    Optional,
    /// The field is not part of this client's language: the order always gets a new identifier.
    Unknown,
}

/// The shape in which a client writes an order.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// What `order_id` means.
    pub order_id: OrderIdField,
    /// The name of the field that lists the items.
    pub items_field: &'static str,
}

impl Shape {
    /// Reads an order. `new_id` is called when the order is to get a new identifier.
    ///
    /// Fields that the shape does not know are ignored; a known field that appears twice is refused.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] for what is not JSON, [`Rejection::Invalid`] with an entry for each field
    /// that is missing or breaks its rule.
    pub fn parse(&self, body: &[u8], new_id: impl FnOnce() -> Id) -> Result<NewOrder, Rejection> {
        let mut fields = Fields::parse(body)?;
        let known = ["order_id", "user_id", self.items_field, "total_amount", "currency"];
        let repeated = fields.repeated.iter().filter(|name| known.contains(&name.as_str()));
        let mut errors = Errors(repeated.map(|name| FieldError::at(name, REPEATED)).collect());

        // The outer `None` stands for an error, the inner one for an identifier that is yet to be made.
        let order_id = match (self.order_id, fields.take("order_id")) {
            (OrderIdField::Unknown, _) | (OrderIdField::Optional, None) => Some(None),
            (OrderIdField::Optional, Some(json)) if json.is_null() => Some(None),
            (OrderIdField::Required, None) => errors.missing("order_id"),
            (_, Some(json)) => errors.id("order_id", &json).map(Some),
        };
        let user_id = match fields.take("user_id") {
            Some(json) => errors.id("user_id", &json),
            None => errors.missing("user_id"),
        };
        let item_ids = match fields.take(self.items_field) {
            Some(json) => errors.items(self.items_field, json),
            None => errors.missing(self.items_field),
        };
        let total_amount = match fields.take("total_amount") {
            Some(json) => Amount::from_json(&json).map_err(|error| errors.push("total_amount", error.to_string())).ok(),
            None => errors.missing("total_amount"),
        };
        let currency = match fields.take("currency").filter(|json| !json.is_null()) {
            Some(json) => errors.currency(&json),
            None => Some(Currency::default()),
        };

        match (order_id, user_id, item_ids, total_amount, currency) {
            (Some(order_id), Some(user_id), Some(item_ids), Some(total_amount), Some(currency))
                if errors.0.is_empty() =>
            {
                let order_id = order_id.unwrap_or_else(new_id);
                Ok(NewOrder { order_id, user_id, item_ids, total_amount, currency })
            }
            _ => Err(Rejection::Invalid(errors.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::MAX_ERRORS;

    const CANONICAL: Shape = Shape { order_id: OrderIdField::Optional, items_field: "item_ids" };

    fn parse(shape: Shape, body: &str) -> Result<NewOrder, Rejection> {
        shape.parse(body.as_bytes(), || Id::from_text("new").unwrap())
    }

    fn pointers(body: &str) -> Vec<String> {
        match parse(CANONICAL, body) {
            Err(Rejection::Invalid(errors)) => errors.into_iter().map(|error| error.pointer).collect(),
            other => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn a_full_order_is_read_as_it_stands() {
        let order = parse(
            CANONICAL,
            r#"{"order_id": 7, "user_id": "u", "item_ids": ["a", 2, "a"], "total_amount": "1.50", "currency": "EUR", "x": [1]}"#,
        )
        .unwrap();
        assert!(order.order_id.is_integer());
        assert_eq!(order.order_id.as_str(), "7");
        assert_eq!(order.item_ids.to_ids().iter().map(Id::as_str).collect::<Vec<_>>(), ["a", "2", "a"]);
        assert_eq!(order.total_amount.minor(), 150);
        assert_eq!(order.currency.as_str(), "EUR");
    }

    #[test]
    fn every_invalid_field_is_named_at_once() {
        assert_eq!(
            pointers(r#"{"order_id": "", "item_ids": ["a", null, {}], "total_amount": -1, "currency": "eur"}"#),
            ["#/order_id", "#/user_id", "#/item_ids/1", "#/item_ids/2", "#/total_amount", "#/currency"]
        );
        assert_eq!(pointers("[]"), ["#"]);
        assert_eq!(pointers(r#"{"user_id": 1, "item_ids": [], "total_amount": 1}"#), ["#/item_ids"]);
        assert_eq!(pointers(r#"{"user_id": 1, "item_ids": "a", "total_amount": 1}"#), ["#/item_ids"]);
        assert_eq!(pointers(r#"{"user_id": 1, "user_id": 2, "item_ids": [1], "total_amount": 1}"#), ["#/user_id"]);
        assert_eq!(pointers(r#"{"user_id": 1, "item_ids": [1], "total_amount": null}"#), ["#/total_amount"]);
    }

    #[test]
    fn null_is_a_field_that_is_not_there_where_that_is_allowed() {
        let body = r#"{"order_id": null, "user_id": 1, "item_ids": [1], "total_amount": 1, "currency": null}"#;
        let order = parse(CANONICAL, body).unwrap();
        assert_eq!((order.order_id.as_str(), order.currency), ("new", Currency::default()));
        assert!(parse(Shape { order_id: OrderIdField::Required, ..CANONICAL }, body).is_err());
        assert_eq!(pointers(r#"{"user_id": null, "item_ids": [1], "total_amount": 1}"#), ["#/user_id"]);
    }

    #[test]
    fn errors_and_fields_are_limited_in_number() {
        let items = vec!["null"; 1_000].join(",");
        let errors = pointers(&format!(r#"{{"user_id": 1, "item_ids": [{items}], "total_amount": 1}}"#));
        assert_eq!(errors.len(), MAX_ERRORS);
        let order = |others: usize| {
            let others: String = (0..others).map(|number| format!(r#", "x{number}": 0"#)).collect();
            parse(CANONICAL, &format!(r#"{{"user_id": 1, "item_ids": [1], "total_amount": 1{others}}}"#))
        };
        assert!(order(997).is_ok());
        assert!(matches!(order(998), Err(Rejection::Malformed(message)) if message.contains("1000 fields")));
        // A field that is repeated counts each time.
        let repeated = r#", "y": 0"#.repeat(997);
        let body = |more: &str| format!(r#"{{"user_id": 1, "item_ids": [1], "total_amount": 1{repeated}{more}}}"#);
        assert!(parse(CANONICAL, &body("")).is_ok());
        assert!(parse(CANONICAL, &body(r#", "y": 0"#)).is_err());
    }

    #[test]
    fn the_number_of_items_is_limited() {
        let body = |count: usize| {
            format!(r#"{{"user_id": 1, "item_ids": [{}], "total_amount": 1}}"#, vec!["1"; count].join(","))
        };
        assert_eq!(parse(CANONICAL, &body(1_000)).unwrap().item_ids.to_ids().len(), 1_000);
        assert_eq!(pointers(&body(1_001)), ["#/item_ids"]);
    }

    #[test]
    fn the_shape_decides_about_the_order_id() {
        let named = r#"{"order_id": "mine", "user_id": 1, "item_ids": [1], "total_amount": 1}"#;
        let nameless = r#"{"user_id": 1, "item_ids": [1], "total_amount": 1}"#;
        let id = |order_id, body| {
            parse(Shape { order_id, ..CANONICAL }, body).map(|order| order.order_id.as_str().to_owned()).ok()
        };
        assert_eq!(id(OrderIdField::Optional, named).as_deref(), Some("mine"));
        assert_eq!(id(OrderIdField::Optional, nameless).as_deref(), Some("new"));
        assert_eq!(id(OrderIdField::Required, named).as_deref(), Some("mine"));
        assert_eq!(id(OrderIdField::Required, nameless), None);
        assert_eq!(id(OrderIdField::Unknown, named).as_deref(), Some("new"));
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = "[".repeat(10_000);
        for body in ["", "{", "nul", "{\"a\": NaN}", "{} {}", "{'a': 1}", &deep] {
            assert!(matches!(parse(CANONICAL, body), Err(Rejection::Malformed(_))), "{body}");
        }
        assert!(matches!(CANONICAL.parse(b"{\"user_id\": \"\xff\"}", || unreachable!()), Err(Rejection::Malformed(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(body: Vec<u8>) {
            let _ = CANONICAL.parse(&body, || Id::from_integer(1));
        }
    }
}
