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
        if let Some((items, "")) = Self::at_start_of(json.get()) {
            return Ok(items);
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

    /// The list at the start of `text` if it is one of valid identifiers in canonical form already, as most clients send
    /// it, and what follows: what one pass finds so need not be taken apart and put together again.
    pub(crate) fn at_start_of(text: &str) -> Option<(Self, &str)> {
        let (json, rest) = text.split_at(canonical_list(text.as_bytes())?);
        // SAFETY: a canonical list is JSON.
        Some((Self(unsafe { RawValue::from_string_unchecked(json.to_owned()) }), rest))
    }

    /// Items that the store kept, which were checked when they came in.
    pub(crate) fn from_stored(json: String) -> Option<Self> {
        RawValue::from_string(json).ok().filter(|json| json.get().starts_with('[')).map(Self)
    }

    /// The JSON array.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }

    /// The JSON array.
    pub fn as_raw(&self) -> &RawValue {
        &self.0
    }

    /// The items one by one.
    pub fn to_ids(&self) -> Vec<Id> {
        let elements: Vec<&RawValue> = serde_json::from_str(self.0.get()).expect("it is an array");
        elements.into_iter().filter_map(Id::from_json).collect()
    }
}

/// The length of the list at the start of `text`, if its identifiers are valid and all is in canonical form.
fn canonical_list(text: &[u8]) -> Option<usize> {
    let mut at = text.starts_with(b"[").then_some(1)?;
    for _ in 0..Items::MAX {
        at += canonical_identifier(&text[at..])?;
        match text.get(at)? {
            b',' => at += 1,
            b']' => return Some(at + 1),
            _ => return None,
        }
    }
    None
}

/// The length of the identifier at the start of `text`, if it is valid and in canonical form.
fn canonical_identifier(text: &[u8]) -> Option<usize> {
    let Some(string) = text.strip_prefix(b"\"") else {
        let length = text.iter().take_while(|byte| **byte == b'-' || byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&text[..length]).ok()?;
        return (number.parse::<i64>().ok()?.to_string() == number).then_some(length);
    };
    let (mut length, mut escapes) = (0, 0);
    loop {
        match string.get(length)? {
            b'"' => break,
            b'\\' if matches!(string.get(length + 1), Some(b'"' | b'\\')) => {
                length += 2;
                escapes += 1;
            }
            0x20..=0x5b | 0x5d..=0x7e => length += 1,
            _ => return None,
        }
    }
    let string = &string[..length];
    let is_valid = (1..=Id::MAX_LEN).contains(&(length - escapes))
        && !string.starts_with(b" ")
        && !string.ends_with(b" ")
        && !matches!(string, b"." | b"..");
    is_valid.then_some(length + 2)
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
            assert_eq!(canonical_list(json.as_bytes()), Some(json.len()), "{json}");
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
            assert_eq!(canonical_list(json.as_bytes()), None, "{json}");
        }
    }

    proptest! {
        /// The one pass and the thorough way agree, whatever follows the list.
        #[test]
        fn what_is_taken_as_it_is_is_what_the_thorough_way_makes(
            list in "\\[((\"([ -~]|\\\\[\"\\\\/u]){0,3}\"|-?[0-9]{1,3}),? ?){0,4}\\]",
            rest in "[]\\[,\"1é ]{0,3}",
        ) {
            if let Some((items, after)) = Items::at_start_of(&format!("{list}{rest}")) {
                let json = RawValue::from_string(items.as_json().to_owned()).unwrap();
                let elements: Vec<&RawValue> = serde_json::from_str(json.get()).unwrap();
                let ids: Option<Vec<Id>> = elements.into_iter().map(Id::from_json).collect();
                prop_assert_eq!(serde_json::to_string(&ids.unwrap()).unwrap(), json.get());
                prop_assert_eq!(format!("{}{after}", json.get()), format!("{list}{rest}"));
            }
        }

        #[test]
        fn any_identifiers_come_back_as_they_were(texts in proptest::collection::vec("[!-~]([ -~]{0,62}[!-~])?", 1..20)) {
            let ids: Vec<Id> = texts.iter().filter_map(|text| Id::from_text(text.as_str())).collect();
            prop_assume!(!ids.is_empty());
            let items: Items = ids.iter().cloned().collect();
            prop_assert_eq!(canonical_list(items.as_json().as_bytes()), Some(items.as_json().len()));
            prop_assert_eq!(items.to_ids(), ids);
            prop_assert_eq!(Items::from_stored(items.as_json().to_owned()), Some(items));
        }
    }
}
