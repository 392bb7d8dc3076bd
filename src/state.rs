//! The two values a request is judged by: the rules, which a reload swaps whole, and what is retained
//! through it (otherwise a SIGHUP would forgive an attacker and drop every connection).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;

use crate::audit::{Audit, WhenUnwritable};
use crate::authn::keys::{Keyring, Keys as RobotKeys};
use crate::authn::{
    Anonymous, Authenticator, AuthnState, Certificates, Challenge, CredentialStatus, Failure,
};
use crate::identity::{Name, Robot};
use crate::limit::lockout::{Lockout, Setting};
use crate::limit::{Quotas, Rates, SourceRateLimiter};
use crate::policy::{Limits, Policy, PullLimits};
use crate::store::{Counts, Store};
use crate::tls::Ending;
use crate::token::Keys;
use crate::upstream::{Pool, Upstream};

/// The compiled configuration. A request loads it once and sees one configuration to its end.
pub struct Rules {
    /// Counts reloads; 1 at start.
    pub generation: u64,
    /// When they were built.
    pub loaded: Timestamp,
    /// When the server certificate ends.
    pub certificate_ends: Timestamp,
    /// Roles, rules and groups.
    pub policy: Arc<Policy>,
    /// Back ends that know users.
    pub authenticator: Authenticator,
    /// Robot keys.
    pub robots: Keyring,
    /// How many wrong passwords are too many.
    pub failed_logins: Setting,
    /// Client certificates that are accepted, and the users that they name.
    pub certificates: Certificates,
    /// Signing and verifying tokens.
    pub keys: Arc<Keys>,
    /// The way to the registry.
    pub upstream: Upstream,
    /// TLS for new connections.
    pub tls: Arc<rustls::ServerConfig>,
    /// What an unauthenticated client is told to send.
    pub challenge: Challenge,
    /// How anonymous callers come.
    pub anonymous: Anonymous,
    /// The only host name answered to, when the configuration names one.
    pub public_authority: Option<Box<str>>,
    /// Names by which the admin address may be asked.
    pub admin_hosts: Box<[Box<str>]>,
    /// Origins whose pages may call the API.
    pub cors_origins: Vec<Box<str>>,
    /// Of access tokens.
    pub token_lifetime: Duration,
    /// Of refresh tokens; zero for none.
    pub refresh_lifetime: Duration,
    /// Whether tokens asked for with a certificate are good with that certificate only.
    pub bind_certificate: bool,
    /// Time without progress of a client's body.
    pub body_timeout: Duration,
    /// How many pulls for whom.
    pub pulls: PullLimits,
    /// Requests and connections of one source.
    pub rates: Rates,
    /// Where replicas count together.
    pub store: Option<Arc<Store>>,
    /// What is told of the configuration.
    pub shown: Shown,
}

/// What the status page tells of a configuration, besides what requests are judged by.
pub struct Shown {
    /// The file it was read from.
    pub file: PathBuf,
    /// Where the audit trail is written.
    pub audit_file: PathBuf,
    /// What happens when it cannot be.
    pub when_unwritable: WhenUnwritable,
    /// Every limit.
    pub limits: Limits,
    /// When certificates, authorities and revocation lists end.
    pub endings: Vec<Ending>,
}

impl Rules {
    /// What an unauthenticated client is told to send. A browser can ask a person for a password, and
    /// for no token.
    pub(super) fn challenge_of(&self, is_browser: bool) -> Challenge {
        if is_browser {
            Challenge::Basic
        } else {
            self.challenge
        }
    }

    /// The present state of a user's credential, as tokens name it, and how the user stands; `None`
    /// once the user is gone.
    pub(super) async fn credential_state(
        &self,
        user: &Name,
        key: &[u8; 32],
    ) -> Result<Option<(String, CredentialStatus)>, Failure> {
        let standing = self.authenticator.credential_status(user).await?;
        Ok(standing.map(|standing| {
            let state = standing.entry.keyed(key);
            (format!("{:032x}", u128::from_be_bytes(state)), standing)
        }))
    }

    /// The same of a robot key.
    pub(super) fn key_state(keys: &RobotKeys, robot: &Robot, key: &[u8; 32]) -> Option<String> {
        let state = keys.fingerprint(robot.name(), key)?;
        Some(format!("{:032x}", u128::from_be_bytes(state)))
    }
}

/// What survives a reload.
pub struct Retained {
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// Verified credentials and the threads that hash.
    pub memory: Arc<AuthnState>,
    /// Idle connections to the registry.
    pub pool: Arc<Pool>,
    /// Wrong passwords, counted.
    lockout: Mutex<Lockout>,
    /// Pulls of all callers.
    pub quotas: Arc<Quotas>,
    /// How often stores were asked.
    pub store_counts: Arc<Counts>,
    /// Requests and connections of all sources.
    pub shield: SourceRateLimiter,
    /// Since when limits count; their clock never goes back.
    began: Instant,
    /// When the process started.
    pub started: Timestamp,
    /// How the last reload went.
    pub reloads: Reloads,
    /// The signing key used while the configuration names none (PKCS #8).
    pub spare_key: zeroize::Zeroizing<Vec<u8>>,
}

impl Retained {
    /// What there is at the start of a process.
    ///
    /// # Panics
    ///
    /// Where the system has no randomness.
    pub fn new(
        audit: Arc<Audit>,
        memory: Arc<AuthnState>,
        pool: Arc<Pool>,
        store_counts: Arc<Counts>,
        spare_key: zeroize::Zeroizing<Vec<u8>>,
    ) -> Self {
        let mut secret = [0; 32];
        #[expect(
            clippy::expect_used,
            reason = "aws-lc itself aborts if the system has no randomness"
        )]
        aws_lc_rs::rand::fill(&mut secret).expect("randomness");
        Self {
            audit,
            memory,
            pool,
            lockout: Mutex::new(Lockout::new(secret)),
            quotas: Quotas::new(),
            store_counts,
            shield: SourceRateLimiter::new(),
            began: Instant::now(),
            started: Timestamp::now(),
            reloads: Reloads::default(),
            spare_key,
        }
    }

    /// Wrong passwords, counted.
    pub fn lockout(&self) -> MutexGuard<'_, Lockout> {
        self.lockout.lock()
    }

    /// The time by which limits go.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// How a reload went.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    /// RFC 3339, UTC.
    pub time: String,
    /// Why the new configuration was refused; `None` when it is in force.
    pub error: Option<String>,
}

/// The last reload.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Option<Reload>>);

impl Reloads {
    /// Notes one.
    pub fn note(&self, now: Timestamp, error: Option<String>) {
        let reload = Reload {
            time: format!("{now:.0}"),
            error,
        };
        *self.0.lock() = Some(reload);
    }

    /// The last one; `None` before the first.
    pub fn last(&self) -> Option<Reload> {
        self.0.lock().clone()
    }
}
