//! The cut of a rotated trail: its oldest files go, and a `prune` record says so.
//!
//! The record is on the disk before the first file is removed, and the oldest go first. So a crash in between
//! leaves more than the record says, never less: the trail stays whole.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::geteuid;

use super::files::{TrailFile, Unreadable, siblings, unpacked};
use super::journal::chain::Line;
use super::journal::chain_file::{self, ChainEnd};
use super::journal::error::AuditError;
use super::journal::lock::Lock;
use super::journal::prune_request::{PruneRequest, path_of};
use super::verify::time_of;
use super::writer::{Audit, Plan};

/// Bytes of the first line of a file, at most.
const LONGEST: u64 = 1 << 20;
/// Time that the writer of the trail has to record the cut, and the interval of looking.
const RECORD_WAIT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Times that files are listed anew because rotation gives them other names.
const ROUNDS: u32 = 10;

/// The part of a rotated trail that is kept. The file that is written is always kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// The newest rotated files, so many.
    Files(usize),
    /// The files with records from this time on.
    Since(Timestamp),
}

/// A cut of a trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The files before it, oldest first.
    pub files: Vec<PathBuf>,
    /// The oldest record.
    pub oldest: u64,
    /// The first record that remains.
    pub first: u64,
}

/// A trail that cannot be cut. Nothing was removed, unless it is [`PruneError::Remove`].
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The trail cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The lock cannot be looked at.
    #[error("cannot see whether a proxy writes {}: {source}", trail.display())]
    Lock {
        /// The trail.
        trail: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file with a name like those of rotation.
    #[error("{} is no part of the trail: its first line is not a record", .0.display())]
    NotARecord(PathBuf),
    /// The trail would get files that its proxy cannot open.
    #[error("no proxy runs, and {} belongs to another user: run this as that user (sudo -u '#{uid}' ...)",
        trail.display())]
    NotTheOwner {
        /// The trail.
        trail: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The writer did not record the cut.
    #[error("the proxy that writes {} did not record the cut; its log may say why", .0.display())]
    NotRecorded(PathBuf),
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] Unreadable),
    /// A file cannot be removed.
    #[error("cannot remove {}: {source}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The request cannot be left beside the trail.
    #[error("cannot write {}: {source}", path.display())]
    Request {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// A file of the trail that has a record.
#[derive(Debug)]
struct Listed {
    path: PathBuf,
    /// Device and inode.
    place: (u64, u64),
    first: u64,
    time: Option<Timestamp>,
}

impl Cut {
    /// The cut that leaves what is to be kept, maybe everything; `None` of a trail without a record.
    pub fn of(trail: &Path, keep: Keep) -> Result<Option<Self>, PruneError> {
        let listed = listed(trail)?;
        let rotated = listed.iter().filter(|file| file.path != trail).count();
        // What remains begins with a record.
        let most = rotated.min(listed.len().saturating_sub(1));
        let old = match keep {
            Keep::Files(count) => rotated.saturating_sub(count).min(most),
            Keep::Since(since) => {
                let next = listed.iter().skip(1).take(most);
                next.take_while(|file| file.time.is_some_and(|time| time <= since))
                    .count()
            }
        };
        let (old, kept) = listed.split_at_checked(old).unwrap_or_default();
        let ends = listed.first().zip(kept.first());
        Ok(ends.map(|(oldest, first)| Self {
            files: old.iter().map(|file| file.path.clone()).collect(),
            oldest: oldest.first,
            first: first.first,
        }))
    }

    /// Has the cut recorded by the writer of the trail: the proxy that runs, or without one this process.
    /// `note` becomes part of the record. Returns when the record is on the disk.
    pub fn record(&self, mut plan: Plan, note: &str) -> Result<(), PruneError> {
        let trail = plan.config.file.clone();
        let is_held = Lock::is_held(&trail).map_err(|source| PruneError::Lock {
            trail: trail.clone(),
            source,
        })?;
        let uid = geteuid().as_raw();
        // Moved away by rotation, the trail itself may be gone.
        let places = [chain_file::path_of(&trail), trail.clone()].map(std::fs::metadata);
        let owner = places
            .into_iter()
            .find_map(Result::ok)
            .map_or(uid, |meta| meta.uid());
        if !is_held && owner != uid {
            let uid = owner;
            return Err(PruneError::NotTheOwner { trail, uid });
        }
        let request = PruneRequest {
            first: self.first,
            reason: format!(
                "the trail begins at record {} from now on; files with records from {} on are removed, {} \
                 of them{note}",
                self.first,
                self.oldest,
                self.files.len()
            ),
        };
        request
            .leave(&trail)
            .map_err(|source| PruneError::Request {
                path: path_of(&trail),
                source,
            })?;
        plan.config.stdout = None;
        let recorded = if is_held {
            self.wait(&trail)
        } else {
            match Audit::open(plan) {
                Ok(audit) => {
                    let recorded = self.wait(&trail);
                    drop::<Arc<Audit>>(audit);
                    recorded
                }
                // A proxy has started meanwhile.
                Err(AuditError::Locked(_)) => self.wait(&trail),
                Err(error) => Err(error.into()),
            }
        };
        if recorded.is_err() {
            // The first error is the one to report.
            PruneRequest::remove(&trail).unwrap_or_default();
        }
        recorded
    }

    /// Waits until the writer has taken the request and the chain file names the first record.
    fn wait(&self, trail: &Path) -> Result<(), PruneError> {
        let begun = Instant::now();
        let is_waiting = || path_of(trail).exists() && begun.elapsed() < RECORD_WAIT;
        while is_waiting() {
            std::thread::sleep(POLL_INTERVAL);
        }
        match chain_file::read(trail) {
            Ok(ChainEnd::Link(link)) if !path_of(trail).exists() && link.first == self.first => {
                Ok(())
            }
            Ok(ChainEnd::Link(_) | ChainEnd::Damaged | ChainEnd::Missing) | Err(_) => {
                Err(PruneError::NotRecorded(trail.to_owned()))
            }
        }
    }
}

/// Removes the files of a trail whose records a recorded cut has left behind, oldest first. Returns their
/// names.
pub fn remove(trail: &Path, first: u64) -> Result<Vec<PathBuf>, PruneError> {
    let mut removed = Vec::new();
    for _ in 0..ROUNDS {
        let mut old = listed(trail)?;
        old.retain(|file| file.path != trail && file.first < first);
        if old.is_empty() {
            break;
        }
        for file in old.into_iter().filter(Listed::is_in_place) {
            match std::fs::remove_file(&file.path) {
                Ok(()) => removed.push(file.path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let path = file.path;
                    return Err(PruneError::Remove { path, source });
                }
            }
        }
    }
    Ok(removed)
}

impl Listed {
    /// `None` for a file without a whole line.
    fn open(path: &Path) -> Result<Option<Self>, PruneError> {
        let file = TrailFile::open(path)?;
        let failed = |source| Unreadable {
            path: path.to_owned(),
            source,
        };
        let first = file.first_line(LONGEST).map_err(failed)?;
        let Some(line) = first.strip_suffix(b"\n") else {
            return Ok(None);
        };
        let parsed = Line::parse(line).ok_or_else(|| PruneError::NotARecord(path.to_owned()))?;
        Ok(Some(Self {
            place: file.place().unwrap_or_default(),
            first: parsed.seq,
            time: time_of(line).and_then(|time| time.parse().ok()),
            path: path.to_owned(),
        }))
    }

    /// Returns true if the file still has this name: rotation may have given it to another one.
    fn is_in_place(&self) -> bool {
        std::fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == self.place)
    }
}

/// The files of a trail in the order of their records. A file that is just being compressed counts once.
fn listed(trail: &Path) -> Result<Vec<Listed>, PruneError> {
    let all = siblings(trail);
    let mut listed = Vec::new();
    for path in &all {
        if unpacked(path).is_some_and(|plain| all.contains(&plain)) {
            continue;
        }
        match Listed::open(path) {
            Ok(file) => listed.extend(file),
            // Another name by now, or none.
            Err(PruneError::Read(error)) if error.source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    listed.sort_by_key(|file| file.first);
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Cut, Keep, PruneError, remove};
    use crate::audit::journal::chain::{ChainKey, Link};
    use crate::audit::journal::prune_request::{PruneRequest, path_of};
    use crate::audit::verify::{Begins, Proofs, verify};
    use crate::audit::{Audit, Plan, Settings, siblings};

    /// A trail of four files with two records each, one a day, and the one that is written.
    fn rotated() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let trail = folder.path().join("audit.jsonl");
        let mut link = Link::default();
        let names = ["-20261101", "-20261103.gz", "-2026-11-05", ".1", ""];
        for (day, name) in [1, 3, 5, 7, 9].into_iter().zip(names) {
            let mut text = String::new();
            for hour in [3, 5] {
                let fields = format!(
                    "\"time\":\"2026-11-{day:02}T{hour:02}:00:00.000000Z\",\"event\":\"request\""
                );
                link.append(&ChainKey::NONE, &fields, &mut text);
            }
            let bytes = if name.ends_with("gz") {
                ruzstd::encoding::compress_to_vec(
                    text.as_bytes(),
                    ruzstd::encoding::CompressionLevel::Fastest,
                )
            } else {
                text.into_bytes()
            };
            std::fs::write(folder.path().join(format!("audit.jsonl{name}")), bytes).unwrap();
        }
        (folder, trail)
    }

    fn begins(trail: &Path) -> Option<Begins> {
        let verified = verify(&siblings(trail), &Proofs::default(), &|_bytes| {});
        verified.ok().map(|verified| verified.begins)
    }

    #[test]
    fn what_is_kept_is_never_less_than_asked_for() {
        let (_folder, trail) = rotated();
        let cut = |keep| {
            Cut::of(&trail, keep)
                .unwrap()
                .map(|cut| (cut.files.len(), cut.first))
        };
        let since = |time: &str| Keep::Since(time.parse().unwrap());
        for (keep, expected) in [
            (Keep::Files(9), Some((0, 1))),
            (Keep::Files(4), Some((0, 1))),
            (Keep::Files(3), Some((1, 3))),
            (Keep::Files(0), Some((4, 9))),
            (since("2026-11-03T02:59:59Z"), Some((0, 1))),
            (since("2026-11-03T03:00:00Z"), Some((1, 3))),
            (since("2026-11-04T00:00:00Z"), Some((1, 3))),
            (since("2027-01-01T00:00:00Z"), Some((4, 9))),
        ] {
            assert_eq!(cut(keep), expected, "{keep:?}");
        }
        // Without a record in the one that is written, the newest before it stays.
        std::fs::write(&trail, "").unwrap();
        assert_eq!(cut(Keep::Files(0)), Some((3, 7)));
        std::fs::write(trail.with_file_name("audit.jsonl.7"), "a page\n").unwrap();
        let refused = Cut::of(&trail, Keep::Files(0)).unwrap_err();
        assert!(matches!(refused, PruneError::NotARecord(_)), "{refused}");
    }

    #[test]
    fn a_cut_is_on_record_before_a_file_goes_and_a_crash_leaves_the_trail_whole() {
        let (_folder, trail) = rotated();
        let plan = || Plan::new(Settings::of_file(&trail));
        assert_eq!(begins(&trail), Some(Begins::Whole));
        let cut = Cut::of(&trail, Keep::Files(2)).unwrap().unwrap();
        assert_eq!((cut.oldest, cut.first), (1, 5));
        cut.record(plan(), "").unwrap();
        assert!(!path_of(&trail).exists());
        assert_eq!(begins(&trail), Some(Begins::Whole));
        // Any number of them may be gone when the machine goes down.
        std::fs::remove_file(&cut.files[0]).unwrap();
        assert_eq!(begins(&trail), Some(Begins::Pruned { by: 11 }));
        assert_eq!(remove(&trail, cut.first).unwrap(), cut.files[1..]);
        assert_eq!(begins(&trail), Some(Begins::Pruned { by: 11 }));
        assert_eq!(remove(&trail, cut.first).unwrap(), Vec::<PathBuf>::new());
        std::fs::remove_file(trail.with_file_name("audit.jsonl-2026-11-05")).unwrap();
        assert_eq!(begins(&trail), None);
    }

    #[test]
    fn the_one_who_writes_the_trail_records_the_cut() {
        let (_folder, trail) = rotated();
        let plan = || Plan::new(Settings::of_file(&trail));
        let audit = Audit::open(plan()).unwrap();
        let cut = Cut::of(&trail, Keep::Files(3)).unwrap().unwrap();
        cut.record(plan(), "; by hand").unwrap();
        let text = std::fs::read_to_string(&trail).unwrap();
        let record: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(
            (&record["event"], &record["first"]),
            (&"prune".into(), &3.into())
        );
        assert!(
            record["reason"]
                .as_str()
                .unwrap()
                .ends_with("1 of them; by hand")
        );
        assert_eq!(audit.first_record(), 3);
        // A wish for what is not there yet is not recorded.
        let wish = Cut { first: 99, ..cut };
        assert!(matches!(
            wish.record(plan(), ""),
            Err(PruneError::NotRecorded(_))
        ));
        // Nor is what is no wish.
        std::fs::write(path_of(&trail), "{").unwrap();
        let begun = std::time::Instant::now();
        while path_of(&trail).exists() && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        assert_eq!(PruneRequest::find(&trail).unwrap(), None);
        assert_eq!(std::fs::read_to_string(&trail).unwrap(), text);
    }
}
