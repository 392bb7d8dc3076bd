//! The state of a user's entry, in a few bytes.

use std::fmt;

/// A digest over what a back end knows of a user: in a file the name and stored hash, so that another
/// password, salt or cost gives another.
///
/// What was made for a fingerprint (a token, a remembered login) is void once the user's entry no
/// longer has it. It does not depend on the process, the machine or the rest of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// The fingerprint of a user's line in a file.
    pub(super) fn of_line(user: &str, hash: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("portcullis 2026 htpasswd entry");
        hasher.update(&user.len().to_le_bytes());
        hasher.update(user.as_bytes());
        hasher.update(hash.as_bytes());
        Self(first_half(&hasher))
    }

    /// The fingerprint of what another back end knows of a user; `context` keeps the kinds apart.
    pub(super) fn of(context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&part.len().to_le_bytes());
            hasher.update(part);
        }
        Self(first_half(&hasher))
    }

    /// The fingerprint under a secret key, for what leaves the process. The bare digest must not:
    /// for an unsalted hash it would let its reader try passwords.
    pub fn keyed(&self, key: &[u8; 32]) -> [u8; 16] {
        first_half(blake3::Hasher::new_keyed(key).update(&self.0))
    }

    /// The bare digest, for keyed hashes within this process.
    pub(super) fn bare(&self) -> &[u8] {
        &self.0
    }
}

fn first_half(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut half = [0; 16];
    hasher.finalize_xof().fill(&mut half);
    half
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(****)")
    }
}
