//! What the configuration says about health, metrics and status.

use std::net::SocketAddr;

/// Where the operator is served, `[admin]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where health, metrics and status are served; nowhere without the table.
    pub listen: Option<SocketAddr>,
}
