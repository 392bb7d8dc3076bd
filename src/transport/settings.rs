//! What the configuration says about the listener.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

/// What the listener is told by the configuration, `[server]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// The authority (`host` or `host:port`) of `public_url`; requests for others are misdirected.
    pub public_authority: Option<Box<str>>,
    /// Connections at a time, over all clients.
    pub max_connections: usize,
    /// Connections at a time from one source (IPv4 address, IPv6 /64), whatever room there is.
    pub max_connections_per_source: Option<usize>,
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
    /// How they tell it.
    pub proxy_protocol: ProxyProtocol,
}

/// Whether connections from trusted proxies begin with a header of the PROXY protocol. Never guessed:
/// a balancer that passes bytes on as they are would let each client write one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No header is looked for; trusted proxies write `X-Forwarded-For`.
    Off,
    /// Each connection begins with one, which alone names the client.
    Required,
}
