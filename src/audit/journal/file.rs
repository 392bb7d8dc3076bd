//! The audit file: appends whole lines, keeps the chain file up to date, rotates.
//!
//! Nothing is ever deleted here. A FIFO is opened without waiting for its reader and never waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use serde::Deserialize;

use super::batch::{Batch, Target};
use super::chain_file::ChainFile;
use super::error::AuditError;
use crate::audit::{AuditSync, Rotate};

/// Names tried for a rotated file.
const NAMES: u32 = 1000;

/// The file as a sink.
pub(in crate::audit) struct FileTarget {
    path: PathBuf,
    /// `None` while a FIFO has no reader.
    file: Option<File>,
    chain_file: Option<ChainFile>,
    rotate: Rotate,
    /// When the first record of the file was written.
    since: Option<Timestamp>,
    /// The first record of the trail, as the chain file has it.
    first: Option<u64>,
    sync: AuditSync,
    syncer: Arc<Syncer>,
}

impl FileTarget {
    /// Opens the file, or makes it.
    pub(in crate::audit) fn open(
        path: &Path,
        rotate: Rotate,
        sync: AuditSync,
        syncer: &Arc<Syncer>,
    ) -> Result<Self, AuditError> {
        let file = match open(path) {
            Ok(file) => Some(file),
            Err(error) if is_fifo(path) => {
                tracing::warn!(path = %path.display(), %error, "the audit FIFO has no reader");
                None
            }
            Err(source) => {
                return Err(AuditError::Open {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let mut target = Self {
            path: path.to_owned(),
            file,
            chain_file: None,
            rotate,
            since: first_time(path),
            first: None,
            sync,
            syncer: Arc::clone(syncer),
        };
        target.chain_file = target.open_chain_file();
        Ok(target)
    }

    fn open_chain_file(&self) -> Option<ChainFile> {
        if !super::chain_file::applies_to(&std::fs::metadata(&self.path).ok()?) {
            return None;
        }
        ChainFile::open(&self.path)
            .inspect_err(|error| {
                tracing::warn!(
                    path = %super::chain_file::path_of(&self.path).display(), %error,
                    "the end of the audit chain cannot be kept beside the trail"
                );
            })
            .ok()
    }

    fn rotate_if_due(&mut self, more: usize) {
        let Some(file) = &self.file else { return };
        let Ok(meta) = file.metadata() else { return };
        if !meta.is_file() || meta.len() == 0 {
            return;
        }
        let grown = meta
            .len()
            .saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        let is_large = self.rotate.size.is_some_and(|size| grown > size);
        let now = Timestamp::now();
        let is_old = self
            .rotate
            .every
            .zip(self.since)
            .is_some_and(|(every, since)| {
                let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
                now.duration_since(since) >= every
            });
        if !is_large && !is_old {
            return;
        }
        // A file that another process has moved already has its name.
        let is_in_place = std::fs::metadata(&self.path)
            .is_ok_and(|at| (at.dev(), at.ino()) == (meta.dev(), meta.ino()));
        let moved = if is_in_place {
            rotate(&self.path, now).map(drop)
        } else {
            Ok(())
        };
        match moved.and_then(|()| open(&self.path)) {
            Ok(file) => {
                tracing::info!(path = %self.path.display(), "audit file rotated");
                self.file = Some(file);
                self.since = None;
            }
            Err(error) => tracing::error!(%error, "the audit file cannot be rotated"),
        }
    }

    fn append(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(open(&self.path)?);
        }
        let Some(file) = &mut self.file else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let before = file.metadata()?;
        let mut written: usize = 0;
        while !batch.rest().is_empty() {
            match file.write(batch.rest().as_bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    batch.advance(bytes);
                    written = written.saturating_add(bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Takes a partial write back, where that is possible.
                    if before.is_file() && file.set_len(before.len()).is_ok() {
                        batch.take_back(written);
                    }
                    if error.kind() == io::ErrorKind::BrokenPipe {
                        // The next reader begins with a whole line.
                        batch.rewind_line();
                        if before.file_type().is_fifo() {
                            self.file = None;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

impl Target for FileTarget {
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        if self.rotate != Rotate::default() {
            self.rotate_if_due(batch.rest().len());
        }
        self.append(batch)?;
        match (self.sync, &self.file) {
            (AuditSync::Always, Some(file)) => file.sync_data().or_else(not_for_this_kind)?,
            (AuditSync::Second, Some(file)) => self.syncer.mark_dirty(file),
            (AuditSync::Never, _) | (_, None) => {}
        }
        self.since.get_or_insert_with(Timestamp::now);
        let first = batch.link().map(|link| link.first);
        if let Some(file) = self.file.as_ref().filter(|_| first != self.first) {
            // Files before it are removed once the chain file names it.
            file.sync_data().or_else(not_for_this_kind)?;
            self.first = first;
        }
        // After the trail, so that a crash leaves it behind and never ahead.
        if let (Some(chain_file), Some(link)) = (&self.chain_file, batch.link())
            && let Err(error) = chain_file.write(link)
        {
            tracing::warn!(%error, "the end of the audit chain cannot be kept beside the trail");
            self.chain_file = None;
        }
        Ok(())
    }
}

/// A descriptor that is already open, such as stdout.
pub(in crate::audit) struct Stream(pub(in crate::audit) File);

impl Target for Stream {
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        while !batch.rest().is_empty() {
            match self.0.write(batch.rest().as_bytes()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => batch.advance(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens a file for appending, readable by its owner and group; a FIFO only if it has a reader.
fn open(path: &Path) -> io::Result<File> {
    if is_fifo(path) {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        return OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path);
    }
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .or_else(|_not_readable| OpenOptions::new().append(true).open(path))
}

fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_fifo())
}

/// When the first record of a file was written.
fn first_time(path: &Path) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct First {
        time: String,
    }
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?)
        .read_line(&mut line)
        .ok()?;
    let first: First = serde_json::from_str(&line).ok()?;
    first.time.parse().ok()
}

/// Gives a file a name of its own: `audit.jsonl` becomes `audit-2026-11-22T030405.jsonl`.
fn rotate(path: &Path, now: Timestamp) -> io::Result<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let dot = if ending.is_empty() { "" } else { "." };
    let time = now.strftime("%Y-%m-%dT%H%M%S");
    for number in 1..=NAMES {
        let again = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let to = path.with_file_name(format!("{stem}-{time}{again}{dot}{ending}"));
        match renameat_with(CWD, path, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(to),
            Err(rustix::io::Errno::EXIST) => {}
            // A file system that cannot do it in one step.
            Err(rustix::io::Errno::INVAL) if !to.exists() => {
                return std::fs::rename(path, &to).map(|()| to);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Pipes and devices cannot be synced, and need not.
fn not_for_this_kind(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::InvalidInput {
        Ok(())
    } else {
        Err(error)
    }
}

/// Syncs the file to disk once a second, on a thread of its own, so that only this thread waits for a
/// slow disk.
#[derive(Debug, Default)]
pub(in crate::audit) struct Syncer {
    file: Mutex<Option<File>>,
    is_dirty: AtomicBool,
}

impl Syncer {
    /// Marks a file as written since the last sync.
    fn mark_dirty(&self, file: &File) {
        if self.is_dirty.load(Ordering::Acquire) {
            return;
        }
        let mut place = self.file.lock();
        *place = file.try_clone().ok();
        self.is_dirty.store(true, Ordering::Release);
    }

    /// For the life of the trail.
    pub(in crate::audit) fn run(weak: &Weak<Self>) {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let Some(syncer) = weak.upgrade() else { return };
            syncer.sync();
        }
    }

    fn sync(&self) {
        let mut place = self.file.lock();
        let file = place.take();
        drop(place);
        self.is_dirty.store(false, Ordering::Release);
        let Some(file) = file else { return };
        if let Err(error) = file.sync_data().or_else(not_for_this_kind) {
            tracing::error!(%error, "the audit file cannot be synced to the disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FileTarget, Syncer, rotate};
    use crate::audit::journal::batch::{Batch, Target as _};
    use crate::audit::journal::chain::{ChainKey, Link};
    use crate::audit::journal::chain_file::{self, ChainEnd};
    use crate::audit::{AuditSync, Rotate};
    use std::sync::Arc;

    fn names(folder: &std::path::Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_that_would_grow_too_large_is_rotated_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let rotate = Rotate {
            size: Some(400),
            every: None,
        };
        let syncer = Arc::new(Syncer::default());
        let mut target = FileTarget::open(&path, rotate, AuditSync::Always, &syncer).unwrap();
        let mut link = Link::default();
        for _ in 0..5 {
            let mut text = String::new();
            link.append(&ChainKey::NONE, "\"a\":1", &mut text);
            assert_eq!(text.len(), 164);
            target.write(&mut Batch::new(text, 1)).unwrap();
        }
        let names = names(folder.path());
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names[0].starts_with("audit-2"));
        assert_eq!(chain_file::read(&path).unwrap(), ChainEnd::Link(link));
        let files: Vec<_> = names
            .iter()
            .filter(|name| name.ends_with("jsonl"))
            .collect();
        for (file, length) in files.iter().zip([328, 328, 164]) {
            let meta = std::fs::metadata(folder.path().join(file)).unwrap();
            assert_eq!(meta.len(), length, "{file}");
        }
    }

    #[test]
    fn an_old_file_is_rotated_and_no_name_is_taken_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit");
        let now = "2026-11-22T03:04:05Z".parse().unwrap();
        for expected in ["audit-2026-11-22T030405", "audit-2026-11-22T030405-2"] {
            std::fs::write(&path, "x").unwrap();
            assert_eq!(rotate(&path, now).unwrap(), folder.path().join(expected));
        }
        std::fs::write(
            &path,
            "{\"seq\":1,\"time\":\"2026-11-20T00:00:00.000000Z\"}\n",
        )
        .unwrap();
        let rotate = Rotate {
            size: None,
            every: Some(std::time::Duration::from_hours(1)),
        };
        let syncer = Arc::new(Syncer::default());
        let mut target = FileTarget::open(&path, rotate, AuditSync::Never, &syncer).unwrap();
        for _ in 0..2 {
            target.write(&mut Batch::new("x\n".to_owned(), 1)).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x\nx\n");
        assert_eq!(names(folder.path()).len(), 5);
        // A clock that was ahead when the file was begun rotates it late, and not at each record.
        std::fs::write(
            &path,
            "{\"seq\":1,\"time\":\"2999-11-20T00:00:00.000000Z\"}\n",
        )
        .unwrap();
        let mut target = FileTarget::open(&path, rotate, AuditSync::Never, &syncer).unwrap();
        for _ in 0..2 {
            target.write(&mut Batch::new("x\n".to_owned(), 1)).unwrap();
        }
        assert_eq!(names(folder.path()).len(), 5);
    }
}
