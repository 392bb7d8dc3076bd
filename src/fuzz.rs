//! What holds for every input, for the fuzzers of tests/fuzz: a target is a function of bytes that
//! panics when something does not hold. The targets of a module stand beside it, in its `fuzz.rs`.
//!
//! `cargo test --lib fuzz` runs every one of them on the inputs that the repository keeps.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A target: it panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in tests/fuzz/corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("answer", crate::upstream::fuzz::answer),
    ("authority", crate::access::fuzz::authority),
    ("catalog", crate::proxy::fuzz::catalog),
    ("call", crate::registry::fuzz::call),
    ("certificate", crate::tls::fuzz::certificate),
    ("claims", crate::token::fuzz::claims),
    ("config", crate::config::fuzz::config),
    ("credentials", crate::identity::fuzz::credentials),
    ("entry", crate::audit::fuzz::entry),
    ("forwarded", crate::transport::fuzz::forwarded),
    ("framing", crate::transport::fuzz::framing),
    ("head", crate::upstream::fuzz::head),
    ("headers", crate::upstream::fuzz::headers),
    ("htpasswd", crate::authn::htpasswd::fuzz::htpasswd),
    ("keys", crate::config::fuzz::keys),
    ("ldap_message", crate::authn::ldap::fuzz::message),
    ("ldap_name", crate::authn::ldap::fuzz::name),
    ("location", crate::upstream::fuzz::location),
    ("manifest", crate::registry::fuzz::manifest),
    ("name", crate::identity::fuzz::name),
    ("pattern", crate::registry::fuzz::pattern),
    ("proxy_protocol", crate::transport::fuzz::proxy_protocol),
    ("query", crate::registry::fuzz::query),
    ("redirect", crate::upstream::fuzz::redirect),
    ("resume", crate::audit::fuzz::resume),
    ("scope", crate::token::fuzz::scope),
    ("session", crate::upstream::fuzz::session),
    ("store", crate::store::fuzz::answer),
    ("syslog", crate::audit::fuzz::syslog),
    ("token", crate::token::fuzz::token),
    ("trace", crate::trace::fuzz::trace),
    ("trail", crate::audit::fuzz::trail),
    ("value", crate::config::fuzz::value),
];

/// The lines of an input, which stand for the parts that a target wants.
pub(crate) fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n')
}

/// A stream that brings bytes in pieces, takes whatever is written, and never makes anybody wait.
pub(crate) struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl<'a> Pieces<'a> {
    /// `size` bytes at a time, at least one.
    pub(crate) fn new(bytes: &'a [u8], size: usize) -> Self {
        Self {
            rest: bytes,
            size: size.max(1),
        }
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let most = self.size.min(buf.remaining()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at_checked(most).unwrap_or_default();
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The outcome of a future that waits for nothing, although it may let others go first.
#[expect(clippy::panic, reason = "it is the target that is wrong")]
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    for _ in 0..100_000 {
        if let Poll::Ready(outcome) = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            return outcome;
        }
    }
    panic!("it waits for something")
}

#[cfg(test)]
mod tests {
    use super::TARGETS;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    /// Those that need more than a function of this library stand in tests/fuzz.
    const ELSEWHERE: [&str; 2] = ["service_h1", "service_h2"];

    fn folders() -> Vec<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        ["corpus", "regressions"].map(|name| root.join(name)).into()
    }

    #[test]
    fn every_target_has_a_corpus_and_every_corpus_a_target() {
        let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), TARGETS.len());
        for folder in folders() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                let is_known = names.contains(name.as_str()) || ELSEWHERE.contains(&name.as_str());
                assert!(is_known, "{name}");
            }
        }
        for name in names.iter().chain(&ELSEWHERE) {
            let folder = folders().remove(0).join(name);
            assert!(std::fs::read_dir(folder).unwrap().count() > 2, "{name}");
        }
    }

    #[test]
    fn everything_holds_for_the_inputs_that_are_kept() {
        for (name, target) in TARGETS {
            for folder in folders() {
                let Ok(entries) = std::fs::read_dir(folder.join(name)) else {
                    continue;
                };
                for entry in entries {
                    let path = entry.unwrap().path();
                    println!("{}", path.display());
                    target(&std::fs::read(path).unwrap());
                }
            }
            for short in [&b""[..], b"\n", b"\0", b"\xff\xfe"] {
                target(short);
            }
        }
    }
}
