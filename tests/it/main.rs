//! Integration tests: the built binary before the real registry, one module per promise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::print_stderr,
    reason = "a test fails by panicking, also in the helpers that are no #[test] themselves"
)]

#[path = "../support/mod.rs"]
mod support;

mod architecture;
