//! Portcullis, an authenticating reverse proxy in front of a container registry.
//!
//! The map of the house. A request enters through [`transport`], is answered by [`proxy`], which has
//! it judged by [`access`] and, with a permit in hand, forwarded by [`upstream`]; every use of a
//! credential ends in [`audit`].
//!
//! | where | what |
//! |---|---|
//! | [`hash`] | SHA-256 and hexadecimal digits |
//! | [`registry`] | the registry API as types: names, references, calls, error bodies |
//! | [`identity`] | who is calling: peer, credential presented, identity found |
//! | [`trace`] | which distributed trace a request belongs to |
//! | [`policy`] | roles and rules, and the one decision |
//! | [`limit`] | how much is too much: pulls per time, floods, guesses of passwords |
//! | [`token`] | docker's token protocol: scopes, claims, minting, verification |
//! | [`authn`] | whether a password is right: htpasswd, bounded hashing, verified credentials |
//! | [`store`] | what replicas count together, in a Redis or Valkey |
//! | [`tls`] | key material, and the listener's configuration made of it |
//! | [`upstream`] | connections to the registry, and forwarding what has a permit |
//! | [`audit`] | the trail: one record for each credential use and decision |
//! | [`state`] | the rules in force, and what survives a reload |
//! | [`request`] | what a request is before anything of it is judged |
//! | [`transport`] | from bytes to a request: listeners, connections, drain |
//! | [`proxy`] | from a request to its answer and its record |
//! | [`access`] | from a request's head to a permit or a refusal; the token service |
//! | [`document`] | TOML that people write: everything wrong with it at once, in its place |
//! | [`config`] | the configuration file, from which the settings of the rooms are filled |
//! | [`reload`] | from a configuration to rules in force, at start and on SIGHUP |
//! | [`report`] | what reads the trail: the report, its last records, decisions of the past |
//! | [`supervisor`] | the service manager: sockets it hands over, what it is told |
//! | [`admin`] | health, metrics and status, on an address of its own |
//! | [`whole_file`] | files read up to a limit, or not at all |
//! | [`page`] | HTML that needs nothing besides itself |
//! | [`telemetry`] | the log |
//! | `spans` | spans for an OpenTelemetry collector (feature `otlp`) |
//! | `fuzz` | what holds for every input, for the fuzzers of tests/fuzz (feature `fuzzing`) |
//!
//! The first seven are pure: they see no clock, file, socket or environment; time is an argument.

#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod hash;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod identity;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod limit;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod policy;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod registry;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod token;
#[deny(clippy::disallowed_methods, clippy::disallowed_types)]
pub mod trace;

pub mod access;
pub mod admin;
pub mod audit;
pub mod authn;
pub mod config;
pub mod document;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod page;
pub mod proxy;
pub mod reload;
pub mod report;
pub mod request;
#[cfg(feature = "otlp")]
pub mod spans;
pub mod state;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod transport;
pub mod upstream;
pub mod whole_file;
