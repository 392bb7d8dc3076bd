//! The end of the chain when the proxy starts: after the last whole record of the file, or after the one
//! that the chain file names if that is later.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::chain::{ChainKey, Line, Link};
use super::chain_file::{self, ChainEnd};
use crate::audit::record::event::Event;

/// The last record is looked for in this many bytes.
const TAIL: u64 = 1 << 20;

/// The end of the chain at a start.
#[derive(Debug, Default)]
pub(in crate::audit) struct Resumed {
    pub(in crate::audit) link: Link,
    /// True if the last record is known to be hashed with the current key.
    pub(in crate::audit) same_key: bool,
    /// Events to record about it.
    pub(in crate::audit) notes: Vec<(Event, String)>,
}

/// Finds the end of the chain. A last line that a crash has torn is set aside.
pub(in crate::audit) fn resume(path: &Path, key: &ChainKey) -> io::Result<Resumed> {
    let mut resumed = Resumed::default();
    if std::fs::metadata(path).is_ok_and(|meta| meta.is_file()) {
        resumed.read(path, key)?;
    }
    match chain_file::read(path) {
        Ok(ChainEnd::Link(beside)) => resumed.compare(beside, key),
        Ok(ChainEnd::Damaged) => resumed.notes.push((
            Event::Audit,
            "the .chain file beside the trail was not readable and is made anew".to_owned(),
        )),
        Ok(ChainEnd::Missing) => {}
        Err(error) => tracing::warn!(%error, "the .chain file beside the trail cannot be read"),
    }
    if resumed.link.last() == 0 {
        resumed.same_key = *key == ChainKey::NONE;
    }
    Ok(resumed)
}

impl Resumed {
    fn read(&mut self, path: &Path, key: &ChainKey) -> io::Result<()> {
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        (&file).take(TAIL).read_to_end(&mut tail)?;
        let whole = tail
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end.saturating_add(1));
        let (whole, torn) = tail.split_at_checked(whole).unwrap_or_default();
        if !torn.is_empty() {
            self.set_aside(path, &mut file, length, torn)?;
        }
        if let Some((link, same_key)) = last(whole, key) {
            self.link = link;
            self.same_key = same_key;
        }
        Ok(())
    }

    /// Takes a torn line out of the trail, into a file of its own; where that cannot be done, ends
    /// it, so that the next record stands on a line of its own.
    fn set_aside(
        &mut self,
        path: &Path,
        file: &mut File,
        length: u64,
        torn: &[u8],
    ) -> io::Result<()> {
        let bytes = u64::try_from(torn.len()).unwrap_or(u64::MAX);
        let kept = length.saturating_sub(bytes);
        let note = match keep(path, torn).and_then(|to| file.set_len(kept).map(|()| to)) {
            Ok(to) => format!(
                "a line torn by a crash, {bytes} bytes, is set aside in {}",
                to.display()
            ),
            Err(error) => {
                file.write_all(b"\n")?;
                format!("a line torn by a crash, {bytes} bytes, stays where it is: {error}")
            }
        };
        tracing::warn!(note, "the audit trail was torn");
        self.notes.push((Event::Torn, note));
        Ok(())
    }

    /// The chain file is ahead of the trail only when records are gone.
    fn compare(&mut self, beside: Link, key: &ChainKey) {
        self.link.first = beside.first;
        if beside.last() <= self.link.last() {
            return;
        }
        if self.link.last() > 0 {
            let gone = format!(
                "records {} to {} are gone from the end of the trail",
                self.link.next,
                beside.last()
            );
            tracing::error!(
                gone,
                "the audit trail was cut off, or lost in a crash of the machine"
            );
            self.notes.push((Event::Torn, gone));
        }
        self.link = beside;
        // The key of the last record is unknown.
        self.same_key = *key == ChainKey::NONE;
    }
}

/// The link after the last record in these lines, and whether it is hashed with the key.
pub(in crate::audit) fn last(whole: &[u8], key: &ChainKey) -> Option<(Link, bool)> {
    let lines = whole.split(|byte| *byte == b'\n').rev();
    let mut records = lines.filter_map(|line| Some((line, std::str::from_utf8(line).ok()?)));
    let (record, link) = records.find_map(|(line, text)| Some((line, Link::after(text)?)))?;
    let same_key = Line::parse(record).is_some_and(|line| line.is_whole(key));
    Some((link, same_key))
}

fn keep(path: &Path, torn: &[u8]) -> io::Result<PathBuf> {
    let mut name = path.as_os_str().to_owned();
    let now = Timestamp::now();
    name.push(format!(".torn-{}", now.strftime("%Y-%m-%dT%H%M%S%.6f")));
    let to = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(&to)?;
    file.write_all(torn)?;
    file.sync_data()?;
    Ok(to)
}
