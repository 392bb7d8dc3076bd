//! What a caller is: a person, a robot, a workload or nobody.

/// The kind of a caller, as records and tokens name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The word of records and tokens.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Person => "person",
            Self::Robot => "robot",
            Self::Workload => "workload",
        }
    }
}
