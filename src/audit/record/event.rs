//! Events and outcomes of records.

use serde::Serialize;

/// The subject of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A sink of the trail fails, or works again.
    Audit,
    /// Everything before is signed.
    Checkpoint,
    /// A robot key made, changed or revoked.
    Key,
    /// A user locked out for wrong passwords, or free again.
    Lockout,
    /// A password or key presented to log in.
    Login,
    /// The oldest files of the trail are removed.
    Prune,
    /// The chain goes on with another key.
    Rekey,
    /// The configuration was read again.
    Reload,
    /// A call to the API.
    Request,
    /// The proxy started.
    Start,
    /// The proxy stopped.
    Stop,
    /// The store that replicas share limits by was lost, or is back.
    Store,
    /// Requests turned away, many in one record.
    Suppressed,
    /// A token minted, refreshed or refused.
    Token,
    /// A crash tore the end of the trail, or it was cut off.
    Torn,
}

impl Event {
    /// Every event, in the order of their declaration.
    pub const ALL: [Self; 15] = [
        Self::Audit,
        Self::Checkpoint,
        Self::Key,
        Self::Lockout,
        Self::Login,
        Self::Prune,
        Self::Rekey,
        Self::Reload,
        Self::Request,
        Self::Start,
        Self::Stop,
        Self::Store,
        Self::Suppressed,
        Self::Token,
        Self::Torn,
    ];

    /// The word of the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Checkpoint => "checkpoint",
            Self::Key => "key",
            Self::Lockout => "lockout",
            Self::Login => "login",
            Self::Prune => "prune",
            Self::Rekey => "rekey",
            Self::Reload => "reload",
            Self::Request => "request",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Store => "store",
            Self::Suppressed => "suppressed",
            Self::Token => "token",
            Self::Torn => "torn",
        }
    }
}

impl Outcome {
    /// Every outcome, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Aborted,
        Self::Allowed,
        Self::Challenged,
        Self::Denied,
        Self::Error,
        Self::Failed,
        Self::Limited,
    ];

    /// The word of the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Allowed => "allowed",
            Self::Challenged => "challenged",
            Self::Denied => "denied",
            Self::Error => "error",
            Self::Failed => "failed",
            Self::Limited => "limited",
        }
    }
}

/// The end of a request or event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The client went away before the end of the answer.
    Aborted,
    /// Done as asked.
    Allowed,
    /// Asked for a credential, where there was none: how every client begins. Neither a failure nor a
    /// denial.
    Challenged,
    /// Refused by the policy, or not a request of the API.
    Denied,
    /// Something behind us, or we ourselves, could not.
    Error,
    /// The credential is malformed, wrong, or not enough.
    Failed,
    /// Refused for now: too many.
    Limited,
}
