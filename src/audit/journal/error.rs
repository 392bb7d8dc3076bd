//! Errors of the trail.

use std::io;
use std::path::PathBuf;

/// The audit trail cannot take a record.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot open the audit file {}: {source}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The lock that is there cannot be taken.
    #[error(
        "cannot open {}, the lock of the audit trail: {source}; another user (root?) made it: give it to the \
         owner of the trail (chown --reference={} {}), or remove it while no proxy runs: it holds nothing",
        lock.display(), trail.display(), lock.display()
    )]
    LockDenied {
        /// The trail.
        trail: PathBuf,
        /// Its lock.
        lock: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process writes the trail.
    #[error(
        "the audit trail {} is written by another process; give each proxy an `audit.file` of its \
         own, or end the other one",
        .0.display()
    )]
    Locked(PathBuf),
    /// The trail cannot be written at the moment.
    #[error("the audit trail cannot be written")]
    Unwritable,
}
