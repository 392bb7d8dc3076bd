//! What the configuration says about the store.

use std::path::PathBuf;
use std::time::Duration;

use crate::identity::Secret;

/// The store and the way to it, `[limits.store]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it is.
    pub url: StoreUrl,
    /// A password, and a user where the store has several.
    pub login: Option<(Option<Box<str>>, Secret<String>)>,
    /// PEM, the authority that issued the certificate of a `rediss://` one.
    pub ca: Option<PathBuf>,
    /// Time for an answer.
    pub timeout: Duration,
    /// What its keys begin with.
    pub prefix: Box<str>,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// `redis://host:port/database`, or with TLS `rediss://`
    Tcp {
        /// Whether the connection is TLS.
        tls: bool,
        /// Name or address, IPv6 without brackets.
        host: Box<str>,
        /// Port, 6379 by default.
        port: u16,
        /// Number of the database.
        database: u16,
    },
    /// `unix:/path`
    Unix(PathBuf),
}
