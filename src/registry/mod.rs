//! The registry API as types (OCI distribution 1.1, with Docker's catalog).
//!
//! Parsing happens once, here, and is strict: whatever is accepted the registry behind us reads in
//! the same way, and whatever goes upstream is written from these types. Pure: no clock, no socket.

mod action;
mod call;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod manifest;
mod name;
mod pattern;
mod problem;
pub mod query;
mod reference;

pub use action::Action;
pub use call::{
    BlobVerb, Call, CallError, MAX_PAGE, ManifestVerb, Mount, Page, Read, UploadId, UploadVerb,
};
pub use manifest::References;
pub use name::RepoName;
pub use pattern::{Pattern, PatternError};
pub use problem::{Code, Problem};
pub use query::QueryError;
pub use reference::{Digest, Reference, Tag};
