//! How much is too much. Pure: time and secrets are arguments, nothing is looked up.

pub mod lockout;
