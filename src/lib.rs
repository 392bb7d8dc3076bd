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
//! | [`token`] | docker's token protocol: scopes, claims, minting, verification |
//! | [`config`] | the configuration file: what is written, what is meant, what is wrong with it |
//!
//! The first group is pure: it sees no clock, file, socket or environment; time is an argument.

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod identity;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod policy;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod registry;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod token;

pub mod audit;
pub mod authn;
pub mod config;
pub mod gate;
pub mod server;
pub mod tls;
pub mod upstream;
pub mod reload;
pub mod telemetry;
