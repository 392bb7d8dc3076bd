//! Verification that a trail is as it was written: the chain over all of its files, its end, its keys and
//! its signatures. Reads only.
//!
//! SECURITY.md, "The audit trail", has the limits of this proof.

mod block;
mod problem;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::files::{self, TrailFile, Unreadable};
use super::journal::chain::{ChainKey, FIRST, Link};
use super::journal::chain_file::{self, ChainEnd};
use super::journal::sign::{CHECKPOINT_EVERY, PublicKey};
pub(super) use block::time_of;
use block::{Block, End, Means, Mention, follows};
pub use problem::{Finding, Problem, VerifyError};
use problem::{found, unreadable};
use read::{Reader, Tail};

/// Time between the naming of the files and the reading: what rotation moved after that is looked for.
const NAMED_BEFORE: SignedDuration = SignedDuration::from_millis(300);

/// Returns true if these whole lines are the chain from one end to another, each a number and a hash.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn holds(bytes: &[u8], from: (u64, &str), to: (u64, &str)) -> bool {
    let end = |(seq, hash): (u64, &str)| End {
        seq,
        hash: hash.as_bytes().to_vec(),
    };
    let means = Means {
        keys: &[ChainKey::NONE],
        public: &[],
        known: &[],
    };
    let block = Block::scan(bytes, &means);
    bytes.ends_with(b"\n")
        && block.problem.is_none()
        && block.first == Some(end(from))
        && block.last == Some(end(to))
}

/// A beginning of a trail that is accepted although older records are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedStart {
    /// The oldest record that there is.
    Oldest,
    /// This record.
    Record(u64),
}

/// The reason why a trail may begin where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Begins {
    /// Nothing is missing.
    Whole,
    /// A `prune` record says that older records were removed.
    Pruned {
        /// The number of that record.
        by: u64,
    },
    /// It was accepted by [`Proofs::from`].
    Accepted,
}

/// The keys to verify a trail with, and the beginning to accept.
#[derive(Debug, Default)]
pub struct Proofs {
    /// The keys of the chain. With any of them, records hashed without one are accepted before the
    /// first that is hashed with one, and not after.
    pub keys: Vec<ChainKey>,
    /// The public keys of checkpoints. Empty: signatures are not verified.
    pub public: Vec<PublicKey>,
    /// A beginning that is accepted although no record tells of a cut there.
    pub from: Option<AcceptedStart>,
}

/// One end of a trail that holds.
#[derive(Clone, Debug, Serialize)]
pub struct Place {
    /// The record's number.
    pub seq: u64,
    /// Its time.
    pub time: Option<String>,
    /// Its hash; of the first record, that of the record before it.
    pub hash: String,
}

/// A verified trail.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// The files, in their order.
    pub files: Vec<PathBuf>,
    /// The number of records.
    pub records: u64,
    /// The first record.
    pub first: Option<Place>,
    /// The reason why it may be the first.
    pub begins: Begins,
    /// The first record that the trail is supposed to have.
    pub expected_first: u64,
    /// The last record.
    pub last: Option<Place>,
    /// The last record that a chain file names: up to it nothing is cut off.
    pub end_proven: Option<u64>,
    /// The names of the keys that records are hashed with, in their order; `null` is no key.
    pub keys: Vec<Option<String>>,
    /// The last signed checkpoint, if signatures were verified.
    pub signed: Option<u64>,
    /// The number of signed checkpoints.
    pub checkpoints: u64,
}

/// Verifies the files of one trail, in any order, compressed or not. `progress` is called with the bytes
/// read. Files that the trail was rotated to after these were named are verified with them.
pub fn verify(
    files: &[PathBuf],
    proofs: &Proofs,
    progress: &dyn Fn(u64),
) -> Result<Verified, VerifyError> {
    let begun = Timestamp::now();
    let mut files = files.to_vec();
    loop {
        let verified = verify_once(&files, proofs, progress);
        let Err(VerifyError::Broken(finding)) = &verified else {
            return verified;
        };
        let moved = if finding.problem.is_missing() {
            rotated_since(&files, begun)
        } else {
            Vec::new()
        };
        if moved.is_empty() {
            return verified;
        }
        files.extend(moved);
    }
}

/// Files of the same trail that were not named, because they have their names only since a rotation.
fn rotated_since(named: &[PathBuf], begun: Timestamp) -> Vec<PathBuf> {
    let before = begun.saturating_sub(NAMED_BEFORE).unwrap_or(begun);
    let is_new = |path: &PathBuf| {
        let first = TrailFile::open(path).ok()?.first_line(1 << 16).ok()?;
        let time = time_of(&first).and_then(|time| time.parse::<Timestamp>().ok());
        Some(first.is_empty() || time.is_some_and(|time| time >= before))
    };
    // The file that is written now tells of the last rotation.
    let since = if named.iter().any(|path| is_new(path) == Some(true)) {
        before
    } else {
        begun
    };
    let moved = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        let nanos = i32::try_from(meta.ctime_nsec()).unwrap_or_default();
        Some(Timestamp::new(meta.ctime(), nanos).ok()? >= since)
    };
    let mut found: Vec<_> = named
        .iter()
        .flat_map(|path| files::siblings(path))
        .collect();
    found.retain(|path| !named.contains(path) && moved(path) == Some(true));
    found.sort();
    found.dedup();
    found
}

fn verify_once(
    files: &[PathBuf],
    proofs: &Proofs,
    progress: &dyn Fn(u64),
) -> Result<Verified, VerifyError> {
    // Chain files are read before their trails, which a running proxy continues to write.
    let mut ends = Vec::new();
    // That of a file which is gone tells that it is gone.
    let written = files.iter().filter_map(|file| files::written(file));
    let written: BTreeSet<_> = written.filter(|file| !file.exists()).collect();
    let unnamed = written.iter().filter(|file| !files.contains(file));
    for file in files.iter().chain(unnamed) {
        let beside = chain_file::path_of(file);
        match chain_file::read(file).map_err(|source| unreadable(&beside, source))? {
            ChainEnd::Missing => {}
            ChainEnd::Damaged => return Err(found(file, 1, Problem::DamagedChainFile(beside))),
            ChainEnd::Link(link) => ends.push((beside, link)),
        }
    }
    let known: Vec<_> = ends
        .iter()
        .map(|(_, link)| (link.last(), link.hash.clone()))
        .collect();
    let mut keys = proofs.keys.clone();
    keys.push(ChainKey::NONE);
    let means = Means {
        keys: &keys,
        public: &proofs.public,
        known: &known,
    };
    let (opened, unreadable) = TrailFile::open_all(files);
    // A file that was there when it was named may have been pruned meanwhile.
    let is_gone = |file: &Unreadable| {
        file.source.kind() == ErrorKind::NotFound && !files::siblings(&file.path).is_empty()
    };
    let (gone, unreadable): (Vec<_>, Vec<_>) = unreadable.into_iter().partition(is_gone);
    if let Some(first) = unreadable.into_iter().next() {
        return Err(first.into());
    }
    let opened = read::in_order(opened)?;
    let paths = opened.iter().map(|file| file.path().to_owned()).collect();
    let mut trail = Trail::new(&means, paths);
    for file in &opened {
        trail.file(file, progress)?;
    }
    trail.beginning(proofs.from, &ends)?;
    if let Some(first) = gone.into_iter().next()
        && !matches!(trail.verified.begins, Begins::Pruned { .. })
    {
        return Err(first.into());
    }
    trail.end(&ends)
}

/// The trail so far.
struct Trail<'a> {
    means: &'a Means<'a>,
    verified: Verified,
    last: Option<End>,
    key: Option<usize>,
    firsts: Vec<Mention>,
    /// Where the last record stands.
    place: (PathBuf, u64),
}

impl<'a> Trail<'a> {
    fn new(means: &'a Means<'a>, files: Vec<PathBuf>) -> Self {
        Self {
            means,
            last: None,
            key: None,
            firsts: Vec::new(),
            place: (files.last().cloned().unwrap_or_default(), 0),
            verified: Verified {
                files,
                records: 0,
                first: None,
                begins: Begins::Whole,
                expected_first: FIRST,
                last: None,
                end_proven: None,
                keys: Vec::new(),
                signed: None,
                checkpoints: 0,
            },
        }
    }

    fn file(&mut self, file: &TrailFile, progress: &dyn Fn(u64)) -> Result<(), VerifyError> {
        let path = file.path();
        let failed = |source| unreadable(path, source);
        let mut reader = Reader::of(file).map_err(failed)?;
        let mut lines: u64 = 0;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        loop {
            let texts = reader.blocks(threads).map_err(failed)?;
            if texts.is_empty() {
                break;
            }
            let means = self.means;
            let blocks: Vec<Block> = std::thread::scope(|scope| {
                let scan = |text| scope.spawn(move || Block::scan(text, means));
                let running: Vec<_> = texts.iter().map(|text| scan(text.as_slice())).collect();
                let ended = running.into_iter().map(std::thread::ScopedJoinHandle::join);
                ended.map(Result::unwrap_or_default).collect()
            });
            for block in blocks {
                lines = self.block(path, lines, block)?;
            }
            progress(texts.iter().map(|text| text.len() as u64).sum());
        }
        match reader.tail() {
            Tail::Whole => Ok(()),
            Tail::Torn(bytes) => {
                let line = lines.saturating_add(1);
                Err(found(path, line, Problem::Torn { bytes }))
            }
        }
    }

    /// Joins a block to what came before it.
    fn block(&mut self, path: &Path, before: u64, block: Block) -> Result<u64, VerifyError> {
        let first_line = before.saturating_add(1);
        let lines = before.saturating_add(block.lines);
        if let Some(first) = &block.first {
            if let Some(last) = &self.last {
                follows(last, first.seq, &first.hash)
                    .map_err(|problem| found(path, first_line, problem))?;
            } else {
                if first.seq <= FIRST {
                    follows(&End::genesis(), first.seq, &first.hash)
                        .map_err(|problem| found(path, first_line, problem))?;
                }
                self.verified.first = Some(place(first, block.first_time));
            }
            self.firsts.extend(block.firsts);
            self.keys(path, before, first.seq, &block.keyed)?;
            let last = block.last.as_ref().map(|last| last.seq);
            self.checkpoints(path, first_line, first.seq, &block.checkpoints, last)?;
        }
        if let Some(problem) = block.problem {
            return Err(found(path, lines.saturating_add(1), problem));
        }
        if let Some(last) = block.last {
            self.verified.last = Some(place(&last, block.last_time));
            self.verified.records = self.verified.records.saturating_add(block.lines);
            self.last = Some(last);
            self.place = (path.to_owned(), lines);
        }
        Ok(lines)
    }

    /// Once records are hashed with a key, none is without.
    fn keys(
        &mut self,
        path: &Path,
        before: u64,
        first: u64,
        keyed: &[(u64, usize)],
    ) -> Result<(), VerifyError> {
        for (at, key) in keyed {
            if self.key == Some(*key) {
                continue;
            }
            let name = self.means.keys.get(*key).and_then(ChainKey::name);
            if name.is_none() && self.key.is_some() {
                let seq = first.saturating_add(*at);
                let line = before.saturating_add(*at).saturating_add(1);
                return Err(found(path, line, Problem::KeyGone { seq }));
            }
            self.verified.keys.push(name);
            self.key = Some(*key);
        }
        Ok(())
    }

    fn checkpoints(
        &mut self,
        path: &Path,
        first_line: u64,
        first: u64,
        checkpoints: &[u64],
        last: Option<u64>,
    ) -> Result<(), VerifyError> {
        for seq in checkpoints.iter().copied().chain(last) {
            if let Some(after) = self.verified.signed
                && seq.saturating_sub(after) > CHECKPOINT_EVERY
            {
                let wrong = after.saturating_add(CHECKPOINT_EVERY).saturating_add(1);
                let line = first_line.saturating_add(wrong.saturating_sub(first));
                return Err(found(path, line, Problem::Unsigned { after }));
            }
            if checkpoints.binary_search(&seq).is_ok() {
                self.verified.signed = Some(seq);
            }
        }
        let count = u64::try_from(checkpoints.len()).unwrap_or(u64::MAX);
        self.verified.checkpoints = self.verified.checkpoints.saturating_add(count);
        Ok(())
    }

    /// Verifies that the trail begins at its first record, or at the one that it was pruned up to. What a
    /// chain file says about that proves nothing: whoever removes records can write it.
    fn beginning(
        &mut self,
        accepted: Option<AcceptedStart>,
        ends: &[(PathBuf, Link)],
    ) -> Result<(), VerifyError> {
        let Some(seq) = self.verified.first.as_ref().map(|first| first.seq) else {
            return Ok(());
        };
        let cuts = self.firsts.iter().filter(|first| first.is_cut);
        let cut = cuts.max_by_key(|cut| cut.first);
        let expected = cut.map_or(FIRST, |cut| cut.first);
        self.verified.expected_first = expected;
        self.verified.begins = match (cut, accepted) {
            _ if seq <= FIRST => Begins::Whole,
            (Some(cut), _) if seq <= expected => Begins::Pruned { by: cut.by },
            (_, Some(AcceptedStart::Oldest)) => Begins::Accepted,
            (_, Some(AcceptedStart::Record(from))) if seq == from => Begins::Accepted,
            _ => {
                let record = self.firsts.iter().rfind(|first| first.first == expected);
                let record = record.map(|first| format!("record {}", first.by));
                let beside = ends.iter().find(|(_, link)| link.first == expected);
                let said = record.or_else(|| Some(beside?.0.display().to_string()));
                let problem = Problem::NoBeginning {
                    expected,
                    found: seq,
                    said,
                };
                let oldest = self
                    .verified
                    .files
                    .first()
                    .map_or(Path::new(""), |path| path);
                return Err(found(oldest, 1, problem));
            }
        };
        Ok(())
    }

    /// Verifies what only the whole trail shows.
    fn end(mut self, ends: &[(PathBuf, Link)]) -> Result<Verified, VerifyError> {
        let last = self.last.as_ref().map(|last| last.seq);
        let (file, line) = &self.place;
        for (chain_file, link) in ends {
            if link.last() > last.unwrap_or(0) {
                let problem = Problem::CutOff {
                    chain_file: chain_file.clone(),
                    expected: link.last(),
                    found: last,
                };
                return Err(found(file, (*line).max(1), problem));
            }
            self.verified.end_proven = self.verified.end_proven.max(Some(link.last()));
        }
        if !self.means.public.is_empty() && self.verified.signed.is_none() {
            return Err(found(file, (*line).max(1), Problem::NeverSigned));
        }
        let is_keyed = self.verified.keys.iter().any(Option::is_some);
        if self.means.keys.len() > 1 && !is_keyed {
            return Err(found(file, (*line).max(1), Problem::NeverKeyed));
        }
        Ok(self.verified)
    }
}

fn place(end: &End, time: Option<String>) -> Place {
    Place {
        seq: end.seq,
        time,
        hash: String::from_utf8_lossy(&end.hash).into_owned(),
    }
}
