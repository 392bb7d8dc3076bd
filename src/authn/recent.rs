//! Which users logged in with a password from which source a short time ago: their logins are served
//! first while others guess. It is no proof of anything else.
//!
//! No name is kept, only a hash under a key that this process drew at its start; two that collide
//! would be served in another order, and nothing else. Only logins that
//! succeeded are noted, so guessing pushes nobody out.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use moka::sync::Cache;

use crate::limit::{Source, Trust};

/// Pairs of a user and a source; what is used least goes first.
const MOST: u64 = 32_768;
/// How long a login counts: over a weekend and a holiday.
const LATELY: Duration = Duration::from_hours(7 * 24);

/// The logins of the last days.
pub(super) struct RecentLogins {
    hasher: RandomState,
    seen: Cache<u64, ()>,
}

impl RecentLogins {
    /// Has seen nobody yet.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            seen: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(LATELY)
                .build(),
        }
    }

    /// Notes a login, by the name that was given.
    pub(super) fn note(&self, user: &str, from: Source) {
        self.seen.insert(self.key(user, from), ());
    }

    /// Whether somebody of this name logged in from there.
    pub(super) fn trust(&self, user: &str, from: Source) -> Trust {
        if self.seen.contains_key(&self.key(user, from)) {
            Trust::Proven
        } else {
            Trust::Stranger
        }
    }

    fn key(&self, user: &str, from: Source) -> u64 {
        self.hasher.hash_one((from.bits(), user))
    }
}

#[cfg(test)]
mod tests {
    use super::RecentLogins;
    use crate::limit::{Source, Trust};

    #[test]
    fn a_login_counts_for_its_user_and_source_alone() {
        let logins = RecentLogins::new();
        let source = |text: &str| Source::of(text.parse().unwrap());
        logins.note("alice", source("192.0.2.1"));
        logins.note("bob", source("2001:db8::1"));
        for (user, from, trust) in [
            ("alice", "192.0.2.1", Trust::Proven),
            ("alice", "::ffff:192.0.2.1", Trust::Proven),
            ("alice", "192.0.2.2", Trust::Stranger),
            ("alice", "2001:db8::1", Trust::Stranger),
            ("Alice", "192.0.2.1", Trust::Stranger),
            ("bob", "2001:db8::2", Trust::Proven),
            ("bob", "2001:db8:0:1::1", Trust::Stranger),
            ("", "192.0.2.1", Trust::Stranger),
        ] {
            assert_eq!(logins.trust(user, source(from)), trust, "{user} {from}");
        }
    }
}
