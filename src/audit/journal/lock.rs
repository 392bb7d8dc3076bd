//! One writer for each trail: two would give each number twice, and the chain would break at once.
//!
//! The writer of a trail holds a lock on `FILE.lock`, which its owner alone can open: a process that can open a
//! file can lock it, and the trail and its chain file have readers. It stays in place when the trail is
//! rotated, by us or by others. The system releases the lock when the process ends, however it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::beside;
use super::chain::Link;
use super::chain_file::{ChainFile, path_of};
use super::error::AuditError;

/// Time that a start waits for a stopping process, and the interval of its attempts.
const HANDOVER_WAIT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The lock of a trail, until it is dropped.
#[derive(Debug)]
pub(in crate::audit) struct Lock {
    #[expect(dead_code, reason = "the lock is the open file's")]
    file: File,
    place: Place,
}

/// Device and inode: a file, whatever its name.
type Place = (u64, u64);

impl Lock {
    /// Takes the lock of a trail, and waits a short time for a stopping process to release it.
    pub(in crate::audit) fn acquire(trail: &Path) -> Result<Option<Arc<Self>>, AuditError> {
        let begun = Instant::now();
        loop {
            match Self::take(trail, None) {
                Err(AuditError::Locked(_)) if begun.elapsed() < HANDOVER_WAIT => {
                    std::thread::sleep(POLL_INTERVAL);
                }
                taken => return taken,
            }
        }
    }

    /// Returns true if another process writes the trail. Makes no lock, and keeps none.
    pub(in crate::audit) fn is_held(trail: &Path) -> io::Result<bool> {
        let file = match beside::open(OpenOptions::new().write(true), &lock_of(trail)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the lock of a trail; returns `held` if that is the same lock. `None` where there can be none:
    /// a device has no chain file, a folder may be read-only, and not every file system has locks.
    pub(in crate::audit) fn take(
        trail: &Path,
        held: Option<Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, AuditError> {
        if std::fs::metadata(trail).is_ok_and(|meta| !super::chain_file::applies_to(&meta)) {
            return Ok(None);
        }
        let found = open(trail).and_then(|file| {
            let meta = file.metadata()?;
            Ok((file, (meta.dev(), meta.ino())))
        });
        let (file, place) = match found {
            Ok(found) => found,
            // Without it, two could write.
            Err(source) if lock_of(trail).symlink_metadata().is_ok() => {
                let (trail, lock) = (trail.to_owned(), lock_of(trail));
                return Err(AuditError::LockDenied {
                    trail,
                    lock,
                    source,
                });
            }
            Err(error) => {
                tracing::debug!(%error, "no lock for the audit trail");
                return Ok(None);
            }
        };
        if let Some(held) = held.filter(|held| held.place == place) {
            return Ok(Some(held));
        }
        if let Err(error) = make_chain_file(trail) {
            tracing::debug!(%error, "no chain file for the audit trail");
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Arc::new(Self { file, place }))),
            Err(Errno::WOULDBLOCK) => Err(AuditError::Locked(trail.to_owned())),
            Err(error) => {
                tracing::warn!(%error, "the audit trail cannot be locked: see that nobody else writes it");
                Ok(None)
            }
        }
    }
}

/// Opens `FILE.lock`.
fn open(trail: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    beside::open(&mut options, &lock_of(trail))
}

/// Makes `FILE.chain` where there is none: a new one names record 0, so that it is not taken for a damaged one.
fn make_chain_file(trail: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640);
    match options.open(path_of(trail)) {
        Ok(file) => ChainFile::of(file).write(&Link::default()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn lock_of(trail: &Path) -> PathBuf {
    beside::path(trail, ".lock")
}

#[cfg(test)]
mod tests {
    use super::{Lock, lock_of};
    use crate::audit::journal::chain::Link;
    use crate::audit::journal::chain_file::{ChainEnd, ChainFile, path_of, read};
    use rustix::fs::{FlockOperation, flock};
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    #[test]
    fn a_reader_of_the_trail_cannot_hold_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        std::fs::write(&trail, "").unwrap();
        drop(Lock::take(&trail, None).unwrap());
        let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(lock_of(&trail)), 0o600);
        // What a reader can open, it can lock; nothing waits for that.
        let read: Vec<_> = [trail.clone(), path_of(&trail)]
            .map(|path| std::fs::File::open(path).unwrap())
            .into();
        for file in &read {
            flock(file, FlockOperation::NonBlockingLockExclusive).unwrap();
        }
        assert!(Lock::take(&trail, None).unwrap().is_some());
    }

    #[test]
    fn a_lock_that_cannot_be_opened_is_an_error_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        // To root every file is open, a folder is not.
        std::fs::create_dir(lock_of(&trail)).unwrap();
        let refused = Lock::acquire(&trail).unwrap_err().to_string();
        for part in ["audit.jsonl.lock", "chown --reference=", "remove it"] {
            assert!(refused.contains(part), "{refused}");
        }
        std::fs::remove_dir(lock_of(&trail)).unwrap();
        // Neither another file is written nor a FIFO waited for.
        let other = folder.path().join("other");
        for link in [&lock_of(&trail), &path_of(&trail)] {
            std::os::unix::fs::symlink(&other, link).unwrap();
        }
        assert!(Lock::acquire(&trail).is_err());
        assert!(ChainFile::open(&trail).is_err());
        assert!(!other.exists());
        for link in [lock_of(&trail), path_of(&trail)] {
            std::fs::remove_file(link).unwrap();
        }
        let fifo = rustix::fs::FileType::Fifo;
        let here = rustix::fs::CWD;
        rustix::fs::mknodat(here, lock_of(&trail), fifo, 0o666.into(), 0).unwrap();
        assert!(Lock::acquire(&trail).is_err());
        assert!(Lock::is_held(&trail).is_err());
        std::fs::remove_file(lock_of(&trail)).unwrap();
        assert!(Lock::acquire(&trail).unwrap().is_some());
    }

    #[test]
    fn a_trail_has_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        let take = |held| Lock::take(&trail, held).map(|lock| lock.expect("a lock"));
        let first = take(None).unwrap();
        assert_eq!(read(&trail).unwrap(), ChainEnd::Link(Link::default()));
        let refused = take(None).unwrap_err().to_string();
        assert!(refused.contains("`audit.file`"), "{refused}");
        // A reload takes no second one, whatever became of the trail meanwhile.
        std::fs::write(&trail, "").unwrap();
        std::fs::rename(&trail, folder.path().join("audit.jsonl.1")).unwrap();
        let again = take(Some(Arc::clone(&first))).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        // One that was moved away with its trail is another trail's.
        std::fs::rename(lock_of(&trail), folder.path().join("audit.jsonl.1.lock")).unwrap();
        let new = take(Some(Arc::clone(&first))).unwrap();
        assert!(!Arc::ptr_eq(&first, &new));
        let next = std::thread::spawn({
            let trail = trail.clone();
            move || Lock::acquire(&trail).unwrap()
        });
        drop(new);
        assert!(next.join().unwrap().is_some());
        let null = std::path::Path::new("/dev/null");
        assert!(Lock::take(null, None).unwrap().is_none());
        let nowhere = folder.path().join("none/audit.jsonl");
        assert!(Lock::take(&nowhere, None).unwrap().is_none());
    }
}
