//! What reads the trail: the report of who used which credential, what was refused, pulled and pushed,
//! for people and for machines; the last records and those that come ([`tail`]); and decisions of the
//! past, decided again ([`replay`]).
//!
//! It prints nothing and takes the time as an argument.

pub mod replay;
pub mod tail;
pub mod terminal;

mod bounded;
mod credential_health;
mod gather;
mod html;
mod json;
mod key_use;
mod plot;
mod text;
mod time;
mod view;

use serde_json::Value;

use self::credential_health::CredentialHealth;

pub use credential_health::{Configured, Terms};
pub use gather::{Gathered, Period};
pub use json::KEYS as JSON_KEYS;
pub use key_use::last_key_uses;
pub use text::TextLook;
pub use view::size;

/// Everything that a report shows.
#[derive(Debug)]
pub struct Summary {
    gathered: Gathered,
    health: CredentialHealth,
    terms: Terms,
    top: usize,
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

    /// The report for a terminal.
    pub fn text(&self, look: TextLook) -> String {
        text::text(self, look)
    }

    /// The report for machines; [`JSON_KEYS`] lists its keys.
    pub fn json(&self) -> Value {
        json::json(self)
    }

    /// The report as one self-contained page.
    pub fn html(&self) -> String {
        html::html(self)
    }

    fn unused_days(&self) -> i64 {
        self.terms.unused.as_hours().div_euclid(24)
    }
}

#[cfg(test)]
mod tests;
