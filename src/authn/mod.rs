//! Whether a password is right. The users of one htpasswd file are known so far.

pub mod htpasswd;

/// Why a credential is bad; for the log and the audit record, never for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// bcrypt would ignore the end of the password.
    PasswordTooLong,
    /// No back end knows the user.
    UnknownUser,
    /// The user is known, the password is another.
    WrongPassword,
}
