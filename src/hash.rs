//! SHA-256 and hexadecimal digits: one function each for the whole house. Pure.

use aws_lc_rs::digest;

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    for (to, byte) in hash
        .iter_mut()
        .zip(digest::digest(&digest::SHA256, bytes).as_ref())
    {
        *to = *byte;
    }
    hash
}

/// Bytes as hexadecimal digits in lower case, two each.
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The bytes of a SHA-256 in hexadecimal digits of either case; `None` for anything else.
pub fn sha256_from_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |digit: u8| {
        let value = char::from(digit).to_digit(16)?;
        u8::try_from(value).ok()
    };
    let mut hash = [0; 32];
    let (pairs, []) = text.as_bytes().as_chunks() else {
        return None;
    };
    if pairs.len() != hash.len() {
        return None;
    }
    for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::{hex, sha256, sha256_from_hex};

    #[test]
    fn a_hash_is_as_fips_180_has_it_and_reads_as_it_is_written() {
        let hash = sha256(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&hash), text);
        assert_eq!(sha256_from_hex(text), Some(hash));
        assert_eq!(sha256_from_hex(&text.to_uppercase()), Some(hash));
        for wrong in [
            "",
            "ba",
            text.trim_start_matches('b'),
            &format!("{text}00"),
            &text.replace('f', "g"),
        ] {
            assert_eq!(sha256_from_hex(wrong), None, "{wrong}");
        }
        assert_eq!(sha256_from_hex(&text.replacen("ba", "+1", 1)), None);
    }
}
