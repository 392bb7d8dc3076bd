//! The files of a trail: their order, and their lines in blocks.

use std::io::{self, Read};
use std::time::Duration;

use super::problem::{Problem, VerifyError, found, unreadable};
use crate::audit::files::TrailFile;
use crate::audit::journal::chain::Line;

/// Bytes of a block.
const BLOCK: usize = 4 << 20;
/// No line is longer.
const LONGEST: u64 = 16 << 20;
/// Attempts to read a last line that is being written at the moment, and the pause between two.
const READ_ATTEMPTS: u32 = 10;
const READ_PAUSE: Duration = Duration::from_millis(5);

/// The files in the order of their first records; files without one come last.
pub(super) fn in_order(files: Vec<TrailFile>) -> Result<Vec<TrailFile>, VerifyError> {
    let mut known = Vec::new();
    for file in files {
        let path = file.path();
        let first = file
            .first_line(LONGEST)
            .map_err(|source| unreadable(path, source))?;
        let Some(line) = first.strip_suffix(b"\n") else {
            // An empty file, or nothing but a torn line.
            known.push((u64::MAX, file));
            continue;
        };
        let line = Line::parse(line).ok_or_else(|| found(path, 1, Problem::NotARecord))?;
        known.push((line.seq, file));
    }
    known.sort_by_key(|(seq, _)| *seq);
    Ok(known.into_iter().map(|(_, file)| file).collect())
}

/// The end of a file.
pub(super) enum Tail {
    Whole,
    /// So many bytes without a newline.
    Torn(usize),
}

/// Reads a file in blocks of whole lines.
pub(super) struct Reader {
    file: Box<dyn Read + Send>,
    /// The beginning of a line that the last block did not hold.
    rest: Vec<u8>,
}

impl Reader {
    pub(super) fn of(file: &TrailFile) -> io::Result<Self> {
        Ok(Self {
            file: file.reader()?,
            rest: Vec::new(),
        })
    }

    /// The next blocks, at most so many; none at the end.
    pub(super) fn blocks(&mut self, count: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut blocks = Vec::with_capacity(count);
        while blocks.len() < count {
            let Some(block) = self.block()? else { break };
            blocks.push(block);
        }
        Ok(blocks)
    }

    fn block(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut block = std::mem::take(&mut self.rest);
        let mut waited = 0;
        loop {
            let room = u64::try_from(BLOCK).unwrap_or(u64::MAX);
            let read = (&mut self.file).take(room).read_to_end(&mut block)?;
            if let Some(end) = memchr::memrchr(b'\n', &block) {
                self.rest = block.split_off(end.saturating_add(1));
                return Ok(Some(block));
            }
            let is_long = u64::try_from(block.len()).is_ok_and(|length| length > LONGEST);
            if block.is_empty() || is_long || (read == 0 && waited >= READ_ATTEMPTS) {
                self.rest = block;
                return Ok(None);
            }
            if read == 0 {
                waited = waited.saturating_add(1);
                std::thread::sleep(READ_PAUSE);
            }
        }
    }

    /// The end of the file, after the last block.
    pub(super) fn tail(&self) -> Tail {
        if self.rest.is_empty() {
            Tail::Whole
        } else {
            Tail::Torn(self.rest.len())
        }
    }
}
