//! How a client's JSON becomes a [`NewOrder`]: every field is looked at, and every invalid one is named.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::order::{Amount, Currency, ID_RULE, Id, NewOrder, Timestamp};
use crate::store::DeadLetterFilter;

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

/// One field that breaks its rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// What the field must be.
    pub detail: String,
    /// A JSON Pointer in its URI fragment form (RFC 6901, section 6), as in RFC 9457's own example:
    /// `#/item_ids/3`.
    pub pointer: String,
}

impl FieldError {
    fn at(path: &str, detail: impl Into<String>) -> Self {
        // RFC 6901, sections 3 and 6, as far as names need it that are not ours.
        let path: String = path
            .chars()
            .map(|character| match character {
                '~' => "~0".to_owned(),
                '!'..='}' if character != '%' && character != '"' => character.to_string(),
                _ => character.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
            })
            .collect();
        Self { detail: detail.into(), pointer: format!("#/{path}") }
    }
}

/// What is wrong with a field that stands there twice: readers differ on which one counts.
const REPEATED: &str = "must stand there once";

/// Why a body is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The body is not JSON; says where and why.
    Malformed(String),
    /// The body is JSON and breaks the rules of these fields. Never empty.
    Invalid(Vec<FieldError>),
}

impl Shape {
    /// Reads an order. `new_id` is called when the order is to get a new identifier.
    ///
    /// Fields that the shape does not know are ignored; a field that stands there twice is refused,
    /// since readers differ on which one counts (RFC 8259, section 4).
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
            (OrderIdField::Optional, Some(json)) if is_null(json) => Some(None),
            (OrderIdField::Required, None) => errors.missing("order_id"),
            (_, Some(json)) => errors.id("order_id", json).map(Some),
        };
        let user_id = match fields.take("user_id") {
            Some(json) => errors.id("user_id", json),
            None => errors.missing("user_id"),
        };
        let item_ids = match fields.take(self.items_field) {
            Some(json) => errors.items(self.items_field, json),
            None => errors.missing(self.items_field),
        };
        let total_amount = match fields.take("total_amount") {
            Some(json) => Amount::from_json(json).map_err(|error| errors.push("total_amount", error.to_string())).ok(),
            None => errors.missing("total_amount"),
        };
        let currency = match fields.take("currency").filter(|json| !is_null(json)) {
            Some(json) => errors.currency(json),
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

/// The most failed orders that one request has tried again, and what is meant when it does not say.
pub const MAX_RETRIED: u32 = 1_000;

/// Reads `{order_ids?, user_id?, failed_from?, failed_before?, limit?}`: which failed orders are meant, and how
/// many of them at most. An empty body means all. Other fields are refused: a filter that is misspelt must not
/// mean everything.
///
/// # Errors
/// As those of [`Shape::parse`].
pub fn dead_letter_filter(body: &[u8]) -> Result<(DeadLetterFilter, u32), Rejection> {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut fields = Fields::parse(body)?;
    let mut errors = Errors(fields.repeated.iter().map(|name| FieldError::at(name, REPEATED)).collect());
    let mut filter = DeadLetterFilter::default();
    if let Some(json) = fields.take("order_ids") {
        let ids = errors.items("order_ids", json);
        filter.order_ids = ids.map(|ids| ids.iter().map(|id| id.as_str().to_owned()).collect());
    }
    if let Some(json) = fields.take("user_id") {
        filter.user_id = errors.id("user_id", json).map(|id| id.as_str().to_owned());
    }
    for (name, time) in [("failed_from", &mut filter.failed_from), ("failed_before", &mut filter.failed_before)] {
        if let Some(json) = fields.take(name) {
            *time = serde_json::from_str(json.get()).ok().and_then(|text: String| Timestamp::parse_rfc3339(&text));
            if time.is_none() {
                errors.push(name, "must be a time as RFC 3339 writes them");
            }
        }
    }
    let mut limit = MAX_RETRIED;
    if let Some(json) = fields.take("limit") {
        match json.get().parse() {
            Ok(number @ 1..=MAX_RETRIED) => limit = number,
            _ => errors.push("limit", format!("must be a whole number from 1 to {MAX_RETRIED}")),
        }
    }
    for name in fields.values.keys() {
        errors.push(name, "is not a field of this request");
    }
    if errors.0.is_empty() { Ok((filter, limit)) } else { Err(Rejection::Invalid(errors.0)) }
}

fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

/// The fields of a JSON object as they stand in its text, so that numbers are read digit by digit.
struct Fields<'a> {
    values: BTreeMap<String, &'a RawValue>,
    repeated: Vec<String>,
}

impl<'a> Fields<'a> {
    fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        let malformed = |error: serde_json::Error| Rejection::Malformed(error.to_string());
        let json: &RawValue = serde_json::from_slice(body).map_err(malformed)?;
        if !json.get().starts_with('{') {
            return Err(Rejection::Invalid(vec![FieldError {
                detail: "must be a JSON object".to_owned(),
                pointer: "#".to_owned(),
            }]));
        }
        serde_json::from_str(json.get()).map_err(malformed)
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        self.values.remove(name)
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                /// An order has five fields; more than this is no order in anyone's language.
                const MAX_FIELDS: usize = 1_000;
                let mut fields = Fields { values: BTreeMap::new(), repeated: Vec::new() };
                let mut seen = 0;
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    seen += 1;
                    if seen > MAX_FIELDS {
                        return Err(A::Error::custom(format!("more than {MAX_FIELDS} fields")));
                    }
                    match fields.values.entry(name) {
                        Entry::Vacant(entry) => _ = entry.insert(value),
                        Entry::Occupied(entry) if fields.repeated.contains(entry.key()) => {}
                        Entry::Occupied(entry) => fields.repeated.push(entry.key().clone()),
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// The most field errors that are told at once; more would make an answer larger than the request.
const MAX_ERRORS: usize = 100;

/// Collects what is wrong, field by field.
struct Errors(Vec<FieldError>);

impl Errors {
    fn push(&mut self, path: &str, detail: impl Into<String>) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError::at(path, detail));
        }
    }

    fn missing<T>(&mut self, name: &str) -> Option<T> {
        self.push(name, "is missing");
        None
    }

    fn id(&mut self, path: &str, json: &RawValue) -> Option<Id> {
        let id = Id::from_json(json);
        if id.is_none() {
            self.push(path, ID_RULE);
        }
        id
    }

    fn items(&mut self, name: &str, json: &RawValue) -> Option<Vec<Id>> {
        let max = NewOrder::MAX_ITEMS;
        let items: Vec<&RawValue> = match serde_json::from_str(json.get()) {
            Ok(items) => items,
            Err(_) => {
                self.push(name, format!("must be an array of 1 to {max} identifiers"));
                return None;
            }
        };
        if !(1..=max).contains(&items.len()) {
            self.push(name, format!("must hold 1 to {max} identifiers, not {}", items.len()));
            return None;
        }
        let ids = items.into_iter().enumerate();
        let ids: Vec<_> = ids.map(|(index, json)| self.id(&format!("{name}/{index}"), json)).collect();
        ids.into_iter().collect()
    }

    fn currency(&mut self, json: &RawValue) -> Option<Currency> {
        let currency = serde_json::from_str::<String>(json.get()).ok().and_then(Currency::parse);
        if currency.is_none() {
            self.push("currency", "must be a code of three capital letters, as ISO 4217 has them");
        }
        currency
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        assert_eq!(order.item_ids.iter().map(Id::as_str).collect::<Vec<_>>(), ["a", "2", "a"]);
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
        assert_eq!(parse(CANONICAL, &body(1_000)).unwrap().item_ids.len(), 1_000);
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
    fn a_filter_says_which_dead_letters_are_meant() {
        assert_eq!(dead_letter_filter(b""), Ok((DeadLetterFilter::default(), MAX_RETRIED)));
        let body = br#"{"order_ids": [1, "b"], "user_id": "u", "failed_from": "2025-03-01T12:00:00Z", "limit": 5}"#;
        let (filter, limit) = dead_letter_filter(body).unwrap();
        assert_eq!(filter.order_ids, Some(vec!["1".to_owned(), "b".to_owned()]));
        assert_eq!(filter.user_id.as_deref(), Some("u"));
        assert_eq!(filter.failed_from, Some(Timestamp::from_millis(1_740_830_400_000)));
        assert_eq!((filter.failed_before, limit), (None, 5));
        for (body, pointer) in [
            (r#"{"usr_id": "u"}"#, "#/usr_id"),
            (r#"{"a b~%\"": "u"}"#, "#/a%20b~0%25%22"),
            (r#"{"failed_before": "yesterday"}"#, "#/failed_before"),
            (r#"{"limit": 0}"#, "#/limit"),
            (r#"{"limit": 1001}"#, "#/limit"),
            (r#"{"order_ids": []}"#, "#/order_ids"),
            (r#"{"user_id": "u", "user_id": "v"}"#, "#/user_id"),
        ] {
            match dead_letter_filter(body.as_bytes()) {
                Err(Rejection::Invalid(errors)) => assert_eq!(errors[0].pointer, pointer),
                other => panic!("{body}: {other:?}"),
            }
        }
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
