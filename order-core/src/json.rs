//! JSON objects read field by field, so that every invalid field is named and numbers are read digit by digit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Deref;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::order::{Currency, ID_RULE, Id, Items, ItemsError};

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
    /// An error of the field at `path`, segments separated by `/`.
    pub fn at(path: &str, detail: impl Into<String>) -> Self {
        /// What is told of a name that is not ours, in characters.
        const MAX_NAME: usize = 128;
        // RFC 6901, sections 3 and 6, as far as names need it that are not ours.
        let path: String = path
            .chars()
            .take(MAX_NAME)
            .map(|character| match character {
                '~' => "~0".to_owned(),
                '!'..='}' if character != '%' && character != '"' => character.to_string(),
                _ => character.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect(),
            })
            .collect();
        Self { detail: detail.into(), pointer: format!("#/{path}") }
    }
}

/// Why a body is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The body is not JSON; says where and why.
    Malformed(String),
    /// The body is JSON and breaks the rules of these fields. Never empty.
    Invalid(Vec<FieldError>),
}

/// What is wrong with a field that appears twice: readers differ on which one counts (RFC 8259, section 4).
pub const REPEATED: &str = "must not appear more than once";

/// A value in a JSON object, as its text has it.
pub enum Json<'a> {
    /// A list of identifiers that has been checked already.
    Items(Items),
    /// Any other value.
    Other(&'a RawValue),
}

impl Deref for Json<'_> {
    type Target = RawValue;

    fn deref(&self) -> &RawValue {
        match self {
            Self::Items(items) => items.as_raw(),
            Self::Other(json) => json,
        }
    }
}

impl Json<'_> {
    pub fn is_null(&self) -> bool {
        self.get() == "null"
    }
}

/// The fields of a JSON object as its text has them, so that numbers are read digit by digit.
#[derive(Default)]
pub struct Fields<'a> {
    pub values: BTreeMap<String, Json<'a>>,
    /// The names of those that appear more than once.
    pub repeated: Vec<String>,
}

/// Why the fields of an object were not read.
enum Unreadable {
    /// It is not an object, or not JSON.
    NotAnObject,
    /// It has too many fields.
    TooManyFields,
}

impl<'a> Fields<'a> {
    /// An order has five fields; more than this is no order in anyone's language.
    const MAX: usize = 1_000;

    /// Reads an object.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] for what is not JSON, [`Rejection::Invalid`] for JSON that is not an object.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        let read = std::str::from_utf8(body).map_err(|_| Unreadable::NotAnObject).and_then(Self::read);
        read.map_err(|unreadable| match (unreadable, serde_json::from_slice::<&RawValue>(body)) {
            (Unreadable::TooManyFields, _) => Rejection::Malformed(format!("more than {} fields", Self::MAX)),
            (Unreadable::NotAnObject, Err(error)) => Rejection::Malformed(error.to_string()),
            // serde_json, too, finds that out only when it decodes the string.
            (Unreadable::NotAnObject, Ok(json)) if json.get().starts_with('{') => {
                Rejection::Malformed("the name of a field is not Unicode".to_owned())
            }
            (Unreadable::NotAnObject, Ok(_)) => {
                let (detail, pointer) = ("must be a JSON object".to_owned(), "#".to_owned());
                Rejection::Invalid(vec![FieldError { detail, pointer }])
            }
        })
    }

    /// Reads the fields one by one. serde_json would look at a list of identifiers only to find its end, and again to
    /// check it; here that is one pass, because the list makes up nearly all of a large order.
    fn read(text: &'a str) -> Result<Self, Unreadable> {
        let mut fields = Self::default();
        let mut rest = Rest(text);
        rest.expect('{')?;
        if rest.expect('}').is_err() {
            for number in 1.. {
                if number > Self::MAX {
                    return Err(Unreadable::TooManyFields);
                }
                let name = rest.name()?;
                rest.expect(':')?;
                fields.add(name, rest.value()?);
                if rest.expect(',').is_err() {
                    rest.expect('}')?;
                    break;
                }
            }
        }
        rest.expect_end().map(|()| fields)
    }

    fn add(&mut self, name: String, value: Json<'a>) {
        match self.values.entry(name) {
            Entry::Vacant(entry) => _ = entry.insert(value),
            Entry::Occupied(entry) if self.repeated.contains(entry.key()) => {}
            Entry::Occupied(entry) => self.repeated.push(entry.key().clone()),
        }
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<Json<'a>> {
        self.values.remove(name)
    }
}

/// What is yet to be read of a JSON text.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    /// RFC 8259, section 2: what may stand before and after every token.
    fn skip_space(&mut self) {
        self.0 = self.0.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn expect(&mut self, token: char) -> Result<(), Unreadable> {
        self.skip_space();
        self.0 = self.0.strip_prefix(token).ok_or(Unreadable::NotAnObject)?;
        Ok(())
    }

    fn expect_end(mut self) -> Result<(), Unreadable> {
        self.skip_space();
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable::NotAnObject) }
    }

    fn name(&mut self) -> Result<String, Unreadable> {
        self.skip_space();
        self.next()
    }

    fn value(&mut self) -> Result<Json<'a>, Unreadable> {
        self.skip_space();
        match Items::at_start_of(self.0) {
            Some((items, rest)) => {
                self.0 = rest;
                Ok(Json::Items(items))
            }
            None => self.next().map(Json::Other),
        }
    }

    fn next<T: Deserialize<'a>>(&mut self) -> Result<T, Unreadable> {
        let mut values = serde_json::Deserializer::from_str(self.0).into_iter();
        let value = values.next().and_then(Result::ok).ok_or(Unreadable::NotAnObject)?;
        self.0 = &self.0[values.byte_offset()..];
        Ok(value)
    }
}

/// The most field errors that are told at once; more would make an answer larger than the request.
pub const MAX_ERRORS: usize = 100;

/// Collects what is wrong, field by field.
pub struct Errors(pub Vec<FieldError>);

impl Errors {
    /// Adds one, unless there are many.
    pub fn push(&mut self, path: &str, detail: impl Into<String>) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError::at(path, detail));
        }
    }

    /// Adds one for a field that must be there.
    pub fn missing<T>(&mut self, name: &str) -> Option<T> {
        self.push(name, "is missing");
        None
    }

    /// Reads an identifier.
    pub fn id(&mut self, path: &str, json: &RawValue) -> Option<Id> {
        let id = Id::from_json(json);
        if id.is_none() {
            self.push(path, ID_RULE);
        }
        id
    }

    /// Reads a list of identifiers.
    pub fn items(&mut self, name: &str, json: Json<'_>) -> Option<Items> {
        let max = Items::MAX;
        let read = match json {
            Json::Items(items) => return Some(items),
            Json::Other(json) => Items::from_json(json),
        };
        match read {
            Ok(items) => return Some(items),
            Err(ItemsError::NotAnArray) => self.push(name, format!("must be an array of 1 to {max} identifiers")),
            Err(ItemsError::Count(count)) => self.push(name, format!("must hold 1 to {max} identifiers, not {count}")),
            Err(ItemsError::NotIdentifiers(places)) => {
                for place in places.into_iter().take(MAX_ERRORS) {
                    self.push(&format!("{name}/{place}"), ID_RULE);
                }
            }
        }
        None
    }

    /// Reads a currency.
    pub fn currency(&mut self, json: &RawValue) -> Option<Currency> {
        let currency = serde_json::from_str::<String>(json.get()).ok().and_then(Currency::parse);
        if currency.is_none() {
            self.push("currency", "must be three capital letters, like an ISO 4217 currency code");
        }
        currency
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_object(body: &str) -> bool {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
    }

    fn fields(body: &str) -> Option<Vec<(String, String)>> {
        let fields = Fields::parse(body.as_bytes()).ok()?;
        Some(fields.values.iter().map(|(name, value)| (name.clone(), value.get().to_owned())).collect())
    }

    #[test]
    fn fields_are_read_as_they_stand() {
        let body = " {\"a\" : 1.50, \"\\u0062\\\"\":\t[\"x\"] ,\"c\":[ 1],\"d\":{\"e\":[]}, \"f\":-0\r\n} ";
        let read = fields(body).unwrap();
        let expected = [("a", "1.50"), ("b\"", "[\"x\"]"), ("c", "[ 1]"), ("d", "{\"e\":[]}"), ("f", "-0")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(fields("{}"), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for body in [
            "",
            "[]",
            "1",
            "{",
            "}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "{1:1}",
            "{\"a\":[1]]}",
            "{\"a\":[1]",
            "{\"a\":[\"x\",]}",
            "{\"a\":1}}",
            "{} {}",
            "{\"a\":01}",
            "{\"a\":\u{a0}1}",
            "\u{feff}{}",
        ] {
            assert!(!is_object(body) && fields(body).is_none(), "{body}");
        }
    }

    #[test]
    fn a_name_that_is_not_unicode_is_malformed() {
        assert!(matches!(Fields::parse(br#"{"\ud800": 1}"#), Err(Rejection::Malformed(_))));
        assert!(matches!(Fields::parse(b"{\"\xff\": 1}"), Err(Rejection::Malformed(_))));
    }

    proptest! {
        /// What is an object here is one to serde_json, and the other way round: objects with lists and other values,
        /// and what one edit makes of them.
        #[test]
        fn objects_are_those_of_serde_json(
            fields in proptest::collection::vec((
                "\"[a-c]\"|\"\\\\u00e9\"",
                "(\\[((\"[a ]{1,3}\"|\"\\\\\\\\\"|-?[0-9]{1,3}|1e1|null),?){0,3}\\])|-?[0-9]{1,2}|1[.]5|true|\\{\"x\":\\[1\\]\\}| \"é\" ",
            ), 0..4),
            place in 0..64_usize,
            edit in "[]\\[\",:{} 1e.é-]?",
            replaces: bool,
        ) {
            let fields_text: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{value}")).collect();
            let mut body: Vec<char> = format!("{{{}}}", fields_text.join(",")).chars().collect();
            let place = place % (body.len() + 1);
            body.splice(place..(place + usize::from(replaces)).min(body.len()), edit.chars());
            let body: String = body.into_iter().collect();
            let by_serde = serde_json::from_str::<BTreeMap<String, &RawValue>>(&body).is_ok();
            prop_assert_eq!(super::Fields::parse(body.as_bytes()).is_ok(), by_serde, "{}", body);
        }

        #[test]
        fn the_fields_of_any_object_are_found(
            object in proptest::collection::btree_map(".{0,5}", proptest::collection::vec("[ -~]{0,3}|é", 0..4), 0..6),
        ) {
            let body = serde_json::to_string(&object).unwrap();
            let expected: Vec<_> = object
                .iter()
                .map(|(name, value)| (name.clone(), serde_json::to_string(value).unwrap()))
                .collect();
            prop_assert_eq!(fields(&body), Some(expected));
        }
    }
}
