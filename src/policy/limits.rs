//! What the configuration says about limits.

use std::time::Duration;

use super::PullLimit;
use crate::limit::{Quota, Rates};

/// How much is too much, `[limits]` and `[[limit]]`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Pulls per IPv4 address or IPv6 /64 without a user.
    pub anonymous_pulls: Quota,
    /// Pulls per user.
    pub authenticated_pulls: Quota,
    /// `[[limit]]`: the first that fits a pull is asked instead.
    pub pulls: Vec<PullLimit>,
    /// How long another pull of the same image costs nothing.
    pub repeat_free: Duration,
    /// Distinct wrong passwords per user and network.
    pub failed_logins: Quota,
    /// Requests and connections of one source.
    pub rates: Rates,
}
