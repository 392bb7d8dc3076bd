//! Problems of a trail, and their places.

use std::io;
use std::path::{Path, PathBuf};

use crate::audit::files::Unreadable;
use crate::audit::journal::sign::CHECKPOINT_EVERY;

/// The first place where a trail is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {problem}", file.display())]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u64,
    /// The problem.
    pub problem: Problem,
}

/// The problem of a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The hash does not fit.
    #[error("record {seq} was changed: its hash is not that of the line{}",
        if *keyed { ", with none of the keys given" } else { " (or it is hashed with a key: give --key-file)" })]
    Changed {
        /// Its number.
        seq: u64,
        /// True if keys were given.
        keyed: bool,
    },
    /// Records are missing.
    #[error("record {found} stands where record {expected} should: {} missing or moved",
        records(found.saturating_sub(*expected)))]
    Gap {
        /// The one that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// A record for the second time, or out of order.
    #[error("record {found} stands where record {expected} should: it is here twice or moved")]
    Repeated {
        /// The one that should stand here.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// The record before is another one than when this was written.
    #[error("record {seq} was not written after the record before it: that one was replaced")]
    Replaced {
        /// Its number.
        seq: u64,
    },
    /// The line is no record at all.
    #[error(
        "this line is not a record: a record begins with {{\"seq\": and ends with prev and hash"
    )]
    NotARecord,
    /// The last line has no end.
    #[error(
        "the last line is torn after {bytes} bytes: it has no newline (the next start of the proxy \
         sets it aside)"
    )]
    Torn {
        /// The bytes that are there.
        bytes: usize,
    },
    /// The trail ends before its end.
    #[error("the end is cut off: {} says that the last record is {expected}, and the last one here \
        is {}", chain_file.display(), found.map_or("none".to_owned(), |seq| seq.to_string()))]
    CutOff {
        /// The chain file that names a later record.
        chain_file: PathBuf,
        /// The number it names.
        expected: u64,
        /// The number of the last record.
        found: Option<u64>,
    },
    /// The trail begins after its beginning.
    #[error("the beginning is missing: the first record here is {found}, and the trail begins at record \
        {expected}{}; --from {found} or --from oldest accepts that",
        said.as_ref().map_or(String::new(), |said| format!(", as {said} says")))]
    NoBeginning {
        /// The first record that the trail is supposed to have.
        expected: u64,
        /// The first one here.
        found: u64,
        /// The record or file that names the first one.
        said: Option<String>,
    },
    /// The chain file names this record with another hash.
    #[error(
        "record {seq} is not the one that the .chain file beside the trail names: it was replaced"
    )]
    NotTheEnd {
        /// Its number.
        seq: u64,
    },
    /// The chain file does not name a record.
    #[error("{} beside it was changed: it does not name the end of a chain", .0.display())]
    DamagedChainFile(PathBuf),
    /// A checkpoint that is not signed with any of the keys.
    #[error("checkpoint {seq} is not signed by any of the public keys given (it names key {key})")]
    Signature {
        /// Its number.
        seq: u64,
        /// The key it names.
        key: String,
    },
    /// Too many records without a checkpoint.
    #[error(
        "no checkpoint follows record {after} within {CHECKPOINT_EVERY} records: what is here was \
         written anew, or without the signing key"
    )]
    Unsigned {
        /// The last checkpoint.
        after: u64,
    },
    /// No checkpoint at all.
    #[error(
        "no checkpoint in all of the records: they were written anew, or without a signing key"
    )]
    NeverSigned,
    /// No record is hashed with a key that was given.
    #[error("no record is hashed with a key given: they were written anew, or without a key")]
    NeverKeyed,
    /// After records that are hashed with a key.
    #[error(
        "record {seq} is hashed without a key, and those before it with one: it was written without \
         the key"
    )]
    KeyGone {
        /// Its number.
        seq: u64,
    },
}

impl Problem {
    /// Returns true if records are missing that another file may hold.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            Self::CutOff { .. } | Self::Gap { .. } | Self::NoBeginning { .. } => true,
            Self::Changed { .. }
            | Self::DamagedChainFile(_)
            | Self::KeyGone { .. }
            | Self::NeverKeyed
            | Self::NeverSigned
            | Self::NotARecord
            | Self::NotTheEnd { .. }
            | Self::Repeated { .. }
            | Self::Replaced { .. }
            | Self::Signature { .. }
            | Self::Torn { .. }
            | Self::Unsigned { .. } => false,
        }
    }
}

fn records(count: u64) -> String {
    if count == 1 {
        "1 record is".to_owned()
    } else {
        format!("{count} records are")
    }
}

/// A trail that cannot be verified, or that is not as it was written.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The trail is not as it was written.
    #[error(transparent)]
    Broken(#[from] Box<Finding>),
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] Unreadable),
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> VerifyError {
    VerifyError::Read(Unreadable {
        path: path.to_owned(),
        source,
    })
}

pub(super) fn found(file: &Path, line: u64, problem: Problem) -> VerifyError {
    VerifyError::Broken(Box::new(Finding {
        file: file.to_owned(),
        line,
        problem,
    }))
}
