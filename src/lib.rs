//! Portcullis, an authenticating reverse proxy in front of a container registry.
//!
//! The map of the house. A request enters through [`server`], is judged in [`gate`] and, with a
//! permit in hand, forwarded by [`upstream`].
//!
//! | where | what |
//! |---|---|
//! | [`registry`] | the registry API as types: names, references, calls, error bodies |
//! | [`identity`] | who is calling: peer, credential presented, identity found |
//! | [`policy`] | roles and rules, and the one decision |
//! | [`authn`] | whether a password is right: htpasswd, bounded hashing, verified credentials |
//! | [`config`] | the configuration file: what is written, what is meant, what is wrong with it |
//!
//! The first group is pure: it sees no clock, file, socket or environment; time is an argument.

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod identity;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod policy;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod registry;

pub mod authn;
pub mod config;
