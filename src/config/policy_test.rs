//! `[[policy_test]]`: questions to the policy whose answers must not change.

use std::net::IpAddr;
use std::ops::Range;

use crate::identity::Subject;
use crate::policy::Place;
use crate::registry::{Action, RepoName};

/// The answer a test expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The policy allows it.
    Allow,
    /// The policy denies it.
    Deny,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyTest {
    /// Where it stands.
    pub place: Place,
    /// The caller.
    pub user: Subject,
    /// The groups a back end would name.
    pub groups: Vec<Box<str>>,
    /// From where.
    pub address: IpAddr,
    /// What is to be done.
    pub action: Action,
    /// Where.
    pub repository: RepoName,
    /// What must be answered.
    pub expect: Expected,
    pub(super) address_given: bool,
    /// Of `expect`.
    pub(super) span: Range<usize>,
}
