//! How much is too much: pulls per time, floods, guesses of passwords. Pure: time is an argument, given
//! as the time since any one moment in the past, never going back; so are secrets.

pub mod lockout;
mod quota;
mod repeats;
mod shield;
mod source;
mod window;

pub use quota::{Bucket, CAPACITY, Exceeded, Quota, Quotas, Reservation, Subject};
pub use shield::{Rates, Running, Shield, TooFast, WEIGHT_OF_FAILURE};
pub use source::Source;
