//! Who asks, and whose orders are whose.

/// Whose an order is: identifiers, idempotency keys and counters are kept apart for each owner. It is empty where
/// owners are not distinguished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(String);

/// The owner of everything where owners are not distinguished.
pub static NOBODY: Owner = Owner(String::new());

impl Owner {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 64;

    /// An owner by name: 1 to 64 ASCII letters, digits, `-`, `_`, `.` and `:`; `None` for anything else.
    pub fn parse(name: impl Into<String>) -> Option<Self> {
        let name = name.into();
        let valid = (1..=Self::MAX_LEN).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte));
        valid.then_some(Self(name))
    }

    /// An owner that the store kept, which was checked when it came in.
    pub(crate) fn from_stored(name: String) -> Self {
        Self(name)
    }

    /// The name; empty where owners are not distinguished.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Whose orders this one sees and makes.
    pub owner: Owner,
    /// Which caller it is among those that act for the owner: two callers may use the same Idempotency-Key and do not
    /// meet. It stays the same for as long as a client may send a request again, so it is not made of anything that
    /// is renewed meanwhile.
    pub caller: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_a_plain_name_of_limited_length() {
        for name in ["a", "shop-1", "key:Z_9.x", &"x".repeat(64)] {
            assert_eq!(Owner::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "*", "a b", "é", "a\n", &"x".repeat(65)] {
            assert_eq!(Owner::parse(name), None, "{name:?}");
        }
        assert_eq!(Owner::default(), NOBODY);
    }
}
