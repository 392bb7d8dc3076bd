//! One program for all targets, so that it is linked once: `$FUZZ_TARGET` says which of them the
//! bytes are for. `tests/fuzz/run` builds and starts it.

#![no_main]

mod registry;
mod service;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use portcullis::fuzz::{TARGETS, Target};

/// Targets that need more than a function of the library.
const SERVICE: [(&str, Target); 2] = [("service_h1", service::h1), ("service_h2", service::h2)];

static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let all = || TARGETS.iter().chain(&SERVICE);
    let found = all().find(|(known, _)| *known == name);
    let names = || all().map(|(name, _)| *name).collect::<Vec<_>>();
    found
        .unwrap_or_else(|| panic!("FUZZ_TARGET is one of {}", names().join(", ")))
        .1
});

fuzz_target!(|bytes: &[u8]| CHOSEN(bytes));
