//! The audit trail: one record for each credential use and each decision.
//!
//! A [`Record`] is opened when a request's head has been read and closed exactly once: with the
//! answer, or by `Drop` as `aborted` when the client went away. Where the answer must not be seen
//! before its record is on its way to disk (pushes, deletes, logins, tokens), the closer waits for
//! the writer's acknowledgement.

mod chain;
mod entry;
mod event;
mod fields;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod head;
mod lock;
mod members;
mod record;
mod resume;
mod served;
mod sign;
mod sink;
mod suppress;
mod syslog;
mod tally;
mod trail;
pub mod verify;
mod writer;

pub use chain::{ChainKey, ShortKey};
pub use entry::{Certificate, Entry, Flaw, Lines};
pub use event::{Event, Outcome};
pub use record::Record;
pub use served::{ActionTimes, BUCKETS, Request, Served};
pub use sign::{PublicKey, Signer, SigningError};
pub use tally::{Refused, Tally, Watch};
pub use trail::SinkState;
pub use writer::{Audit, AuditError, Known, NotNow, Plan, Prepared, Purpose, Reservation};
