//! The proxy: from a request to its answer and its audit record.
//!
//! `service` is the page to read first: every step of a request, in order. `preflight` looks at what
//! concerns everybody, `forward` sends what is read by
//! `upstream`; what is written is an `effect`, which is not the client's to drop once its body is whole. `body` carries
//! the answer back and closes the record of a read at its end.

mod body;
mod cancelled;
mod catalog;
mod effect;
mod flood;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod known;
mod listing;
mod preflight;
mod response;
mod service;
mod tag_locks;

pub(crate) use crate::upstream::Cut;
pub(crate) use body::AnswerBody;
pub(crate) use cancelled::Unheard;
pub(crate) use effect::asked_to_stop;
pub(crate) use response::written;
pub use service::Proxy;
