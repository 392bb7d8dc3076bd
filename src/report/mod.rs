//! What reads the trail: the report of who used which credential, what was refused, pulled and pushed,
//! for people and for machines; the last records and those that come ([`tail`]); and decisions of the
//! past, decided again ([`replay`]).
//!
//! It prints nothing and takes the time as an argument.

pub mod replay;
pub mod tail;
pub mod terminal;

mod bounded;
mod counts;
mod credential_health;
mod gather;
mod html;
mod json;
mod key_use;
mod plot;
mod summary;
mod text;
mod time;
mod view;

pub use credential_health::{Configured, Terms};
pub use gather::{Found, Gathered, Period};
pub use json::KEYS as JSON_KEYS;
pub use key_use::last_key_uses;
pub use summary::Summary;
pub use text::TextLook;
pub use view::size;

#[cfg(test)]
mod tests;
