//! End to end: real docker, podman, skopeo and containerd against the built binary before the real
//! registry. What is missing is said, and in continuous integration nothing may be missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::large_futures,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking, also in the helpers that are no #[test] themselves"
)]

#[path = "../support/mod.rs"]
mod support;

mod containerd;
mod docker;
mod faults;
mod kubelet;
mod podman;
mod skopeo;
mod tool;
