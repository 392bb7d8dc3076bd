//! Names of people. [`Name::parse`] is the only way to one, whoever says it: a client, a password
//! file, a directory, a certificate, a rule, a token.
//!
//! A name cannot be mistaken for another by its look, nor for a robot key or our own separators:
//! control and invisible characters, spaces other than the ordinary one and look-alikes of `:`, `/`,
//! `\` and `@` are refused. So is what is shaped like a secret: it was typed into the wrong field.
//!
//! Directories take `ALICE` for `alice`, and most other spellings that Unicode calls compatible. So
//! the names that they return are compared, counted and cached by their fold (UAX 15 and 31: NFKC and
//! case folding) and shown as the directory spells them. All others are compared as they stand.

use std::fmt;
use std::sync::Arc;

use super::letters::{compatible, fold, is_invisible};
use super::shape::resembles_secret;

/// What the robot key `ci` is written with: `key:ci`. No person can be called that, see [`Name`].
pub const ROBOT: &str = "key:";

/// The longest name, in bytes.
pub(super) const MAX_NAME: usize = 256;

/// What looks like one of our separators and has no compatible form that is one.
const LOOK_ALIKES: &str = "\u{2d0}\u{2f8}\u{589}\u{5c3}\u{703}\u{704}\u{1361}\u{1365}\u{16ec}\
    \u{1803}\u{1809}\u{205a}\u{2236}\u{2982}\u{a4fd}\u{a789}\u{fe30}\
    \u{2044}\u{2215}\u{2571}\u{27cb}\u{29f8}\u{2cc6}\u{31d3}\
    \u{2216}\u{2572}\u{27cd}\u{29f5}\u{29f9}\u{31d4}";

/// The origin of a name's spelling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A directory: without a colon, compared by its fold.
    Directory,
    /// A client that shows a password, or a file of passwords: without a colon (RFC 7617 section 2).
    Password,
    /// A certificate, whose URIs have colons; and whatever repeats a name: rules, tokens, records.
    Written,
}

/// A person's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    shown: Arc<str>,
    folded: Arc<str>,
    origin: Origin,
}

/// Why something is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A colon, from whoever may not have one.
    #[error("the user name has a `:`")]
    Colon,
    /// A control character.
    #[error("the user name has a control character")]
    Control,
    /// No character at all.
    #[error("the user name is empty")]
    Empty,
    /// A character that nobody sees, or a space other than the ordinary one.
    #[error("the user name has an invisible character")]
    Invisible,
    /// A character that looks like `:`, `/`, `\` or `@`.
    #[error("the user name has a character that looks like a separator")]
    LookAlike,
    /// What robot keys are called.
    #[error("a user name cannot begin with `key:`, as robot keys do")]
    Robot,
    /// A key, token or hash.
    #[error("a key or token stands where the user name belongs")]
    Secret,
    /// Longer than 256 bytes.
    #[error("the user name is too long")]
    TooLong,
}

impl Name {
    /// Accepts what can name a person.
    pub fn parse(text: &str, origin: Origin) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong);
        }
        if resembles_secret(text) {
            return Err(NameError::Secret);
        }
        if let Some(wrong) = text.chars().find_map(fault) {
            return Err(wrong);
        }
        let folded = fold(text);
        if *folded != *text && resembles_secret(&folded) {
            return Err(NameError::Secret);
        }
        if folded.starts_with(ROBOT) {
            return Err(NameError::Robot);
        }
        if origin != Origin::Written && text.contains(':') {
            return Err(NameError::Colon);
        }
        let shown = Arc::from(text);
        let folded = if folded == text {
            Arc::clone(&shown)
        } else {
            folded.into()
        };
        Ok(Self {
            shown,
            folded,
            origin,
        })
    }

    /// The same as a directory's name, unless no directory can say it.
    #[must_use]
    pub fn in_directory(self) -> Self {
        let origin = if self.shown.contains(':') {
            self.origin
        } else {
            Origin::Directory
        };
        Self { origin, ..self }
    }

    /// As whoever knows the person spells it.
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    /// The same, shared.
    pub fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// In the one spelling of all that a directory takes for the same.
    pub fn folded(&self) -> &Arc<str> {
        &self.folded
    }

    /// What counts and caches know the person by.
    pub fn key(&self) -> &Arc<str> {
        if self.is_folded() {
            &self.folded
        } else {
            &self.shown
        }
    }

    /// Whether the spelling is a directory's, which does not tell cases apart.
    pub fn is_folded(&self) -> bool {
        self.origin == Origin::Directory
    }

    /// Whether both name one person: if either is a directory's, by their folds.
    pub fn is(&self, other: &Self) -> bool {
        let folded = self.is_folded() || other.is_folded();
        self.shown == other.shown || (folded && self.folded == other.folded)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What is wrong with a character.
fn fault(c: char) -> Option<NameError> {
    if c.is_ascii() {
        return c.is_ascii_control().then_some(NameError::Control);
    }
    if c.is_control() {
        Some(NameError::Control)
    } else if is_invisible(c) {
        Some(NameError::Invisible)
    } else if looks_like_a_separator(c) {
        Some(NameError::LookAlike)
    } else {
        None
    }
}

fn looks_like_a_separator(c: char) -> bool {
    let is_one = |c: char| ":/\\@".contains(c) || LOOK_ALIKES.contains(c) || is_invisible(c);
    LOOK_ALIKES.contains(c) || compatible(c.encode_utf8(&mut [0; 4])).contains(is_one)
}

#[cfg(test)]
mod tests {
    use super::{Name, NameError, Origin};
    use crate::identity::fold;
    use proptest::prelude::*;

    const ALL: [Origin; 3] = [Origin::Directory, Origin::Password, Origin::Written];

    #[test]
    fn names_that_people_have_are_names_wherever_they_come_from() {
        for text in [
            "alice",
            "JDoe",
            "CORP\\jdoe",
            "j.doe@example.com",
            "o'brien",
            "müller",
            "mu\u{308}ller",
            "Łukasz",
            "王小明",
            "мария",
            "bob, jr (x)*",
            "pcl_bot",
            "x509/agent",
            "a b",
            "\u{ff4a}doe",
        ] {
            for origin in ALL {
                let name = Name::parse(text, origin);
                assert_eq!(name.as_ref().map(Name::as_str), Ok(text), "{origin:?}");
            }
        }
        let spiffe = "spiffe://example.org/ns/ci/sa/builder";
        assert!(Name::parse(spiffe, Origin::Written).is_ok());
        for origin in [Origin::Directory, Origin::Password] {
            assert_eq!(Name::parse(spiffe, origin), Err(NameError::Colon));
        }
    }

    #[test]
    fn what_nobody_sees_or_takes_for_something_else_is_no_name() {
        for (text, error) in [
            ("", NameError::Empty),
            ("a\nb", NameError::Control),
            ("a\u{85}b", NameError::Control),
            ("a\u{a0}b", NameError::Invisible),
            ("a\u{3000}b", NameError::Invisible),
            ("a\u{200b}b", NameError::Invisible),
            ("a\u{200d}b", NameError::Invisible),
            ("a\u{202e}b", NameError::Invisible),
            ("a\u{2028}b", NameError::Invisible),
            ("a\u{feff}b", NameError::Invisible),
            ("a\u{ad}b", NameError::Invisible),
            ("a\u{115f}b", NameError::Invisible),
            ("a\u{fe0f}b", NameError::Invisible),
            ("a\u{e0041}b", NameError::Invisible),
            ("a\u{2800}b", NameError::Invisible),
            ("key\u{ff1a}ci", NameError::LookAlike),
            ("key\u{fe55}ci", NameError::LookAlike),
            ("key\u{fe13}ci", NameError::LookAlike),
            ("key\u{2236}ci", NameError::LookAlike),
            ("key\u{a789}ci", NameError::LookAlike),
            ("a\u{2a74}b", NameError::LookAlike),
            ("a\u{ff0f}b", NameError::LookAlike),
            ("a\u{2215}b", NameError::LookAlike),
            ("a\u{ff3c}b", NameError::LookAlike),
            ("a\u{2100}b", NameError::LookAlike),
            ("a\u{bc}b", NameError::LookAlike),
            ("a\u{ff20}b", NameError::LookAlike),
            ("key:ci", NameError::Robot),
            ("KEY:ci", NameError::Robot),
            ("\u{ff4b}ey:ci", NameError::Robot),
            ("pcl_0123456789abcdefghij0123", NameError::Secret),
            (";ke/m$2Y$ests/", NameError::Secret),
            ("a$APR1$b", NameError::Secret),
            (&"x".repeat(257), NameError::TooLong),
        ] {
            for origin in ALL {
                assert_eq!(Name::parse(text, origin), Err(error), "{text:?} {origin:?}");
            }
        }
    }

    #[test]
    fn a_directory_does_not_tell_spellings_apart_and_everybody_else_does() {
        let name = |text, origin| Name::parse(text, origin).unwrap();
        for (one, other) in [
            ("alice", "ALICE"),
            ("müller", "MU\u{308}LLER"),
            ("jdoe", "\u{ff2a}Doe"),
            ("straße", "STRASSE"),
            ("\u{fb01}nn", "FINN"),
        ] {
            let here = name(one, Origin::Directory);
            for origin in ALL {
                let there = name(other, origin);
                assert!(here.is(&there) && there.is(&here), "{one} {other}");
                assert_eq!(here.folded(), there.folded());
            }
            assert_eq!((here.as_str(), here.key()), (one, here.folded()));
            let file = name(one, Origin::Password);
            assert!(!file.is(&name(other, Origin::Password)));
            assert!(!file.is(&name(other, Origin::Written)));
            assert!(file.is(&name(one, Origin::Written)));
            assert_eq!(&**file.key(), one);
        }
        assert!(!name("alice", Origin::Directory).is(&name("alicf", Origin::Directory)));
    }

    proptest! {
        #[test]
        fn a_fold_is_folded(text in "\\PC{0,12}") {
            let folded = fold(&text);
            prop_assert_eq!(fold(&folded), folded);
        }

        #[test]
        fn no_accepted_name_holds_a_separator_in_any_reading(text in "\\PC{0,12}") {
            if let Ok(name) = Name::parse(&text, Origin::Directory) {
                prop_assert!(!name.as_str().contains(':') && !name.folded().contains(':'));
                let count = |text: &str| text.matches(['/', '\\', '@']).count();
                prop_assert_eq!(count(name.as_str()), count(name.folded()));
                let again = Name::parse(name.folded(), Origin::Directory);
                prop_assert!(matches!(again, Ok(_) | Err(NameError::TooLong)), "{:?}", again);
            }
        }
    }
}
