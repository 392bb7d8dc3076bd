//! A file that grows, and that is rotated while it is read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

/// Time between two looks at the file.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Longest line, in bytes; longer ones are handed out in pieces.
const MAX_LINE: usize = 1 << 20;

/// Reads what is added to the file that has a name, across rotations.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    file: File,
    at: u64,
    /// The beginning of a line whose end is still to come.
    begun: Vec<u8>,
}

impl Follow {
    /// Continues in `file`, which stood at `path`, after `at` bytes.
    pub fn new(path: PathBuf, file: File, at: u64) -> Self {
        Self {
            path,
            file,
            at,
            begun: Vec::new(),
        }
    }

    /// Waits for lines, and hands out all there are.
    pub fn next(&mut self, mut take: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            if self.read_new(&mut take)? {
                return Ok(());
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Hands out the lines that there are; returns true if there were any.
    fn read_new(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        let before = self.replaced()?;
        let mut any = self.drain(take)?;
        if let Some(fresh) = before {
            // The old one was read to its end after it had lost its name: it does not grow for long.
            any |= !self.begun.is_empty();
            self.end(take);
            self.file = fresh;
            self.at = 0;
            any |= self.drain(take)?;
        }
        Ok(any)
    }

    /// The file that has the name now, if it is another one.
    fn replaced(&self) -> io::Result<Option<File>> {
        let fresh = match File::open(&self.path) {
            Ok(fresh) => fresh,
            // Between a rename and the next record there is none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (old, new) = (self.file.metadata()?, fresh.metadata()?);
        let same = (old.dev(), old.ino()) == (new.dev(), new.ino());
        Ok((!same).then_some(fresh))
    }

    fn drain(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        if self.file.metadata()?.len() < self.at {
            // Truncated (`copytruncate`): its content is new.
            self.at = 0;
            self.begun.clear();
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        let mut buffer = vec![0; 64 * 1024];
        let mut any = false;
        loop {
            let length = self.file.read(&mut buffer)?;
            if length == 0 {
                return Ok(any);
            }
            self.at = self.at.saturating_add(length as u64);
            for part in buffer
                .get(..length)
                .unwrap_or_default()
                .split_inclusive(|byte| *byte == b'\n')
            {
                self.begun.extend_from_slice(part);
                if part.ends_with(b"\n") || self.begun.len() > MAX_LINE {
                    self.end(take);
                    any = true;
                }
            }
        }
    }

    fn end(&mut self, take: &mut impl FnMut(&[u8])) {
        let line = self.begun.trim_ascii();
        if !line.is_empty() {
            take(line);
        }
        self.begun.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Follow;
    use std::fs::{self, File, OpenOptions};
    use std::io::Write;
    use tempfile::tempdir;

    #[test]
    fn lines_are_handed_out_whole_over_a_rotation() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, "old\n").unwrap();
        let mut follow = Follow::new(path.clone(), File::open(&path).unwrap(), 4);
        let mut read_new = || {
            let mut lines = Vec::new();
            let mut take = |line: &[u8]| lines.push(String::from_utf8(line.to_vec()).unwrap());
            follow.read_new(&mut take).unwrap();
            lines
        };
        let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
        assert!(read_new().is_empty());
        writer.write_all(b"one\ntw").unwrap();
        assert_eq!(read_new(), ["one"]);
        assert!(read_new().is_empty());
        fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
        writer.write_all(b"o\nthree\n").unwrap();
        assert_eq!(read_new(), ["two", "three"]);
        writer.write_all(b"four\n").unwrap();
        fs::write(&path, "five\n").unwrap();
        assert_eq!(read_new(), ["four", "five"]);
        fs::write(&path, "6\n").unwrap();
        assert_eq!(read_new(), ["6"], "cut off and written anew");
    }
}
