//! The server: listeners, connections, requests, drain. The HTTP engine (hyper) is spoken to here
//! and in `upstream`, nowhere else.
//!
//! The way of a request: `accept` gives its connection a place, `connection` shakes hands, `h1` with
//! `strict` and `framing` (or hyper's HTTP/2) hands its head on, `respond` opens its record, `door`
//! looks at what concerns everybody, `exchange` has it judged by `gate` and what it reads sent by
//! `upstream`; what it writes is an `effect`, which is not the client's to drop once its body is whole.
//! `body` carries the answer back and closes the record of a read at its end.
//!
//! hyper was chosen after three prototypes were measured beside nginx on the same two cores. CPU of
//! the proxy: a manifest 36 µs (nginx 39, pingora's proxy framework 62), a GiB of blobs 0.28 s
//! (nginx 0.46), a new TLS connection with its first request 115 µs (nginx 288). The framework keeps
//! one TLS configuration for life, so that resumed sessions outlive a revoked CA, calls its rustls
//! support highly experimental, and turns "nothing is forwarded without a permit" from a move the
//! compiler checks into a run-time check in a callback.

mod accept;
mod answer;
mod body;
mod catalog;
mod connection;
mod door;
mod effect;
mod exchange;
mod flood;
mod forwarded;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod h1;
mod known;
mod listing;
mod proxy_protocol;
mod readers;
mod respond;
mod room;
mod stream;
mod strict;
mod unheard;

pub use accept::{BindError, Listeners, bind, serve};
pub use respond::Proxy;
pub use room::{Room, Seat};
