//! How the items of large orders are stored: compressed, as a blob, where that makes them much smaller. What a commit
//! costs grows with its bytes, which are written twice (the log, then the file) and synced.

use crate::order::Items;

/// The shortest list that is worth compressing, in bytes of JSON: two pages of the database.
const MIN_BYTES: usize = 8 * 1024;
/// The longest list that there can be, in bytes of JSON: a thousand of the longest identifiers, each character escaped.
const MAX_BYTES: usize = Items::MAX * 132;

/// What is stored of a list.
pub enum Packed<'a> {
    /// Its JSON.
    Text(&'a str),
    /// Its JSON in LZ4's block format, behind its length in four bytes, the least significant first.
    Lz4(Vec<u8>),
}

/// Packs a list.
pub fn pack(items: &Items) -> Packed<'_> {
    let json = items.as_json();
    debug_assert!(json.len() <= MAX_BYTES);
    if json.len() < MIN_BYTES {
        return Packed::Text(json);
    }
    let compressed = lz4_flex::block::compress_prepend_size(json.as_bytes());
    match compressed.len() <= json.len() / 2 {
        true => Packed::Lz4(compressed),
        false => Packed::Text(json),
    }
}

/// Unpacks a list that was compressed; `None` for what cannot be one.
pub fn unpack(compressed: &[u8]) -> Option<Items> {
    let (length, _) = lz4_flex::block::uncompressed_size(compressed).ok()?;
    if length > MAX_BYTES {
        return None;
    }
    let json = lz4_flex::block::decompress_size_prepended(compressed).ok()?;
    Items::from_stored(String::from_utf8(json).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Id;

    #[test]
    fn large_lists_are_packed_where_it_pays() {
        let items = |text: fn(usize) -> String| -> Items {
            (0..Items::MAX).map(|number| Id::from_text(text(number)).unwrap()).collect()
        };
        let alike = items(|number| format!("a-product-of-a-long-name-{number}"));
        let Packed::Lz4(packed) = pack(&alike) else { panic!("it pays") };
        assert!(packed.len() < alike.as_json().len() / 2);
        assert_eq!(unpack(&packed).unwrap().as_json(), alike.as_json());

        let longest = items(|_| "\\".repeat(Id::MAX_LEN));
        let Packed::Lz4(packed) = pack(&longest) else { panic!("it pays") };
        assert_eq!(unpack(&packed).unwrap().as_json(), longest.as_json());

        // Digits without a pattern.
        let random = items(|number| {
            let mut seed = number as u128 + 1;
            let mut text = String::new();
            while text.len() < 60 {
                seed = seed.wrapping_mul(0xda94_2042_e4dd_58b5).wrapping_add(0x9e37_79b9_7f4a_7c15);
                text += &format!("{:08x}", (seed >> 40) as u32);
            }
            text[..60].to_owned()
        });
        assert!(matches!(pack(&random), Packed::Text(json) if json == random.as_json()));
        let small: Items = [Id::from_integer(1)].into_iter().collect();
        assert!(matches!(pack(&small), Packed::Text("[1]")));
    }

    #[test]
    fn what_was_not_packed_here_is_refused() {
        for bytes in [&b""[..], b"\xff\xff\xff\xff", b"\x05\0\0\0\x50hello", b"\x01\0\0\0"] {
            assert!(unpack(bytes).is_none(), "{bytes:?}");
        }
    }
}
