//! A user as a back end describes one.

use std::sync::Arc;

use super::fingerprint::Fingerprint;
use crate::identity::{Group, Name, Recency};

/// A user of a back end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// As the back end spells it.
    pub(super) name: Name,
    /// In order; none for users of a file.
    pub(super) groups: Arc<[Group]>,
    /// Changes when the entry becomes another's or, where the back end tells, its password changes.
    pub(super) fingerprint: Fingerprint,
}

/// A user, and when a back end said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) person: Arc<Person>,
    pub(super) recency: Recency,
}
