//! The transport: from bytes to a request. Listeners, connections, drain. The HTTP engine (hyper) is
//! spoken to here and in `upstream`, nowhere else. It knows no rules but rates.
//!
//! `accept` gives a connection its place, `connection` shakes hands, `http1` with `strict` and
//! `framing` (or hyper's HTTP/2) hands the head of a request to `proxy`.
//!
//! hyper was chosen after three prototypes were measured beside nginx on the same two cores. CPU of
//! the proxy: a manifest 36 µs (nginx 39, pingora's proxy framework 62), a GiB of blobs 0.28 s
//! (nginx 0.46), a new TLS connection with its first request 115 µs (nginx 288). The framework keeps
//! one TLS configuration for life, so that resumed sessions outlive a revoked CA, calls its rustls
//! support highly experimental, and turns "nothing is forwarded without a permit" from a move the
//! compiler checks into a run-time check in a callback.

mod accept;
mod body;
mod caps;
mod connection;
mod context;
mod forwarded;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod http1;
mod http2_refusals;
mod proxy_protocol;
mod room;
mod settings;
mod stall_watch;
mod stop;
mod stream;
mod strict;

pub use accept::{BindError, Listeners, bind, serve};
pub use room::{Room, Seat};
pub use settings::{ProxyProtocol, Settings};
