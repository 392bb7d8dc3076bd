//! Whether a password is right.
//!
//! The back ends are a list, asked in the order of the configuration: an htpasswd file, whose hashes
//! are computed on a bounded pool of threads, or a directory. Nothing here decides what a user may do,
//! and no answer tells a client why a password was refused.
//!
//! What is remembered of passwords and users, each bounded and none of it on a disk:
//!
//! | what | for how long | what for |
//! |---|---|---|
//! | persons, by credential and by name (`cache`) | `auth.cache.ttl`; while the directory is down, `stale_ok` | a password is verified, and a token's user looked up, once in a while |
//! | wrong credentials (`cache`) | two seconds | clients repeat a wrong password in several requests |
//! | who logged in from where (`recent`) | a week | they go first while others guess |

mod authenticator;
mod back_end;
mod cache;
mod certificate;
mod fingerprint;
mod hashing;
pub mod htpasswd;
pub mod keys;
pub mod ldap;
mod outcome;
mod person;
mod recent;
mod settings;
mod state;

pub use authenticator::{Authenticator, Verified};
pub use back_end::{BackEnd, CredentialStatus};
pub use certificate::{CertificateError, Certificates};
pub use fingerprint::Fingerprint;
pub use hashing::HashingPool;
pub use outcome::{Failure, Outcome, Rejected, Rejection};
pub use settings::{Anonymous, BackEndKind, Challenge, Settings};
pub use state::AuthnState;
