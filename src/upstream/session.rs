//! Upload sessions, bound to whoever began them without remembering them here.
//!
//! The registry's own `_state` is a capability: whoever knows it can write to the session, and newer
//! registries hand a fresh one to anybody who asks. So the query of the registry's `Location` is
//! sealed (AES-256-GCM, bound to repository and session) together with the owner's name and the time
//! the session began, and only we can open it.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;

use crate::identity::Subject;

/// A session's sealed content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The caller who began it.
    pub owner: Subject,
    /// When it was begun, in whole seconds.
    pub begun: Timestamp,
    /// The query that the registry wants to see.
    pub query: Box<str>,
}

/// The sealing key, and older ones that still open.
pub struct Seal {
    key: RandomizedNonceKey,
    older: Vec<RandomizedNonceKey>,
}

impl Seal {
    /// Takes a key; `None` if the cipher does not accept it.
    pub fn new(key: &[u8; 32]) -> Option<Self> {
        Some(Self {
            key: RandomizedNonceKey::new(&AES_256_GCM, key).ok()?,
            older: Vec::new(),
        })
    }

    /// Also opens what another key has sealed.
    pub fn and_older(mut self, key: &[u8; 32]) -> Option<Self> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
        self.older.push(key);
        Some(self)
    }

    /// Seals a session; base64url, fit for a query. `None` when the system has no randomness.
    pub fn close(&self, session: &Session, repo: &str, id: &str) -> Option<String> {
        let Session {
            owner,
            begun,
            query,
        } = session;
        // As the first edition writes it; nobody is the empty name.
        let owner = owner.as_str().unwrap_or_default();
        let mut bytes = format!("{}\n{owner}\n{query}", begun.as_second()).into_bytes();
        let nonce = self
            .key
            .seal_in_place_append_tag(aad(repo, id), &mut bytes)
            .ok()?;
        bytes.extend_from_slice(nonce.as_ref());
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Opens a session; `None` unless it was sealed by us, for this repository and session.
    pub fn open(&self, sealed: &str, repo: &str, id: &str) -> Option<Session> {
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (sealed, nonce) = bytes.split_at_checked(bytes.len().checked_sub(NONCE_LEN)?)?;
        let plain = std::iter::once(&self.key)
            .chain(&self.older)
            .find_map(|key| {
                // A key that does not fit leaves nothing of what it tried.
                let mut sealed = sealed.to_vec();
                let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
                let plain = key.open_in_place(nonce, aad(repo, id), &mut sealed).ok()?;
                Some(plain.to_vec())
            })?;
        let mut parts = std::str::from_utf8(&plain).ok()?.splitn(3, '\n');
        let begun = parts.next()?.parse().ok()?;
        Some(Session {
            begun: Timestamp::from_second(begun).ok()?,
            owner: Subject::read(parts.next()?).ok()?,
            query: parts.next()?.into(),
        })
    }
}

/// Neither a repository's name nor a session's holds a newline.
fn aad(repo: &str, id: &str) -> Aad<Vec<u8>> {
    Aad::from(format!("{repo}\n{id}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Seal, Session};
    use crate::identity::Subject;
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jiff::Timestamp;
    use proptest::prelude::*;

    #[test]
    fn a_session_opens_for_its_repository_and_name_only() {
        let session = Session {
            owner: Subject::read("alice").unwrap(),
            begun: Timestamp::from_second(1_800_000_000).unwrap(),
            query: "_state=abc%3D&x=1".into(),
        };
        let seal = Seal::new(&[7; 32]).unwrap();
        let sealed = seal.close(&session, "a/b", "u-1").unwrap();
        assert!(
            sealed
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        );
        let bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"_state="));
        assert_eq!(seal.open(&sealed, "a/b", "u-1"), Some(session.clone()));
        let newer = Seal::new(&[9; 32]).unwrap();
        assert_eq!(newer.open(&sealed, "a/b", "u-1"), None);
        let newer = newer.and_older(&[7; 32]).unwrap();
        assert_eq!(newer.open(&sealed, "a/b", "u-1"), Some(session));
        assert_eq!(seal.open(&sealed, "a/c", "u-1"), None);
        assert_eq!(seal.open(&sealed, "a/b", "u-2"), None);
        assert_eq!(
            Seal::new(&[8; 32]).unwrap().open(&sealed, "a/b", "u-1"),
            None
        );
    }

    proptest! {
        #[test]
        fn junk_opens_nothing(text in "[A-Za-z0-9_=-]{0,100}") {
            prop_assert_eq!(Seal::new(&[7; 32]).unwrap().open(&text, "a", "u"), None);
        }
    }
}
