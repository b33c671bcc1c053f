//! Identifiers, as clients choose them.

use serde::Serialize;
use serde_json::value::RawValue;

/// An identifier as a client names orders, users and items: 1–64 printable ASCII characters
/// (0x20–0x7E) that neither begin nor end with a space. `.` and `..` are refused because no URL path
/// can name them (RFC 3986, section 5.2.4).
///
/// Clients send identifiers as JSON strings or integers. An identifier remembers which it was and is sent back the
/// same way, but two identifiers are equal when their texts are: `101` and `"101"` name one order.
#[derive(Clone, Debug)]
pub struct Id {
    text: String,
    integer: bool,
}

/// The rule of [`Id`] in words, for error messages.
pub const ID_RULE: &str = "must be a string of 1 to 64 printable ASCII characters without a space at either end, \
     other than \".\" and \"..\", or an integer of at most 64 bits";

impl Id {
    /// The longest identifier, in characters.
    pub const MAX_LEN: usize = 64;

    /// An identifier sent as a string; `None` where it breaks the rule.
    pub fn from_text(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        Self::is_valid(&text).then_some(Self { text, integer: false })
    }

    /// Whether `text` keeps the rule.
    pub(crate) fn is_valid(text: &str) -> bool {
        (1..=Self::MAX_LEN).contains(&text.len())
            && text.bytes().all(|byte| (0x20..=0x7e).contains(&byte))
            && !text.starts_with(' ')
            && !text.ends_with(' ')
            && text != "."
            && text != ".."
    }

    /// An identifier sent as a JSON integer.
    pub fn from_integer(integer: i64) -> Self {
        Self { text: integer.to_string(), integer: true }
    }

    /// Reads a JSON value: a string or an integer. Other types, fractions and exponents are refused.
    pub fn from_json(json: &RawValue) -> Option<Self> {
        match json.get().as_bytes()[0] {
            b'"' => Self::from_text(serde_json::from_str::<String>(json.get()).ok()?),
            // `-0` is a number of its own to JSON, not an identifier.
            b'-' | b'0'..=b'9' if json.get() != "-0" => json.get().parse().ok().map(Self::from_integer),
            _ => None,
        }
    }

    /// An identifier that the store kept, which was checked when it came in.
    pub(crate) fn from_stored(text: String, integer: bool) -> Self {
        Self { text, integer }
    }

    /// The identifier's text, whichever way it was sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the client sent a JSON integer.
    pub fn is_integer(&self) -> bool {
        self.integer
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Id {}

impl Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.text.parse::<i64>() {
            Ok(integer) if self.integer => serializer.serialize_i64(integer),
            _ => serializer.serialize_str(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn an_integer_identifier_goes_back_as_one_and_equals_its_text() {
        let number = Id::from_json(&raw("101")).unwrap();
        let text = Id::from_json(&raw("\"101\"")).unwrap();
        assert_eq!(number, text);
        assert_eq!(serde_json::to_string(&number).unwrap(), "101");
        assert_eq!(serde_json::to_string(&text).unwrap(), "\"101\"");
    }

    #[test]
    fn identifiers_that_break_the_rule_are_refused() {
        let long = format!("\"{}\"", "x".repeat(65));
        for json in [
            "\"\"",
            &long,
            "\" a\"",
            "\"a \"",
            "\".\"",
            "\"..\"",
            "\"a\\n\"",
            "\"\\u0000\"",
            "\"é\"",
            "\"\\ud800\"",
            "1.0",
            "1e2",
            "-0",
            "9223372036854775808",
            "null",
            "true",
            "[]",
            "{}",
        ] {
            assert_eq!(Id::from_json(&raw(json)), None, "{json}");
        }
        for json in ["\"a\"", "\"a b\"", "\"~\"", "\"a/b?c#d%\"", "0", "-5", "9223372036854775807", "\"...\""] {
            assert!(Id::from_json(&raw(json)).is_some(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn every_identifier_survives_json(text in "[!-~]([ -~]{0,62}[!-~])?") {
            prop_assume!(text != "." && text != "..");
            let id = Id::from_text(text.clone()).unwrap();
            let json = serde_json::to_string(&id).unwrap();
            let back = Id::from_json(&raw(&json)).unwrap();
            prop_assert_eq!(back.as_str(), text);
            prop_assert!(!back.is_integer());
        }

        #[test]
        fn every_integer_identifier_survives_json(integer: i64) {
            let back = Id::from_json(&raw(&integer.to_string())).unwrap();
            prop_assert_eq!(serde_json::to_string(&back).unwrap(), integer.to_string());
        }
    }
}
