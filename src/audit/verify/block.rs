//! One block of whole lines, verified without the lines before. Pure, so that blocks can be verified in
//! parallel.

use super::problem::Problem;
use crate::audit::journal::chain::{ChainKey, Line, Link};
use crate::audit::journal::sign::PublicKey;
use crate::audit::record::checkpoint::Checkpoint;

/// The means to verify a block.
pub(super) struct Means<'a> {
    /// The keys that lines may be hashed with. Never empty.
    pub(super) keys: &'a [ChainKey],
    /// The keys that checkpoints may be signed with. Empty: signatures are not verified.
    pub(super) public: &'a [PublicKey],
    /// Records with a known hash, by their number: the ends that chain files name.
    pub(super) known: &'a [(u64, String)],
}

/// The end of a line: its number and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) seq: u64,
    pub(super) hash: Vec<u8>,
}

impl End {
    /// What comes before the first record of a trail.
    pub(super) fn genesis() -> Self {
        let Link { next, hash, .. } = Link::default();
        Self {
            seq: next.saturating_sub(1),
            hash: hash.into_bytes(),
        }
    }
}

/// A record that names the first one of the trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mention {
    /// Its number.
    pub(super) by: u64,
    /// The first one that it names.
    pub(super) first: u64,
    /// True if the trail was pruned up to there; false if it is only mentioned.
    pub(super) is_cut: bool,
}

/// A verified block.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// Lines, up to the one that is wrong.
    pub(super) lines: u64,
    /// The number of the first record, and the hash it names as the one before.
    pub(super) first: Option<End>,
    /// The last one's own.
    pub(super) last: Option<End>,
    pub(super) first_time: Option<String>,
    pub(super) last_time: Option<String>,
    /// The problem of the line after `lines`.
    pub(super) problem: Option<Problem>,
    /// The numbers of signed checkpoints.
    pub(super) checkpoints: Vec<u64>,
    /// What records say about the first of the trail.
    pub(super) firsts: Vec<Mention>,
    /// Lines of the block at which another key begins, each with the key's index.
    pub(super) keyed: Vec<(u64, usize)>,
}

impl Block {
    /// Looks at whole lines.
    pub(super) fn scan(bytes: &[u8], means: &Means<'_>) -> Self {
        let mut block = Self::default();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let mut last_line = None;
        for line in Lines(Some(bytes)) {
            match block.take(line, means) {
                Ok(()) => block.lines = block.lines.saturating_add(1),
                Err(problem) => {
                    block.problem = Some(problem);
                    break;
                }
            }
            last_line = Some(line);
        }
        block.last_time = last_line.and_then(time_of);
        block
    }

    fn take(&mut self, bytes: &[u8], means: &Means<'_>) -> Result<(), Problem> {
        let line = Line::parse(bytes).ok_or(Problem::NotARecord)?;
        self.hashed(&line, means)?;
        if let Some(last) = &self.last {
            follows(last, line.seq, line.prev)?;
        } else {
            self.first = Some(End {
                seq: line.seq,
                hash: line.prev.to_vec(),
            });
            self.first_time = time_of(bytes);
        }
        match event_of(bytes) {
            Some(b"checkpoint") if !means.public.is_empty() => {
                signed(bytes, &line, means.public)?;
                self.checkpoints.push(line.seq);
            }
            Some(event @ (b"prune" | b"start")) => {
                self.firsts
                    .extend(first_of(bytes, line.seq, event == b"prune"));
            }
            Some(_) | None => {}
        }
        if let Some((_, hash)) = means.known.iter().find(|(seq, _)| *seq == line.seq)
            && hash.as_bytes() != line.hash
        {
            return Err(Problem::NotTheEnd { seq: line.seq });
        }
        let end = self.last.get_or_insert_with(|| End {
            seq: 0,
            hash: Vec::with_capacity(line.hash.len()),
        });
        end.seq = line.seq;
        end.hash.clear();
        end.hash.extend_from_slice(line.hash);
        Ok(())
    }

    /// Verifies the line's hash, with the key of the line before or with another.
    fn hashed(&mut self, line: &Line<'_>, means: &Means<'_>) -> Result<(), Problem> {
        let current = self.keyed.last().map(|(_, key)| *key);
        let by = |at: usize| means.keys.get(at).is_some_and(|key| line.is_whole(key));
        if current.is_some_and(by) {
            return Ok(());
        }
        let found = (0..means.keys.len()).find(|at| Some(*at) != current && by(*at));
        let key = found.ok_or_else(|| Problem::Changed {
            seq: line.seq,
            keyed: means.keys.iter().any(|key| key.name().is_some()),
        })?;
        self.keyed.push((self.lines, key));
        Ok(())
    }
}

/// Verifies that a record comes right after another.
pub(super) fn follows(before: &End, seq: u64, prev: &[u8]) -> Result<(), Problem> {
    let expected = before.seq.saturating_add(1);
    if seq > expected {
        return Err(Problem::Gap {
            expected,
            found: seq,
        });
    }
    if seq < expected {
        return Err(Problem::Repeated {
            expected,
            found: seq,
        });
    }
    if prev != before.hash {
        return Err(Problem::Replaced { seq });
    }
    Ok(())
}

fn signed(bytes: &[u8], line: &Line<'_>, public: &[PublicKey]) -> Result<(), Problem> {
    #[derive(serde::Deserialize)]
    struct Signed {
        checkpoint: Checkpoint,
    }
    let wrong = |key: &str| Problem::Signature {
        seq: line.seq,
        key: key.to_owned(),
    };
    let signed: Signed = serde_json::from_slice(bytes).map_err(|_cause| wrong("unknown"))?;
    let (checkpoint, before) = (signed.checkpoint, line.seq.saturating_sub(1));
    let prev = std::str::from_utf8(line.prev).unwrap_or_default();
    let accepted = public
        .iter()
        .any(|key| key.accepts(&checkpoint, before, prev));
    if accepted {
        Ok(())
    } else {
        Err(wrong(&checkpoint.key))
    }
}

/// The first record that this one names. A record can name none that came after it.
fn first_of(bytes: &[u8], by: u64, is_cut: bool) -> Option<Mention> {
    #[derive(serde::Deserialize)]
    struct Named {
        first: u64,
    }
    let Named { first } = serde_json::from_slice(bytes).ok()?;
    (first <= by).then_some(Mention { by, first, is_cut })
}

/// The event, where it stands in every record: after number, time and reference.
fn event_of(line: &[u8]) -> Option<&[u8]> {
    const EVENT: &[u8] = b"\"event\":\"";
    let start = line.get(..line.len().min(160))?;
    let at = memchr::memmem::find(start, EVENT)?;
    let rest = start.get(at.checked_add(EVENT.len())?..)?;
    rest.split(|byte| *byte == b'"').next()
}

/// The time, where it stands in every record: after the number.
pub(in crate::audit) fn time_of(line: &[u8]) -> Option<String> {
    const TIME: &[u8] = b"\"time\":\"";
    let start = line.get(..line.len().min(80))?;
    let at = start.windows(TIME.len()).position(|part| part == TIME)?;
    let rest = start.get(at.checked_add(TIME.len())?..)?;
    let time = rest.split(|byte| *byte == b'"').next()?;
    Some(String::from_utf8_lossy(time).into_owned())
}

/// Splits at newlines; what `split` does, with a faster search.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let Some(end) = memchr::memchr(b'\n', rest) else {
            self.0 = None;
            return Some(rest);
        };
        let (line, rest) = rest.split_at_checked(end)?;
        self.0 = rest.split_first().map(|(_newline, rest)| rest);
        Some(line)
    }
}
