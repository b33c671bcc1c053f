//! The items of an order, kept as the JSON text that clients sent and the store keeps.

use serde::Serialize;
use serde_json::value::RawValue;

use super::id::Id;

/// 1 to [`Items::MAX`] identifiers in the client's order; repeats are allowed.
///
/// They are held as one JSON array in canonical form (no spaces, nothing escaped that need not be), because that is
/// what the store keeps and what answers repeat: an order of a thousand items is checked item by item once, and
/// copied as one text from then on.
#[derive(Clone, Debug)]
pub struct Items(Box<RawValue>);

/// Why a JSON value is not [`Items`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemsError {
    /// It is not an array.
    NotAnArray,
    /// It is an array of this many elements.
    Count(usize),
    /// The elements at these places are not identifiers. Never empty.
    NotIdentifiers(Vec<usize>),
}

impl Items {
    /// The most items in one order.
    pub const MAX: usize = 1_000;

    /// Reads a JSON array of identifiers.
    ///
    /// # Errors
    /// See [`ItemsError`].
    pub fn from_json(json: &RawValue) -> Result<Self, ItemsError> {
        if is_canonical(json.get()) {
            return Ok(Self(json.to_owned()));
        }
        let elements: Vec<&RawValue> = serde_json::from_str(json.get()).map_err(|_| ItemsError::NotAnArray)?;
        if !(1..=Self::MAX).contains(&elements.len()) {
            return Err(ItemsError::Count(elements.len()));
        }
        let mut canonical = String::with_capacity(json.get().len());
        let mut invalid = Vec::new();
        for (index, element) in elements.into_iter().enumerate() {
            canonical.push(if index == 0 { '[' } else { ',' });
            if let Some(id) = Id::from_json(element) {
                canonical.push_str(&serde_json::to_string(&id).expect("identifiers are JSON"));
            } else {
                invalid.push(index);
            }
        }
        if !invalid.is_empty() {
            return Err(ItemsError::NotIdentifiers(invalid));
        }
        canonical.push(']');
        Ok(Self(RawValue::from_string(canonical).expect("it was put together as JSON")))
    }

    /// Items that the store kept, which were checked when they came in.
    pub(crate) fn from_stored(json: String) -> Option<Self> {
        RawValue::from_string(json).ok().filter(|json| json.get().starts_with('[')).map(Self)
    }

    /// The JSON array.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// The items one by one.
    pub fn to_ids(&self) -> Vec<Id> {
        let elements: Vec<&RawValue> = serde_json::from_str(self.0.get()).expect("it is an array");
        elements.into_iter().filter_map(Id::from_json).collect()
    }
}

/// Whether `json` is a list of valid identifiers, in canonical form already, as most clients send it: what is found so
/// in one pass need not be taken apart and put together again.
fn is_canonical(json: &str) -> bool {
    let Some(mut rest) = json.as_bytes().strip_prefix(b"[") else { return false };
    for _ in 0..Items::MAX {
        let Some(length) = canonical_identifier(rest) else { return false };
        match &rest[length..] {
            [b',', after @ ..] => rest = after,
            [b']'] => return true,
            _ => return false,
        }
    }
    false
}

/// The length of the identifier in canonical form at the beginning of `json`, if there is one.
fn canonical_identifier(json: &[u8]) -> Option<usize> {
    let Some(string) = json.strip_prefix(b"\"") else {
        let length = json.iter().take_while(|byte| **byte == b'-' || byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&json[..length]).ok()?;
        return (number.parse::<i64>().ok()?.to_string() == number).then_some(length);
    };
    let (mut at, mut characters) = (0, 0);
    let mut last = b' ';
    loop {
        let (character, bytes) = match string.get(at)? {
            b'"' => break,
            b'\\' => (*string.get(at + 1).filter(|escaped| b"\"\\".contains(escaped))?, 2),
            character @ 0x20..=0x7e => (*character, 1),
            _ => return None,
        };
        if characters == 0 && character == b' ' {
            return None;
        }
        (at, characters, last) = (at + bytes, characters + 1, character);
    }
    let is_valid = (1..=Id::MAX_LEN).contains(&characters) && last != b' ' && !matches!(&string[..at], b"." | b"..");
    is_valid.then_some(at + 2)
}

/// As identifiers are equal: `[1]` and `["1"]` name the same items.
impl PartialEq for Items {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json() || self.to_ids() == other.to_ids()
    }
}

impl Eq for Items {}

impl Serialize for Items {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl FromIterator<Id> for Items {
    /// # Panics
    /// Where there are none, or more than [`Self::MAX`].
    fn from_iter<I: IntoIterator<Item = Id>>(ids: I) -> Self {
        let ids: Vec<Id> = ids.into_iter().collect();
        let json = serde_json::value::to_raw_value(&ids).expect("identifiers are JSON");
        Self::from_json(&json).expect("1 to 1,000 identifiers")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<Items, ItemsError> {
        Items::from_json(&RawValue::from_string(json.to_owned()).unwrap())
    }

    #[test]
    fn items_are_kept_in_canonical_form() {
        let items = parse(r#" [ "a" , 2,"\u0061b", "c\/d", "\"\\" , -5 ] "#).unwrap();
        assert_eq!(items.as_json(), r#"["a",2,"ab","c/d","\"\\",-5]"#);
        assert_eq!(items.to_ids().iter().map(Id::as_str).collect::<Vec<_>>(), ["a", "2", "ab", "c/d", "\"\\", "-5"]);
    }

    #[test]
    fn what_is_not_a_list_of_identifiers_is_refused_with_the_places() {
        assert_eq!(parse("\"a\""), Err(ItemsError::NotAnArray));
        assert_eq!(parse("[]"), Err(ItemsError::Count(0)));
        assert_eq!(parse(&format!("[{}]", vec!["1"; 1_001].join(","))), Err(ItemsError::Count(1_001)));
        assert_eq!(parse(r#"["a", null, "é", " b", 1.5, ""]"#), Err(ItemsError::NotIdentifiers(vec![1, 2, 3, 4, 5])));
    }

    #[test]
    fn equality_is_that_of_identifiers() {
        assert_eq!(parse(r#"[1, "b"]"#), parse(r#"["1", "b"]"#));
        assert_ne!(parse(r#"["1", "b"]"#), parse(r#"["b", "1"]"#));
    }

    #[test]
    fn canonical_form_is_told_from_everything_else() {
        for json in [r#"["a"]"#, r#"["a b","\"\\",0,-5,9223372036854775807]"#] {
            assert!(is_canonical(json), "{json}");
        }
        let long = format!("[\"{}\"]", "x".repeat(65));
        let many = format!("[{}]", vec!["1"; 1_001].join(","));
        for json in [
            "[]",
            "[ 1]",
            "[1 ]",
            "[1, 2]",
            "[01]",
            "[-0]",
            "[1.0]",
            "[1e2]",
            "[9223372036854775808]",
            "[null]",
            "[[1]]",
            "{}",
            r#"["a\/b"]"#,
            r#"["\u0061"]"#,
            r#"[" a"]"#,
            r#"["a "]"#,
            r#"[""]"#,
            r#"["."]"#,
            r#"[".."]"#,
            r#"["é"]"#,
            &long,
            &many,
        ] {
            assert!(!is_canonical(json), "{json}");
        }
    }

    proptest! {
        /// The one pass and the thorough way agree.
        #[test]
        fn what_is_taken_as_it_is_is_what_the_thorough_way_makes(json in "\\[(\"([ -~]|\\\\[\"\\\\/u])*\"|-?[0-9]{1,3}|,| ){0,6}\\]") {
            if let Ok(json) = RawValue::from_string(json) && is_canonical(json.get()) {
                let elements: Vec<&RawValue> = serde_json::from_str(json.get()).unwrap();
                let ids: Option<Vec<Id>> = elements.into_iter().map(Id::from_json).collect();
                prop_assert_eq!(serde_json::to_string(&ids.unwrap()).unwrap(), json.get());
            }
        }

        #[test]
        fn any_identifiers_come_back_as_they_were(texts in proptest::collection::vec("[!-~]([ -~]{0,62}[!-~])?", 1..20)) {
            let ids: Vec<Id> = texts.iter().filter_map(|text| Id::from_text(text.as_str())).collect();
            prop_assume!(!ids.is_empty());
            let items: Items = ids.iter().cloned().collect();
            prop_assert!(is_canonical(items.as_json()));
            prop_assert_eq!(items.to_ids(), ids);
            prop_assert_eq!(Items::from_stored(items.as_json().to_owned()), Some(items));
        }
    }
}
