//! The proxy: from a request to its answer and its audit record.
//!
//! The life of a request, top to bottom. `Proxy::respond()` is called by the connection, and
//! `Proxy::serve()` is the story in one function:
//!
//! 1. Admit: `admit()` takes a place among the requests of its source. A source that makes too many is
//!    answered by `turn_away()`, and nothing of its request is looked at.
//! 2. Open the record: once `room_for()` has room in the trail, which is not held, `open_record()`
//!    notes the connection and the head.
//! 3. Preflight: `preflight()` looks at what does not depend on the caller: framing, method,
//!    expectation, host, and pages of other origins in browsers (`admit_page()`). From here on there is a `RequestContext`.
//! 4. Authorize: `authorize()` finds out who is calling and returns a permit or a refusal; a token is
//!    granted by `issue()`.
//! 5. Forward: `read()` answers here, or sends the call by `forward()` with its permit. A write is an
//!    `Effect`, which is not the client's to drop once its body is whole; `lock_tags()` keeps others
//!    from its tags, and `reserve()` its record's place.
//! 6. Settle: `settle()` accounts for a pull by what the registry answered.
//! 7. Respond: `refused()` words a refusal, by `reply()`; what the registry sends streams through an
//!    `AnswerBody`.
//! 8. Close: `end()` closes the record of an answer that is known as a whole, `finish()` that of a body
//!    at its end. A client who leaves before anything is looked at is recorded by a
//!    `CancellationRecord`.

mod admission;
mod body;
mod cancelled;
mod catalog;
mod closing;
mod cors;
mod effect;
mod effects;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod instance;
mod known;
mod listing;
mod opening;
mod preflight;
mod probe;
mod repositories;
mod response;
mod service;
mod tag_locks;

pub(crate) use crate::upstream::Cut;
pub(crate) use body::AnswerBody;
pub(crate) use cancelled::CancellationRecord;
pub(crate) use effects::asked_to_stop;
pub use instance::Proxy;
pub(crate) use response::written;
