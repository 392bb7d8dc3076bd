//! The two values a request is judged by: the rules, which a reload swaps whole, and the ledger,
//! which survives it (otherwise a SIGHUP would forgive an attacker and drop every connection).

use std::sync::Arc;
use std::time::Duration;

use super::{Creating, Guard};
use crate::audit::Audit;
use crate::authn::keys::Keyring;
use crate::authn::{Authenticator, Memory};
use crate::config::Challenge;
use crate::identity::ROBOT;
use crate::limit::lockout::Setting;
use crate::policy::Policy;
use crate::token::Keys;
use crate::upstream::{Pool, Upstream};

/// The compiled configuration. A request loads it once and sees one configuration to its end.
pub struct Rules {
    /// Counts reloads; 1 at start.
    pub generation: u64,
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// Who is who.
    pub authenticator: Authenticator,
    /// Robot keys.
    pub robots: Keyring,
    /// How many wrong passwords are too many.
    pub failed_logins: Setting,
    /// Signing and verifying tokens.
    pub keys: Arc<Keys>,
    /// The way to the registry.
    pub upstream: Upstream,
    /// TLS for new connections.
    pub tls: Arc<rustls::ServerConfig>,
    /// What an unauthenticated client is told to send.
    pub challenge: Challenge,
    /// The only host name answered to, when the configuration names one.
    pub public_authority: Option<Box<str>>,
    /// Of access tokens.
    pub token_lifetime: Duration,
    /// Of refresh tokens; zero for none.
    pub refresh_lifetime: Duration,
    /// Time without progress of a client's body.
    pub body_timeout: Duration,
}

impl Rules {
    /// The present state of a user's credential, as tokens name it; `None` once the user is gone.
    pub(super) fn credential_state(&self, user: &str) -> Option<String> {
        let secret = self.keys.credential_key();
        let state = match user.strip_prefix(ROBOT) {
            Some(name) => self.robots.current().fingerprint(name, secret)?,
            None => self.authenticator.knows(user)?.keyed(secret),
        };
        Some(format!("{:032x}", u128::from_be_bytes(state)))
    }
}

/// What outlives a reload.
pub struct Ledger {
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// Verified credentials and the threads that hash.
    pub memory: Arc<Memory>,
    /// Idle connections to the registry.
    pub pool: Arc<Pool>,
    /// Wrong passwords, counted.
    pub guard: Arc<Guard>,
    /// Tags being created.
    pub creating: Arc<Creating>,
    /// The signing key used while the configuration names none (PKCS #8).
    pub spare_key: zeroize::Zeroizing<Vec<u8>>,
}
