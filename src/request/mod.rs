//! What transport, proxy and access all read of a request: its head, the host that it is for, what it
//! asks for, and what it is judged by. No behaviour.

mod authority;
mod bad_head;
mod context;
mod head;

pub use authority::Authority;
pub use bad_head::BadHead;
pub use context::{RequestContext, Route};
pub(crate) use head::{Asked, MAX_HEAD, MAX_HEADERS, is_token};
