//! What the configuration says about the registry.

use std::path::PathBuf;
use std::time::Duration;

use super::{PassHeaders, RedirectHosts};
use crate::identity::Secret;

/// The way to the registry, `[upstream]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the registry is.
    pub url: UpstreamUrl,
    /// Credentials for an upstream that asks for them.
    pub login: Option<(Box<str>, Secret<String>)>,
    /// PEM with the CA of an https upstream; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for the answer to a read to begin after the request has been sent.
    pub response_timeout: Duration,
    /// The same for a write, counted from its last byte.
    pub commit_timeout: Duration,
    /// Where reads of blobs may be redirected to.
    pub redirect_hosts: RedirectHosts,
    /// Request headers that cross besides those of the API.
    pub pass_headers: PassHeaders,
    /// The same of answers.
    pub pass_answer_headers: PassHeaders,
}

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamUrl {
    /// `http://host:port`
    Http {
        /// Name or address; IPv6 without brackets.
        host: Box<str>,
        /// Port, 80 by default.
        port: u16,
    },
    /// `https://host:port`
    Https {
        /// Name or address, IPv6 without brackets; also the name its certificate must carry.
        host: Box<str>,
        /// Port, 443 by default.
        port: u16,
    },
    /// `unix:/path`
    Unix(PathBuf),
}
