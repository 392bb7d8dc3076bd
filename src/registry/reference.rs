//! What a manifest or blob is called by: a tag or a digest.

use std::fmt;

use crate::hash::{hex, sha256};

/// The longest tag, in bytes (OCI distribution 1.1, "Pulling manifests").
const MAX_TAG: usize = 128;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// Parses a tag; `None` when it is outside the grammar.
    pub fn parse(text: &str) -> Option<Self> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let fits = text.len() <= MAX_TAG
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || b == b'.' || b == b'-');
        fits.then(|| Self(text.into()))
    }

    /// The tag as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A content digest, `algorithm:hex`: `sha256`, `sha384` or `sha512`, which are the algorithms that
/// the registry verifies, with lower-case hexadecimal of exactly their length.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest(Box<str>);

impl Digest {
    /// The SHA-256 of some content.
    pub fn of(content: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(&sha256(content))).into())
    }

    /// Parses a digest; `None` when it is outside the grammar.
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, encoded) = text.split_once(':')?;
        let digits = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return None,
        };
        let hex = encoded
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        (hex && encoded.len() == digits).then(|| Self(text.into()))
    }

    /// The digest as written, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An algorithm's name: words that begin with a letter, joined by one of `+._-`.
pub(super) fn is_algorithm(text: &str) -> bool {
    text.len() <= 32
        && text.split(['+', '.', '_', '-']).all(|word| {
            word.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

/// A manifest's reference: by tag or by digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// By digest, which never changes its meaning.
    Digest(Digest),
    /// By tag, which can be moved.
    Tag(Tag),
}

impl Reference {
    /// Parses either kind: whatever holds a colon can only be a digest.
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains(':') {
            Digest::parse(text).map(Self::Digest)
        } else {
            Tag::parse(text).map(Self::Tag)
        }
    }

    /// The reference as written.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Digest(digest) => digest.as_str(),
            Self::Tag(tag) => tag.as_str(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::{Digest, Reference, Tag};
    use proptest::prelude::*;

    #[test]
    fn tags_inside_and_outside_the_grammar() {
        for good in ["v1", "latest", "1.0.0-rc.1", "_x", "A", "sha256-abc.sig"] {
            assert!(Tag::parse(good).is_some(), "{good}");
        }
        for bad in [
            "", ".x", "-x", "a/b", "a:b", "a b", "a%20", "ä", "..", "a\n",
        ] {
            assert!(Tag::parse(bad).is_none(), "{bad}");
        }
        assert!(Tag::parse(&"a".repeat(128)).is_some());
        assert!(Tag::parse(&"a".repeat(129)).is_none());
    }

    #[test]
    fn digests_inside_and_outside_the_grammar() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(Digest::parse(&format!("sha256:{hex}")).is_some());
        assert!(Digest::parse(&format!("sha512:{hex}{hex}")).is_some());
        for bad in [
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{hex}0"),
            format!("sha512:{hex}"),
            format!("SHA256:{hex}"),
            format!("sha256::{hex}"),
            format!(":{hex}"),
            format!("1sha:{hex}"),
            "sha256:".to_owned(),
            "sha256:baddigest".to_owned(),
            "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            format!("blake3:{hex}"),
        ] {
            assert!(Digest::parse(&bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_itself(text in "[a-zA-Z0-9:._%/-]{0,80}") {
            if let Some(reference) = Reference::parse(&text) {
                prop_assert_eq!(reference.as_str(), &text);
                prop_assert!(!text.contains('%') && !text.contains('/'));
            }
        }
    }
}
