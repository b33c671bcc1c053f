//! Digests of what requests hold.

use sha2::{Digest, Sha256};

/// SHA-256 over `parts`, each with its length in front, in hexadecimal.
pub fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digit = |value: u8| char::from_digit(value.into(), 16).expect("half a byte is a digit");
    hash.finalize().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}
