//! Pages of lists: one kind of cursor for all of them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// The lists that have pages. A cursor of one is refused by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum List {
    /// Failed orders, in the order in which they failed.
    #[serde(rename = "d")]
    DeadLetters,
}

/// A place in a list: behind the entry that it was made for. Clients pass it back as it is and learn nothing from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    list: List,
    /// What the list is sorted by, of that entry.
    key: i64,
    /// What tells entries of the same key apart.
    tie: i64,
}

impl Cursor {
    /// The longest text of a cursor, in bytes.
    const MAX_LEN: usize = 128;

    /// The place behind the entry of `list` with this sort key and tie-breaker.
    pub fn behind(list: List, key: i64, tie: i64) -> Self {
        Self { list, key, tie }
    }

    /// Reads what [`Display`](std::fmt::Display) writes; `None` for anything else and for cursors of other lists.
    pub fn parse(list: List, text: &str) -> Option<Self> {
        if text.len() > Self::MAX_LEN {
            return None;
        }
        let json = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (list_in_text, key, tie): (List, i64, i64) = serde_json::from_slice(&json).ok()?;
        (list_in_text == list).then_some(Self { list, key, tie })
    }

    /// The sort key and the tie-breaker.
    pub fn position(&self) -> (i64, i64) {
        (self.key, self.tie)
    }
}

/// The text that clients get: letters, digits, `-` and `_`.
impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let json = serde_json::to_vec(&(self.list, self.key, self.tie)).expect("numbers are JSON");
        f.write_str(&URL_SAFE_NO_PAD.encode(json))
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in the order of the list.
    pub entries: Vec<T>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// A page of up to `limit` entries out of `found`, which holds one more than that where there is a next page.
    pub fn of(mut found: Vec<T>, limit: u32, behind: impl FnOnce(&T) -> Cursor) -> Self {
        let limit = limit as usize;
        debug_assert!(limit > 0 && found.len() <= limit + 1);
        let has_next = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| has_next).map(behind);
        Self { entries: found, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_survives_its_text() {
        for (key, tie) in [(-5, 7), (0, 0), (i64::MIN, i64::MAX)] {
            let cursor = Cursor::behind(List::DeadLetters, key, tie);
            let text = cursor.to_string();
            assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{text}");
            assert_eq!(Cursor::parse(List::DeadLetters, &text), Some(cursor));
        }
        let other_list = URL_SAFE_NO_PAD.encode(r#"["x",1,2]"#);
        for text in ["", "5", "x", "WyJkIl0", &other_list, &"A".repeat(200)] {
            assert_eq!(Cursor::parse(List::DeadLetters, text), None, "{text}");
        }
    }

    #[test]
    fn a_page_knows_whether_there_is_another() {
        let page = |found: Vec<i64>| Page::of(found, 2, |entry| Cursor::behind(List::DeadLetters, *entry, 0));
        assert_eq!(page(vec![]).next, None);
        assert_eq!(page(vec![1, 2]).next, None);
        let first = page(vec![1, 2, 3]);
        assert_eq!(first.entries, [1, 2]);
        assert_eq!(first.next.map(|next| next.position()), Some((2, 0)));
    }
}
