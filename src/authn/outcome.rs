//! The answer to a credential, and why it is not a yes.
//!
//! An outage is not an answer about a person: [`Outcome::Fail`] is neither counted as a wrong
//! password nor remembered.

use crate::identity::{Identity, Name};

/// The answer to a credential. Back ends and caches give it as well, with what they know of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome<T = Identity> {
    /// It is good.
    Accept(T),
    /// It is bad: 401.
    Reject(Rejected),
    /// Nobody knows: 503, never 401.
    Fail(Failure),
}

/// A bad credential, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Why it is bad.
    pub why: Rejection,
    /// Name of the entry that a directory has for what was typed: guesses are counted by it as well,
    /// since a directory takes more spellings for one user than we know.
    pub entry: Option<Name>,
}

/// Why a credential is bad; for the log and the audit record, never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The directory's entry says that the account is disabled or expired.
    AccountDisabled,
    /// The directory knows the user and lets nobody in: locked, perhaps, or disabled.
    AccountRefused,
    /// The directory has several entries for the user, or an entry of several users.
    Ambiguous,
    /// A robot key whose time is over.
    ExpiredKey,
    /// A robot key that is not for use from that address.
    KeyElsewhere,
    /// A robot key with a wrong checksum.
    MistypedKey,
    /// Nothing is configured that verifies passwords.
    NoBackEnd,
    /// bcrypt would ignore the end of the password.
    PasswordTooLong,
    /// What the directory calls the user is no name that anybody can have.
    UnfitName,
    /// No robot key is called like that.
    UnknownKey,
    /// No back end knows the user.
    UnknownUser,
    /// The robot key of that name is another.
    WrongKey,
    /// The user is known, the password is another.
    WrongPassword,
}

/// Why nobody knows whether a credential is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// More logins at a time than there are cores to verify them.
    Busy,
    /// Verifying ended without an answer; a fault of ours.
    Crashed,
    /// No server of the directory answers in time.
    DirectoryDown,
    /// The directory's answer is of no use; a fault of its set-up or ours.
    DirectoryOdd,
}

impl<T> Outcome<T> {
    /// The same answer, about what `change` makes of it.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Accept(known) => Outcome::Accept(change(known)),
            Self::Reject(rejected) => Outcome::Reject(rejected),
            Self::Fail(failure) => Outcome::Fail(failure),
        }
    }
}

impl Rejection {
    /// The rejection of a password for the entry of that name.
    pub(super) fn of(self, entry: &Name) -> Rejected {
        Rejected {
            why: self,
            entry: Some(entry.clone()),
        }
    }

    /// The words of the log and the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccountDisabled => "account disabled or expired",
            Self::AccountRefused => "account refused by the directory",
            Self::Ambiguous => "several entries in the directory",
            Self::ExpiredKey => "key expired",
            Self::KeyElsewhere => "key not for this address",
            Self::MistypedKey => "key mistyped",
            Self::NoBackEnd => "passwords are not accepted",
            Self::PasswordTooLong => "password too long",
            Self::UnfitName => "unfit name in the directory",
            Self::UnknownKey => "unknown key",
            Self::UnknownUser => "unknown user",
            Self::WrongKey => "wrong key",
            Self::WrongPassword => "wrong password",
        }
    }

    /// Whether it is about an account or a key that there is.
    pub fn is_of_somebody(self) -> bool {
        match self {
            Self::AccountDisabled
            | Self::AccountRefused
            | Self::Ambiguous
            | Self::ExpiredKey
            | Self::KeyElsewhere
            | Self::UnfitName
            | Self::WrongKey
            | Self::WrongPassword => true,
            Self::MistypedKey
            | Self::NoBackEnd
            | Self::PasswordTooLong
            | Self::UnknownKey
            | Self::UnknownUser => false,
        }
    }
}

impl From<Rejection> for Rejected {
    fn from(why: Rejection) -> Self {
        Self { why, entry: None }
    }
}

impl Failure {
    /// The words of the log and the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "too many logins at a time",
            Self::Crashed => "verifying the password failed",
            Self::DirectoryDown => "directory down",
            Self::DirectoryOdd => "directory answers oddly",
        }
    }
}
