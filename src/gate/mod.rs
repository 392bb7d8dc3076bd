//! The gate: from a request's head to a permit or a refusal.
//!
//! `judge` is the page to read first: every step between the socket and the registry, in order.
//! `issue` is the token service. Whatever says no ends in `refusal`, where each reason has its one
//! answer.

mod authority;
mod bad_head;
mod creating;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod issue;
mod judge;
mod login;
mod message;
mod pulls;
mod refusal;
mod shared;
mod state;

pub use authority::Authority;
pub use bad_head::BadHead;
pub use creating::{Claim, Creating};
pub use issue::{MAX_FORM, Minted, issue};
pub use judge::{Admission, judge};
pub use login::Guard;
pub use pulls::{Pull, PullLimits, PullsExceeded, Standing};
pub use refusal::{METHODS, Refusal, Wanted};
pub use state::{Ledger, Reload, Reloads, Rules, Shown};
