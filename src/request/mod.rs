//! What a request is before anything of it is judged: the host that it is for, and what is wrong with
//! a head that is none.

mod authority;
mod bad_head;
mod head;

pub use authority::Authority;
pub use bad_head::BadHead;
pub(crate) use head::{Asked, MAX_HEAD, MAX_HEADERS, is_token};
