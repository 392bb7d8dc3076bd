//! stub
use crate::identity::{Identity, Password};
use std::sync::Arc;
use std::time::Duration;
/// x
pub enum Outcome {
    /// x
    Accept(Identity),
    /// x
    Reject(Rejection),
    /// x
    Fail(Failure),
}
/// x
#[derive(Clone, Copy, Debug)]
pub enum Rejection {
    /// x
    UnknownUser,
}
impl Rejection {
    /// x
    pub fn as_str(self) -> &'static str {
        "x"
    }
}
/// x
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Failure {
    /// x
    #[error("busy")]
    Busy,
}
/// x
pub struct Users;
/// x
pub struct Authenticator;
/// x
pub struct Memory;
impl Memory {
    /// x
    pub fn new(_: Duration) -> Self {
        Self
    }
}
/// x
pub struct Fingerprint;
impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
impl Authenticator {
    /// x
    pub fn new(_: Option<Users>, _: Arc<Memory>) -> Self {
        Self
    }
    /// x
    pub async fn verify_password(&self, _: &str, _: &Password) -> Outcome {
        Outcome::Reject(Rejection::UnknownUser)
    }
    /// x
    pub fn knows(&self, _: &str) -> Option<Fingerprint> {
        None
    }
}
