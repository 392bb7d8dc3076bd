//! What the configuration says about tokens.

use std::path::PathBuf;
use std::time::Duration;

/// How long tokens live and what signs them, `[token]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of an access token; at least a minute, because clients assume that much.
    pub lifetime: Duration,
    /// Of a refresh token; zero for none.
    pub refresh_lifetime: Duration,
    /// PEM, a P-256 key in PKCS #8; made at start and kept in memory when absent.
    pub signing_key: Option<PathBuf>,
    /// The same, of keys that signed before and whose tokens are still good.
    pub verify_keys: Vec<PathBuf>,
    /// Whether tokens asked for with a client certificate are good with that certificate only.
    /// Tokens asked for with nothing else always are.
    pub bind_certificate: bool,
}
