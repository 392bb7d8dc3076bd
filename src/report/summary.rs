//! The sums of a trail together with the state of its credentials.

use super::credential_health::{Configured, CredentialHealth, Terms};
use super::gather::Gathered;

/// Everything that a report shows.
#[derive(Debug)]
pub struct Summary {
    pub(super) gathered: Gathered,
    pub(super) health: CredentialHealth,
    pub(super) terms: Terms,
    pub(super) top: usize,
}

impl Summary {
    /// Sums up what was read; tables have `top` rows. A configuration adds its users, keys,
    /// certificates and password hashes, whose files are read here.
    pub fn new(
        gathered: Gathered,
        configured: Option<Configured<'_>>,
        terms: Terms,
        top: usize,
    ) -> Self {
        Self {
            health: CredentialHealth::of(configured, &gathered.last_use, gathered.first, terms),
            gathered,
            terms,
            top,
        }
    }

    pub(super) fn unused_days(&self) -> i64 {
        self.terms.unused.as_hours().div_euclid(24)
    }
}
