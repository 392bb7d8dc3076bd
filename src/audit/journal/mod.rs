//! From a record's members to lines in every sink: numbered, chained, signed, and written by one
//! process alone.

pub(super) mod batch;
pub(super) mod beside;
pub(super) mod chain;
pub(super) mod chain_file;
pub(super) mod error;
pub(super) mod file;
pub(super) mod lock;
pub(super) mod prune_request;
pub(super) mod resume;
pub(super) mod sign;
pub(super) mod sink;
pub(super) mod syslog;
pub(super) mod trail;
