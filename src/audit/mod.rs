//! The audit trail: one record for each credential use and each decision.
//!
//! A [`Record`] is opened when a request's head has been read and closed exactly once: with the
//! answer, or by `Drop` as `aborted` when the client went away. Where the answer must not be seen
//! before its record is on its way to disk (pushes, deletes, logins, tokens), the closer waits for
//! the writer's acknowledgement.

mod budget;
mod entry;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod journal;
mod open_record;
pub mod prune;
mod record;
mod reference;
mod settings;
mod suppress;
pub mod verify;
mod writer;

pub use entry::{Certificate, Entry, Flaw, Lines};
pub use files::{TrailFile, Unreadable, is_beside, siblings};
pub use journal::chain::{ChainKey, ShortKey};
pub use journal::error::AuditError;
pub use journal::sign::{PublicKey, Signer, SigningError};
pub use journal::trail::SinkState;
pub use open_record::Record;
pub use record::event::{Event, Outcome};
pub use record::served::{ActionTimes, BUCKETS, Request, Served};
pub use record::tally::{Refused, Tally, Watch};
pub use settings::{
    AuditSync, Rotate, Settings, StdoutSettings, SyslogAddress, SyslogSettings, WhenUnwritable,
};
pub use writer::{Audit, Known, NotNow, Plan, Prepared, Purpose, Reservation};
