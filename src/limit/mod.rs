//! How much is too much: pulls per time, floods, guesses of passwords, and places that all share.
//!
//! Pure: time is an argument, given as the time since any one moment in the past, never going back;
//! so are secrets.

pub mod connections;
pub mod lockout;
mod majority;
mod quota;
mod repeats;
mod shared;
mod source;
mod source_rate;
mod window;

pub use quota::{Bucket, CAPACITY, Exceeded, Quotas, Reservation, Subject};
pub use shared::{Claimant, Crowded, Place, Shared, Trust, Usage};
pub use source::Source;
pub use source_rate::{Rates, Running, SourceRateLimiter, TooFast, WEIGHT_OF_FAILURE};
pub use window::Quota;
