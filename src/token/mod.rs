//! Docker's token protocol (distribution token specification and its OAuth2 variant): scopes asked
//! for, claims, minting and verification.
//!
//! A token proves who is calling and what for; what the caller may do is looked up in the policy at
//! every request again. Pure: time, randomness and key material are arguments.

mod claims;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod keys;
mod scope;
mod settings;

pub use claims::{Claims, Confirmation, Kind};
pub use keys::{KeyError, Keys, TokenError, Verified};
pub use scope::{Asked, parse_scopes};
pub use settings::Settings;
