//! Who a caller is: a person, a robot, a workload or nobody. What kind somebody is of is a type from
//! the back end that finds out to rules, tokens, counts and records; it is read out of a text in one
//! place, [`Subject::read`], where no person can have a robot's name.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::name::{Name, NameError, Origin, ROBOT};
use super::shape::resembles_secret;

/// The kind of a caller, as records and tokens name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubjectKind {
    /// Nobody in particular: an anonymous caller.
    Nobody,
    /// Somebody with a password or a certificate.
    Person,
    /// A robot key.
    Robot,
    /// A job or pod that an issuer vouches for. No issuer can be configured yet; tokens and records
    /// of a later version may name one.
    Workload,
}

impl SubjectKind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Self; 4] = [Self::Nobody, Self::Person, Self::Robot, Self::Workload];

    /// The word of records and tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Person => "person",
            Self::Robot => "robot",
            Self::Workload => "workload",
        }
    }

    /// The kind that a word says.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A robot key's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Robot {
    /// With [`ROBOT`] before it.
    written: Arc<str>,
}

impl Robot {
    /// The robot key called that.
    pub fn named(name: &str) -> Self {
        Self {
            written: format!("{ROBOT}{name}").into(),
        }
    }

    /// The key's name.
    pub fn name(&self) -> &str {
        self.written.strip_prefix(ROBOT).unwrap_or_default()
    }
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Nobody in particular.
    Nobody,
    /// Somebody.
    Person(Name),
    /// A robot key.
    Robot(Robot),
    /// A job or pod of an issuer. Tokens of a later replica name such; nothing else makes one yet.
    Workload(Name),
}

impl Subject {
    /// Reads what [`Subject::as_str`] writes, and what rules say after `user:`. Nothing at all is
    /// nobody.
    pub fn read(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(ROBOT) {
            None if text.is_empty() => Ok(Self::Nobody),
            None => Name::parse(text, Origin::Written).map(Self::Person),
            Some("") => Err(NameError::Robot),
            Some(robot) => match Name::parse(robot, Origin::Password) {
                Ok(robot) => Ok(Self::Robot(Robot::named(robot.as_str()))),
                Err(error) => Err(error),
            },
        }
    }

    /// Reads the same where the kind is told besides; `None` if the two do not agree.
    pub fn read_as(kind: SubjectKind, text: &str) -> Option<Self> {
        let read = match kind {
            SubjectKind::Workload => Self::Workload(Name::parse(text, Origin::Written).ok()?),
            SubjectKind::Nobody | SubjectKind::Person | SubjectKind::Robot => {
                Self::read(text).ok()?
            }
        };
        (read.kind() == kind).then_some(read)
    }

    /// As records, tokens and upload sessions write it; `None` for nobody.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Nobody => None,
            Self::Person(name) | Self::Workload(name) => Some(name.as_str()),
            Self::Robot(robot) => Some(&robot.written),
        }
    }

    /// What it is.
    pub fn kind(&self) -> SubjectKind {
        match self {
            Self::Nobody => SubjectKind::Nobody,
            Self::Person(_) => SubjectKind::Person,
            Self::Robot(_) => SubjectKind::Robot,
            Self::Workload(_) => SubjectKind::Workload,
        }
    }

    /// The same with a person's name as a directory's.
    #[must_use]
    pub fn in_directory(self) -> Self {
        match self {
            Self::Person(name) => Self::Person(name.in_directory()),
            Self::Nobody | Self::Robot(_) | Self::Workload(_) => self,
        }
    }

    /// The name of a person.
    pub fn person(&self) -> Option<&Name> {
        match self {
            Self::Person(name) => Some(name),
            Self::Nobody | Self::Robot(_) | Self::Workload(_) => None,
        }
    }

    /// Whether it is nobody in particular.
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    /// Whether both are one and the same, see [`Name::is`]. Two kinds never are.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nobody, Self::Nobody) => true,
            (Self::Person(one), Self::Person(other))
            | (Self::Workload(one), Self::Workload(other)) => one.is(other),
            (Self::Robot(one), Self::Robot(other)) => one == other,
            (Self::Nobody | Self::Person(_) | Self::Robot(_) | Self::Workload(_), _) => false,
        }
    }

    /// What counts know it by; `None` for nobody.
    pub fn counted(&self) -> Option<Counted> {
        let (key, shown) = match self {
            Self::Nobody => return None,
            Self::Person(name) | Self::Workload(name) => (name.key(), name.shown()),
            Self::Robot(robot) => (&robot.written, &robot.written),
        };
        Some(Counted {
            kind: self.kind(),
            key: Arc::clone(key),
            shown: Arc::clone(shown),
        })
    }
}

/// A caller as counts know it: by kind, and by the one spelling of its name.
#[derive(Clone, Debug)]
pub struct Counted {
    kind: SubjectKind,
    key: Arc<str>,
    shown: Arc<str>,
}

impl Counted {
    /// The one spelling, as replicas have it in common: a robot's begins with [`ROBOT`].
    pub fn key(&self) -> &str {
        &self.key
    }

    /// As it is shown.
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, &self.key) == (other.kind, &other.key)
    }
}

impl Eq for Counted {}

impl Hash for Counted {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.kind, &self.key).hash(state);
    }
}

/// A caller as claimed, fit for a record: what is shaped like a secret is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    user: Box<str>,
    kind: SubjectKind,
}

impl Claim {
    /// What stands where a person's name belongs, whatever it is.
    pub fn of_text(text: &str) -> Self {
        let user = if resembles_secret(text) { "****" } else { text };
        Self {
            user: user.into(),
            kind: SubjectKind::Person,
        }
    }

    /// Somebody who could be.
    pub fn of(subject: &Subject) -> Self {
        Self {
            user: subject.as_str().unwrap_or_default().into(),
            kind: subject.kind(),
        }
    }

    /// The name, or `****`.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// What it is said to be.
    pub fn kind(&self) -> SubjectKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, Robot, Subject, SubjectKind};
    use crate::identity::{Name, Origin};
    use proptest::prelude::*;

    fn person(text: &str, origin: Origin) -> Subject {
        Subject::Person(Name::parse(text, origin).unwrap())
    }

    #[test]
    fn a_person_is_never_a_robot() {
        let robot = Subject::read("key:ci").unwrap();
        assert_eq!(robot, Subject::Robot(Robot::named("ci")));
        for origin in [Origin::Directory, Origin::Password, Origin::Written] {
            for text in ["key:ci", "KEY:ci", "Key:CI", "key\u{ff1a}ci"] {
                assert!(Name::parse(text, origin).is_err(), "{text}");
            }
            let ci = person("ci", origin);
            assert!(!ci.is(&robot) && !robot.is(&ci));
            assert_ne!(ci.counted(), robot.counted());
        }
        for text in ["key:", "key:a:b", "KEY:ci", "key:a\u{200b}"] {
            assert!(Subject::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_kind_that_is_told_has_to_fit() {
        let read = Subject::read_as;
        assert_eq!(read(SubjectKind::Nobody, ""), Some(Subject::Nobody));
        for (kind, text) in [
            (SubjectKind::Person, "key:ci"),
            (SubjectKind::Person, ""),
            (SubjectKind::Robot, "ci"),
            (SubjectKind::Nobody, "alice"),
            (SubjectKind::Workload, "key:ci"),
            (SubjectKind::Workload, ""),
        ] {
            assert_eq!(read(kind, text), None, "{kind:?} {text}");
        }
        let job = read(SubjectKind::Workload, "github:a/b").unwrap();
        assert!(!job.is(&person("github:a/b", Origin::Written)));
        assert!(job.is(&job.clone()));
        for kind in SubjectKind::ALL {
            assert_eq!(SubjectKind::parse(kind.as_str()), Some(kind));
        }
        assert_eq!(SubjectKind::parse("machine"), None);
    }

    #[test]
    fn a_claim_shows_no_secret() {
        let key = format!("pcl_{}", "x".repeat(39));
        assert_eq!(Claim::of_text(&format!(" {key} ")).user(), "****");
        assert_eq!(Claim::of_text("alice").user(), "alice");
        let robot = Claim::of(&Subject::Robot(Robot::named("ci")));
        assert_eq!((robot.user(), robot.kind()), ("key:ci", SubjectKind::Robot));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_as_the_same(text in "(key:)?\\PC{0,8}") {
            if let Ok(subject) = Subject::read(&text) {
                let written = subject.as_str().unwrap_or_default();
                prop_assert_eq!(written, &text);
                let again = Subject::read_as(subject.kind(), written);
                prop_assert!(again.is_some_and(|again| again.is(&subject)));
            }
        }
    }
}
