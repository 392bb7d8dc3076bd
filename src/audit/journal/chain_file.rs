//! The chain file, `FILE.chain`: a small file next to the trail that names its last record, and the first
//! that it is supposed to have.
//!
//! It carries the chain over a rotation while nothing runs, and shows when the end of a trail has
//! been cut off. It is written after the trail, so a crash leaves it behind the trail and never
//! before it. It has always the same length and is overwritten in place: that takes no room on a
//! full disk.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::beside;
use super::chain::{FIRST, Link, short};

/// Bytes of the file, the newline included.
const LENGTH: usize = 160;
/// Attempts to read a file that is being written at the moment, and the pause between two.
const READ_ATTEMPTS: u32 = 20;
const READ_PAUSE: Duration = Duration::from_millis(5);

#[derive(Deserialize)]
struct Written {
    seq: u64,
    hash: String,
    /// Absent in files of the first edition.
    #[serde(default = "first")]
    first: u64,
    /// The beginning of a hash over all of them, against half-written files and edits by hand.
    check: String,
}

/// The end of the chain, as the chain file of a trail has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::audit) enum ChainEnd {
    /// The end of the chain.
    Link(Link),
    /// There is a chain file, and it does not name a record.
    Damaged,
    /// Nothing.
    Missing,
}

/// The file's name for a trail.
pub(in crate::audit) fn path_of(trail: &Path) -> PathBuf {
    beside::path(trail, ".chain")
}

/// Returns true if a trail of this kind has a chain file. A device has none.
pub(in crate::audit) fn applies_to(trail: &Metadata) -> bool {
    trail.is_file() || trail.file_type().is_fifo()
}

/// Reads the chain file of a trail.
pub(in crate::audit) fn read(trail: &Path) -> io::Result<ChainEnd> {
    let path = path_of(trail);
    for _ in 0..READ_ATTEMPTS {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ChainEnd::Missing),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ok(ChainEnd::Damaged);
            }
            Err(error) => return Err(error),
        };
        if let Some(link) = parse(&text) {
            return Ok(ChainEnd::Link(link));
        }
        std::thread::sleep(READ_PAUSE);
    }
    Ok(ChainEnd::Damaged)
}

pub(in crate::audit) fn parse(text: &str) -> Option<Link> {
    let written: Written = serde_json::from_str(text).ok()?;
    let mut link = Link::of(written.seq, written.hash)?;
    link.first = written.first;
    (written.check == check(&link)).then_some(link)
}

fn first() -> u64 {
    FIRST
}

fn check(link: &Link) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(itoa::Buffer::new().format(link.last()).as_bytes());
    hasher.update(b":");
    hasher.update(link.hash.as_bytes());
    // Of a trail that was never pruned as in the first edition, which can take it back so.
    if link.first != FIRST {
        hasher.update(b":");
        hasher.update(itoa::Buffer::new().format(link.first).as_bytes());
    }
    short(hasher.finalize())
}

/// The open file.
#[derive(Debug)]
pub(in crate::audit) struct ChainFile(File);

impl ChainFile {
    /// Opens or makes the chain file of a trail.
    pub(in crate::audit) fn open(trail: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o640);
        beside::open(&mut options, &path_of(trail)).map(Self)
    }

    /// A file that is open.
    pub(in crate::audit) fn of(file: File) -> Self {
        Self(file)
    }

    /// Names the last record, and the first.
    pub(in crate::audit) fn write(&self, link: &Link) -> io::Result<()> {
        // By hand, because it is written after each batch.
        let mut text = String::with_capacity(LENGTH);
        text.push_str("{\"seq\":");
        text.push_str(itoa::Buffer::new().format(link.last()));
        text.extend([
            ",\"hash\":\"",
            &link.hash,
            "\",\"first\":",
            itoa::Buffer::new().format(link.first),
            ",\"check\":\"",
            &check(link),
            "\"}",
        ]);
        let mut bytes = text.into_bytes();
        bytes.resize(LENGTH - 1, b' ');
        bytes.push(b'\n');
        self.0.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{ChainEnd, ChainFile, LENGTH, path_of, read};
    use crate::audit::journal::chain::Link;

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        assert_eq!(read(&trail).unwrap(), ChainEnd::Missing);
        let head = ChainFile::open(&trail).unwrap();
        for (next, first) in [(1, 1), (1000, 1), (u64::MAX, u64::MAX), (7, 3)] {
            let link = Link {
                next,
                hash: "a".repeat(64),
                first,
            };
            head.write(&link).unwrap();
            assert_eq!(read(&trail).unwrap(), ChainEnd::Link(link));
            let length = std::fs::metadata(path_of(&trail)).unwrap().len();
            assert_eq!(length, LENGTH as u64);
        }
        let text = std::fs::read_to_string(path_of(&trail)).unwrap();
        for forged in [
            text.replace('6', "5"),
            text.replace("aa", "ab"),
            text.replace("\"first\":3", "\"first\":2"),
            text.replace(",\"first\":3", ""),
            String::new(),
        ] {
            std::fs::write(path_of(&trail), forged).unwrap();
            assert_eq!(read(&trail).unwrap(), ChainEnd::Damaged);
        }
        // As the first edition wrote it.
        let old = "{\"seq\":0,\"hash\":\"0000000000000000000000000000000000000000000000000000000000000000\",\"check\":\"CHECK\"}\n";
        let check = super::check(&Link::default());
        std::fs::write(path_of(&trail), old.replace("CHECK", &check)).unwrap();
        assert_eq!(read(&trail).unwrap(), ChainEnd::Link(Link::default()));
    }
}
