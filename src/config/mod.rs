//! What the configuration means. What is written, and how it is read, is `file`'s.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::identity::Secret;
use crate::policy::Policy;

/// A checked configuration. Paths are absolute; everything named by path still has to be opened.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// `[server]`
    pub server: Server,
    /// `[tls]`
    pub tls: Tls,
    /// `[upstream]`
    pub upstream: Upstream,
    /// `[auth]`
    pub auth: Auth,
    /// `[token]`
    pub token: Token,
    /// `[[access]]`, `[[deny]]`, `[groups]`, `[roles]`
    pub policy: Arc<Policy>,
    /// `[audit]`
    pub audit: Audit,
    /// `[log]`
    pub log: Log,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Addresses to listen on; the only setting that needs a restart.
    pub listen: Vec<SocketAddr>,
    /// The authority (`host` or `host:port`) of `public_url`; requests for others are misdirected.
    pub public_authority: Option<Box<str>>,
    /// Connections at a time, over all clients.
    pub max_connections: usize,
    /// Connections at a time from one source (IPv4 address, IPv6 /64).
    pub max_connections_per_source: usize,
    /// How long requests in flight may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// Time for a TLS handshake.
    pub handshake_timeout: Duration,
    /// Time for a request's head.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// Time without any progress of a body, either way.
    pub body_timeout: Duration,
    /// Networks that may tell us a client's address.
    pub trusted_proxies: Vec<IpNet>,
}

/// The oldest TLS version accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM, the chain.
    pub certificate: PathBuf,
    /// PEM, the key of its first certificate.
    pub private_key: PathBuf,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
}

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamUrl {
    /// `http://host:port`
    Http {
        /// Name or address.
        host: Box<str>,
        /// Port, 80 by default.
        port: u16,
    },
    /// `https://host:port`
    Https {
        /// Name or address; also the name its certificate must carry.
        host: Box<str>,
        /// Port, 443 by default.
        port: u16,
    },
    /// `unix:/path`
    Unix(PathBuf),
}

/// `[upstream]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Where the registry is.
    pub url: UpstreamUrl,
    /// Credentials for an upstream that asks for them.
    pub login: Option<(Box<str>, Secret<String>)>,
    /// PEM with the CA of an https upstream; the system's otherwise.
    pub ca: Option<PathBuf>,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for the answer to begin after the request has been sent.
    pub response_timeout: Duration,
}

/// What an unauthenticated client is told to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A password with every request.
    Basic,
    /// A token of our own token service.
    Bearer,
}

/// `[auth]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// What an unauthenticated client is told to send.
    pub challenge: Challenge,
    /// `[auth.htpasswd] file`
    pub htpasswd: Option<PathBuf>,
    /// How long a verified credential is remembered.
    pub cache_ttl: Duration,
}

/// `[token]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Of an access token; at least a minute, because clients assume that much.
    pub lifetime: Duration,
    /// Of a refresh token; zero for none.
    pub refresh_lifetime: Duration,
    /// PEM, a P-256 key in PKCS #8; made at start and kept in memory when absent.
    pub signing_key: Option<PathBuf>,
}

/// What happens to requests when the audit file cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenUnwritable {
    /// Every request is refused.
    Refuse,
    /// Pushes, deletes, logins and tokens are refused.
    RefuseWrites,
    /// Requests are served.
    Serve,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// JSON lines are appended here.
    pub file: PathBuf,
    /// What happens when that fails.
    pub when_unwritable: WhenUnwritable,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How the log is written.
    pub format: LogFormat,
}
