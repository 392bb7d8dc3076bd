//! Access: from a request's head to a permit or a refusal.
//!
//! `authorize` is the page to read first: every step between the head and the permit, in order.
//! `token_endpoint` is the token service. Whatever says no ends in `refusal`, where each reason has
//! its one answer.

mod authorize;
mod challenge;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod login_throttle;
mod message;
mod pull_counters;
mod pull_quota;
mod quota_status;
mod refusal;
mod token_endpoint;

pub use authorize::{Admission, authorize};
pub use challenge::Wanted;
pub use login_throttle::watch_locks;
pub use pull_quota::Pull;
pub use quota_status::{PullsExceeded, QuotaStatus};
pub use refusal::{METHODS, Refusal, Reply};
pub use token_endpoint::{MAX_FORM, Minted, issue};
