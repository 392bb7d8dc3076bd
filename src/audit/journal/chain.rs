//! The chain: each line carries the hash of the line before, so that an edit, a gap or a reorder
//! shows. Pure.
//!
//! A line is `{"seq":N,…,"prev":"…","hash":"…"}`: the number first, the hash of the line before and
//! its own last. The hash is BLAKE3 over the line up to the comma before `"hash"`, with a key where
//! there is one.

use std::fmt;

use serde::Deserialize;

/// A key file holds at least as many bytes.
const MIN_KEY: usize = 32;
/// Hexadecimal digits of a hash.
const DIGITS: usize = 64;
/// The first record of every trail.
pub(in crate::audit) const FIRST: u64 = 1;
const HEAD: &[u8] = b"{\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const HASH: &[u8] = b"\",\"hash\":\"";
const END: &[u8] = b"\"}";
/// Bytes from the comma before `"prev"` on, and of them those that the hash is still of.
const TAIL: usize = PREV.len() + HASH.len() + END.len() + 2 * DIGITS;
const HASHED: usize = PREV.len() + DIGITS + 1;

/// A key file is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key has at least {MIN_KEY} bytes; make one with: openssl rand -out FILE 32")]
pub struct ShortKey;

/// The key that lines are hashed with, if any.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ChainKey(Option<[u8; 32]>);

impl fmt::Debug for ChainKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "ChainKey(****)"
        } else {
            "ChainKey(none)"
        })
    }
}

impl ChainKey {
    /// No key: anyone able to write the file can make a chain that verifies.
    pub const NONE: Self = Self(None);

    /// A key from the bytes of a file.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ShortKey> {
        if bytes.len() < MIN_KEY {
            return Err(ShortKey);
        }
        Ok(Self(Some(blake3::derive_key(
            "portcullis 2026 audit chain",
            bytes,
        ))))
    }

    /// The name of a key in records and reports, which reveals nothing of it. `None` for no key.
    pub fn name(&self) -> Option<String> {
        let name = blake3::derive_key("portcullis 2026 audit chain key name", &self.0?);
        Some(short(blake3::Hash::from_bytes(name)))
    }

    pub(in crate::audit) fn hash(&self, bytes: &[u8]) -> blake3::Hash {
        match &self.0 {
            None => blake3::hash(bytes),
            Some(key) => blake3::keyed_hash(key, bytes),
        }
    }
}

/// The beginning of a hash, for names and checks.
pub(super) fn short(hash: blake3::Hash) -> String {
    hash.to_hex().chars().take(16).collect()
}

/// The end of a chain, where the next record continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Link {
    /// The number of the next record.
    pub(in crate::audit) next: u64,
    /// The hash of the last one, hexadecimal; 64 zeros at the very beginning.
    pub(in crate::audit) hash: String,
    /// The first record that the trail is supposed to have: 1 until it is pruned.
    pub(in crate::audit) first: u64,
}

#[derive(Deserialize)]
struct Tail {
    seq: u64,
    hash: String,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            next: 1,
            hash: "0".repeat(DIGITS),
            first: FIRST,
        }
    }
}

impl Link {
    /// The link after a line of an existing file; `None` when the line is no record.
    pub(in crate::audit) fn after(line: &str) -> Option<Self> {
        let tail: Tail = serde_json::from_str(line).ok()?;
        Self::of(tail.seq, tail.hash)
    }

    /// The link after a record; `None` for a malformed hash, which the next record could not name.
    pub(in crate::audit) fn of(seq: u64, hash: String) -> Option<Self> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let next = seq.checked_add(1)?;
        (hash.len() == DIGITS && hash.bytes().all(digit)).then_some(Self {
            next,
            hash,
            first: FIRST,
        })
    }

    /// The number of the last record; 0 at the very beginning.
    pub(in crate::audit) fn last(&self) -> u64 {
        self.next.saturating_sub(1)
    }

    /// Finishes a record: `fields` are its members without braces. Appends the whole line, newline
    /// included, to `out`.
    pub(in crate::audit) fn append(&mut self, key: &ChainKey, fields: &str, out: &mut String) {
        let start = out.len();
        let seq = itoa::Buffer::new().format(self.next).to_owned();
        out.extend([
            "{\"seq\":",
            &seq,
            ",",
            fields,
            ",\"prev\":\"",
            &self.hash,
            "\"",
        ]);
        let hashed = out.get(start..).unwrap_or_default();
        self.hash.clear();
        self.hash.push_str(&key.hash(hashed.as_bytes()).to_hex());
        out.extend([",\"hash\":\"", &self.hash, "\"}\n"]);
        self.next = self.next.saturating_add(1);
    }
}

/// The parts of a line that the chain is made of. Nothing else of it is looked at: the hash covers
/// the rest, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::audit) struct Line<'a> {
    pub(in crate::audit) seq: u64,
    pub(in crate::audit) prev: &'a [u8],
    pub(in crate::audit) hash: &'a [u8],
    /// The hashed part of the line.
    pub(in crate::audit) hashed: &'a [u8],
}

impl<'a> Line<'a> {
    /// Takes a line, without its newline, apart; `None` when it is no record.
    pub(in crate::audit) fn parse(line: &'a [u8]) -> Option<Self> {
        let digits = line.strip_prefix(HEAD)?;
        let end = digits.iter().take(21).position(|byte| *byte == b',')?;
        let seq = std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()?;
        let (before, tail) = line.split_at_checked(line.len().checked_sub(TAIL)?)?;
        let (prev, tail) = tail.strip_prefix(PREV)?.split_at_checked(DIGITS)?;
        let (hash, tail) = tail.strip_prefix(HASH)?.split_at_checked(DIGITS)?;
        let hashed = before.len().checked_add(HASHED)?;
        (tail == END).then_some(Self {
            seq,
            prev,
            hash,
            hashed: line.get(..hashed)?,
        })
    }

    /// Returns true if the hash is that of the line.
    pub(in crate::audit) fn is_whole(&self, key: &ChainKey) -> bool {
        key.hash(self.hashed).to_hex().as_bytes() == self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::{ChainKey, Line, Link, ShortKey};

    #[test]
    fn each_line_names_the_hash_of_the_one_before() {
        let mut link = Link::default();
        let mut out = String::new();
        link.append(&ChainKey::NONE, "\"a\":1", &mut out);
        link.append(&ChainKey::NONE, "\"a\":2", &mut out);
        let lines: Vec<&str> = out.lines().collect();
        let first: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        let second: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(first["prev"], "0".repeat(64));
        assert_eq!(second["prev"], first["hash"]);
        assert_eq!((&first["seq"], &second["seq"]), (&1.into(), &2.into()));
        let (hashed, _) = lines[1].rsplit_once(",\"hash\"").unwrap();
        assert_eq!(
            second["hash"],
            blake3::hash(hashed.as_bytes()).to_hex().to_string()
        );
        assert_eq!(Link::after(lines[1]), Some(link));
        assert_eq!(Link::after("{\"seq\":1,"), None);
    }

    #[test]
    fn the_chain_does_not_go_on_from_what_is_no_hash() {
        for hash in [
            "",
            "abc",
            "\\\",\\\"seq\\\":9",
            &"g".repeat(64),
            &"A".repeat(64),
        ] {
            let line = format!("{{\"seq\":7,\"hash\":\"{hash}\"}}");
            assert_eq!(Link::after(&line), None, "{line}");
        }
        let line = format!("{{\"seq\":7,\"hash\":\"{}\"}}", "a".repeat(64));
        assert_eq!(Link::after(&line).map(|link| link.next), Some(8));
    }

    #[test]
    fn a_line_is_taken_apart_as_it_was_put_together() {
        let key = ChainKey::from_bytes(&[7; 32]).unwrap();
        let mut link = Link::default();
        let mut out = String::new();
        link.append(&key, "\"a\":1", &mut out);
        let parsed = Line::parse(out.trim_end().as_bytes()).unwrap();
        assert_eq!(parsed.seq, 1);
        assert_eq!(parsed.prev, "0".repeat(64).as_bytes());
        assert_eq!(parsed.hash, link.hash.as_bytes());
        assert!(parsed.is_whole(&key));
        assert!(!parsed.is_whole(&ChainKey::NONE));
        assert!(!parsed.is_whole(&ChainKey::from_bytes(&[8; 32]).unwrap()));
        for end in 0..out.len() - 1 {
            assert_eq!(Line::parse(&out.as_bytes()[..end]), None);
        }
    }

    #[test]
    fn a_key_is_long_enough_and_never_shown() {
        assert_eq!(ChainKey::from_bytes(&[1; 31]), Err(ShortKey));
        let key = ChainKey::from_bytes(&[1; 32]).unwrap();
        assert_eq!(format!("{key:?}"), "ChainKey(****)");
        assert_eq!(key.name().unwrap().len(), 16);
        assert_eq!(ChainKey::NONE.name(), None);
    }
}
