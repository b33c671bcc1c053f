//! JSON objects read field by field, so that every invalid field is named and numbers are read digit by digit.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
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

pub fn is_null(json: &RawValue) -> bool {
    json.get() == "null"
}

/// The fields of a JSON object as its text has them, so that numbers are read digit by digit.
pub struct Fields<'a> {
    pub values: BTreeMap<String, &'a RawValue>,
    /// The names of those that appear more than once.
    pub repeated: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] for what is not JSON, [`Rejection::Invalid`] for JSON that is not an object.
    pub fn parse(body: &'a [u8]) -> Result<Self, Rejection> {
        let malformed = |error: serde_json::Error| Rejection::Malformed(error.to_string());
        // RFC 8259, section 2: what may come before a value.
        let first = body.iter().find(|byte| !b" \t\n\r".contains(byte));
        if first == Some(&b'{') {
            return serde_json::from_slice(body).map_err(malformed);
        }
        let _: &RawValue = serde_json::from_slice(body).map_err(malformed)?;
        Err(Rejection::Invalid(vec![FieldError {
            detail: "must be a JSON object".to_owned(),
            pointer: "#".to_owned(),
        }]))
    }

    /// Takes a field out.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
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
    pub fn items(&mut self, name: &str, json: &RawValue) -> Option<Items> {
        let max = Items::MAX;
        match Items::from_json(json) {
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
            self.push("currency", "must be a code of three capital letters, as ISO 4217 has them");
        }
        currency
    }
}
