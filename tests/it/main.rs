//! Integration tests: the built binary before the real registry, one module per promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    clippy::large_futures,
    clippy::match_bool,
    clippy::format_collect,
    reason = "a test fails by panicking, also in the helpers that are no #[test] themselves, and \
              may be plain and slow"
)]

#[path = "../support/mod.rs"]
mod support;

mod address;
mod admin;
mod architecture;
mod audit;
mod browser;
mod catalog;
mod certs;
mod challenge;
mod circles;
mod cli;
mod connections;
mod delete;
mod demo;
mod differential;
mod drain;
mod effects;
mod faults;
mod http2;
mod keys;
mod ldap;
mod led_away;
mod limits;
mod lockout;
mod login;
mod memory;
mod metrics;
mod mtls;
mod owner;
mod pages;
mod probes;
mod pull;
mod push;
mod reload;
mod report;
mod roles;
mod shares;
mod slow_client;
mod smuggling;
mod soak;
mod store;
mod store_scripts;
mod supervisor;
mod suppressed;
mod tls;
mod token;
mod trace;
mod trail;
mod unreadable;
mod upgrade;
mod upstream_faults;
mod upstream_kinds;
