//! The chain: each line carries the hash of the line before, so that an edit, a gap or a reorder
//! shows. Pure.

use std::fmt::Write as _;

use serde::Deserialize;

/// The end of a chain: where the next record goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The number of the next record.
    pub(super) next: u64,
    /// The hash of the last one, hexadecimal; 64 zeros at the very beginning.
    pub(super) hash: String,
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
            hash: "0".repeat(64),
        }
    }
}

impl Link {
    /// The link after a line of an existing file; `None` when the line is no record.
    pub(super) fn after(line: &str) -> Option<Self> {
        let tail: Tail = serde_json::from_str(line).ok()?;
        Some(Self {
            next: tail.seq.checked_add(1)?,
            hash: tail.hash,
        })
    }

    /// Finishes a record: `fields` are its members without braces. Appends the whole line, newline
    /// included, to `out`.
    ///
    /// The hash is BLAKE3 over the line up to the comma before `"hash"`.
    pub(super) fn append(&mut self, fields: &str, out: &mut String) {
        let start = out.len();
        // Writing to a String cannot fail.
        let _ok = write!(
            out,
            "{{\"seq\":{},{fields},\"prev\":\"{}\"",
            self.next, self.hash
        );
        let hashed = out.get(start..).unwrap_or_default();
        self.hash = blake3::hash(hashed.as_bytes()).to_hex().to_string();
        let _ok = writeln!(out, ",\"hash\":\"{}\"}}", self.hash);
        self.next = self.next.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn each_line_names_the_hash_of_the_one_before() {
        let mut link = Link::default();
        let mut out = String::new();
        link.append("\"a\":1", &mut out);
        link.append("\"a\":2", &mut out);
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
}
