//! The one thread that writes the audit file.
//!
//! Records reach it over a channel whose length is bounded by [`Slot`]s: a request takes its slot
//! before anything else happens, so a slow disk slows requests and loses nothing. Records that wait
//! together are written together (group commit) and acknowledged after the write. When a write
//! fails they are kept, requests are refused as `when_unwritable` says, and the thread tries again
//! until it succeeds.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::chain::Link;
use super::record::{Event, Fields, Outcome};
use super::tally::Tally;
use crate::config::WhenUnwritable;

/// Records under way at a time: requests in flight and lines not yet written.
const SLOTS: usize = 32 * 1024;
/// Lines written in one go.
const BATCH: usize = 1024;
/// How often a failing file is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Lines kept, in bytes, while the file cannot be written; what is more is counted.
const KEPT: usize = 16 << 20;
/// The last record of a file is looked for in this many bytes.
const TAIL: u64 = 64 * 1024;

/// The audit trail cannot take a record.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot open the audit file {}: {source}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written at the moment.
    #[error("the audit file cannot be written")]
    Unwritable,
}

/// The right to write one record, taken before a request is looked at.
#[derive(Debug)]
pub struct Slot(#[expect(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

/// What a request is about to do, as far as `when_unwritable` is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It reads.
    Read,
    /// It pushes or deletes.
    Write,
}

type Ack = oneshot::Sender<Result<(), AuditError>>;

enum Job {
    Record {
        fields: String,
        slot: Slot,
        ack: Option<Ack>,
    },
    Reopen {
        file: File,
        ack: oneshot::Sender<()>,
    },
}

/// The audit trail. One for the life of the process; its file can be changed.
#[derive(Debug)]
pub struct Audit {
    jobs: Sender<Job>,
    slots: Arc<Semaphore>,
    failing: Arc<AtomicBool>,
    mode: AtomicU8,
    references: AtomicU32,
    tally: Tally,
}

impl Audit {
    /// Opens the file, goes on where its chain ended, and starts the writer.
    pub fn open(path: &Path, mode: WhenUnwritable) -> Result<Arc<Self>, AuditError> {
        let failed = |source| AuditError::Open {
            path: path.to_owned(),
            source,
        };
        let mut file = open_for_append(path)?;
        let link = resume(&mut file).map_err(failed)?;
        let (jobs, queue) = mpsc::channel();
        let failing = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            file,
            link,
            kept: String::new(),
            failing: Arc::clone(&failing),
            lost: 0,
        };
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(&queue))
            .map_err(failed)?;
        let mut seed = [0; 4];
        // Only the starting point of a counter: without randomness it is merely guessable.
        let _ok = aws_lc_rs::rand::fill(&mut seed);
        Ok(Arc::new(Self {
            jobs,
            slots: Arc::new(Semaphore::new(SLOTS)),
            failing,
            mode: AtomicU8::new(mode_number(mode)),
            references: AtomicU32::new(u32::from_ne_bytes(seed)),
            tally: Tally::default(),
        }))
    }

    /// Goes on in a file opened anew (`SIGHUP`, after rotation), and with another mode. Returns when
    /// everything written before is in the old file.
    pub async fn reopen(&self, file: File, mode: WhenUnwritable) {
        self.mode.store(mode_number(mode), Ordering::Relaxed);
        let (ack, done) = oneshot::channel();
        if self.jobs.send(Job::Reopen { file, ack }).is_ok() {
            // The writer only ends with the process.
            let _ok = done.await;
        }
    }

    /// The right to write a record, if there is one at once.
    pub fn spare_slot(&self) -> Option<Slot> {
        Arc::clone(&self.slots).try_acquire_owned().ok().map(Slot)
    }

    /// Waits for the right to write a record.
    pub async fn slot(&self) -> Slot {
        match Arc::clone(&self.slots).acquire_owned().await {
            Ok(permit) => Slot(permit),
            // The semaphore is never closed.
            Err(_closed) => std::future::pending().await,
        }
    }

    /// Whether a request may go ahead at all, given whether its record could be written.
    pub fn ready_for(&self, effect: Effect) -> Result<(), AuditError> {
        if !self.failing.load(Ordering::Relaxed) {
            return Ok(());
        }
        match (self.mode.load(Ordering::Relaxed), effect) {
            (SERVE, _) | (REFUSE_WRITES, Effect::Read) => Ok(()),
            _ => Err(AuditError::Unwritable),
        }
    }

    /// What all records since the start add up to.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Whether the file is being written.
    pub fn writable(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// Six letters and digits, unique among a thousand million.
    pub(super) fn next_reference(&self) -> String {
        const LETTERS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
        let count = self.references.fetch_add(1, Ordering::Relaxed);
        // An odd factor permutes the 30 bits, so that neighbours do not look alike.
        let mixed = count.wrapping_mul(0x9E37_79B1);
        let digit = |shift: u32| {
            let index = usize::try_from(mixed >> shift & 31).unwrap_or_default();
            LETTERS.get(index).copied().map_or('0', char::from)
        };
        [0, 5, 10, 15, 20, 25].into_iter().map(digit).collect()
    }

    pub(super) fn write(&self, fields: &Fields, slot: Slot, ack: Option<Ack>) {
        let job = Job::Record {
            fields: fields.write(),
            slot,
            ack,
        };
        // The writer only ends with the process.
        let _ok = self.jobs.send(job);
    }
}

/// Opens an audit file for appending, readable by its owner and group.
pub fn open_for_append(path: &Path) -> Result<File, AuditError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .or_else(|_not_readable| OpenOptions::new().append(true).open(path))
        .map_err(|source| AuditError::Open {
            path: path.to_owned(),
            source,
        })
}

const REFUSE: u8 = 0;
const REFUSE_WRITES: u8 = 1;
const SERVE: u8 = 2;

fn mode_number(mode: WhenUnwritable) -> u8 {
    match mode {
        WhenUnwritable::Refuse => REFUSE,
        WhenUnwritable::RefuseWrites => REFUSE_WRITES,
        WhenUnwritable::Serve => SERVE,
    }
}

/// Finds where the chain of an existing file ends. A last line that was torn by a crash is ended,
/// so that the next record stands on a line of its own.
fn resume(file: &mut File) -> io::Result<Link> {
    if !file.metadata()?.is_file() {
        return Ok(Link::default());
    }
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let text = String::from_utf8_lossy(&tail);
    if !text.is_empty() && !text.ends_with('\n') {
        file.write_all(b"\n")?;
    }
    Ok(text.lines().rev().find_map(Link::after).unwrap_or_default())
}

struct Writer {
    file: File,
    link: Link,
    /// Finished lines that could not be written yet.
    kept: String,
    failing: Arc<AtomicBool>,
    /// Records that did not even fit into `kept`.
    lost: u64,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Job>) {
        loop {
            let first = if self.kept.is_empty() {
                queue.recv().ok()
            } else {
                match queue.recv_timeout(RETRY) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => {
                        self.commit(Vec::new());
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => None,
                }
            };
            let Some(first) = first else { return };
            self.batch(first, queue);
        }
    }

    /// Takes what is waiting, and writes it in one go.
    fn batch(&mut self, first: Job, queue: &Receiver<Job>) {
        let mut acks = Vec::new();
        let mut slots = Vec::new();
        for job in std::iter::once(first).chain(queue.try_iter().take(BATCH)) {
            match job {
                Job::Record { fields, slot, ack } => {
                    self.keep(&fields);
                    acks.extend(ack);
                    slots.push(slot);
                }
                Job::Reopen { file, ack } => {
                    self.commit(std::mem::take(&mut acks));
                    self.file = file;
                    // Whoever asked may have gone; the file is changed all the same.
                    let _gone = ack.send(());
                }
            }
        }
        self.commit(acks);
    }

    fn keep(&mut self, fields: &str) {
        if self.kept.len() < KEPT {
            self.link
                .append(&super::ChainKey::NONE, fields, &mut self.kept);
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn commit(&mut self, acks: Vec<Ack>) {
        let written = self.write_out();
        let was_failing = self.failing.swap(written.is_err(), Ordering::Relaxed);
        match (&written, was_failing) {
            (Err(error), false) => tracing::error!(%error, "the audit file cannot be written"),
            (Ok(()), true) => self.recovered(),
            (Err(_), true) | (Ok(()), false) => {}
        }
        for ack in acks {
            let result = match &written {
                Ok(()) => Ok(()),
                Err(_logged) => Err(AuditError::Unwritable),
            };
            // The request may have gone; its record is written all the same.
            let _gone = ack.send(result);
        }
    }

    /// Writes all that is kept. A line that was written in part is taken back.
    fn write_out(&mut self) -> io::Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let before = self.file.metadata()?;
        let written = self.file.write_all(self.kept.as_bytes());
        if written.is_ok() {
            self.kept.clear();
        } else if before.is_file() {
            self.file.set_len(before.len())?;
        }
        written
    }

    fn recovered(&mut self) {
        let lost = std::mem::take(&mut self.lost);
        tracing::warn!(lost, "the audit file can be written again");
        let reason =
            format!("the audit file could not be written for a while; {lost} records lost");
        let outcome = if lost == 0 {
            Outcome::Allowed
        } else {
            Outcome::Error
        };
        self.keep(&Fields::of_our_own(Event::Audit, outcome, &reason).write());
        if let Err(error) = self.write_out() {
            tracing::error!(%error, "the audit file cannot be written");
            self.failing.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Audit, AuditError, Effect};
    use crate::audit::{Event, Outcome, Record};
    use crate::config::WhenUnwritable;
    use std::path::{Path, PathBuf};

    fn folder(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("portcullis-audit-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    async fn write(audit: &std::sync::Arc<Audit>) -> Result<(), AuditError> {
        let mut record = Record::open(audit, audit.slot().await, Event::Request);
        record.answer(Outcome::Allowed, 200);
        record.close_and_wait().await
    }

    fn sequence(file: &Path) -> Vec<u64> {
        let text = std::fs::read_to_string(file).unwrap();
        let records = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        records
            .map(|record: serde_json::Value| record["seq"].as_u64().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn the_chain_goes_on_after_a_restart_and_a_torn_line() {
        let folder = folder("chain");
        let file = folder.join("audit.jsonl");
        let audit = Audit::open(&file, WhenUnwritable::Refuse).unwrap();
        write(&audit).await.unwrap();
        write(&audit).await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{text}{{\"seq\":3,\"torn")).unwrap();
        let audit = Audit::open(&file, WhenUnwritable::Refuse).unwrap();
        write(&audit).await.unwrap();
        assert_eq!(sequence(&file), [1, 2, 3]);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_reopened_file_goes_on_with_the_chain() {
        let folder = folder("reopen");
        let (old, new) = (folder.join("old"), folder.join("new"));
        let audit = Audit::open(&old, WhenUnwritable::Refuse).unwrap();
        write(&audit).await.unwrap();
        audit
            .reopen(super::open_for_append(&new).unwrap(), WhenUnwritable::Serve)
            .await;
        write(&audit).await.unwrap();
        assert_eq!((sequence(&old), sequence(&new)), (vec![1], vec![2]));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_refuses_as_told_and_is_noticed_when_over() {
        let folder = folder("full");
        let audit = Audit::open(Path::new("/dev/full"), WhenUnwritable::RefuseWrites).unwrap();
        assert!(audit.ready_for(Effect::Write).is_ok());
        assert!(matches!(write(&audit).await, Err(AuditError::Unwritable)));
        assert!(audit.ready_for(Effect::Read).is_ok());
        assert!(audit.ready_for(Effect::Write).is_err());
        let file = folder.join("audit.jsonl");
        audit
            .reopen(
                super::open_for_append(&file).unwrap(),
                WhenUnwritable::Refuse,
            )
            .await;
        write(&audit).await.unwrap();
        assert!(audit.ready_for(Effect::Write).is_ok());
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(sequence(&file), [1, 2, 3]);
        assert!(text.contains("could not be written for a while; 0 records lost"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
