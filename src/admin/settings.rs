//! What the configuration says about health, metrics and status.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Where the operator is served, `[admin]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where health, metrics and status are served; nowhere without the table.
    pub listen: Option<SocketAddr>,
    /// Names, in lower case, by which it may be asked; IP addresses and `localhost` always may.
    pub hosts: Box<[Box<str>]>,
    /// The unix socket that serves the same to its owner alone.
    pub socket: Option<PathBuf>,
}
