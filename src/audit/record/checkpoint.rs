//! The member of a record that signs everything before it.

use serde::Deserialize;

use super::members::{Members, key};

/// The member `checkpoint` of a record.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(in crate::audit) struct Checkpoint {
    /// `EdDSA` or `ES256`.
    pub(in crate::audit) algorithm: String,
    /// The name of the public key.
    pub(in crate::audit) key: String,
    /// Of number and hash of the record before it, base64 without padding.
    pub(in crate::audit) signature: String,
}

impl Checkpoint {
    /// As it stands in a record.
    pub(in crate::audit) fn write(&self) -> String {
        let mut to = Members::new();
        to.text(key!("algorithm"), Some(&self.algorithm));
        to.text(key!("key"), Some(&self.key));
        to.text(key!("signature"), Some(&self.signature));
        format!("{{{}}}", to.into_text())
    }
}
