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
    /// Origins whose pages may call the API, as browsers write them.
    pub cors_origins: Vec<Box<str>>,
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

impl Settings {
    /// What a reload puts in force of `new`, and the keys that wait for a restart.
    ///
    /// `new` is taken apart without `..`: a key that is added does not compile until it is decided
    /// here when it applies.
    pub fn reloaded(&self, new: Self) -> (Self, Vec<&'static str>) {
        let Self {
            listen,
            public_authority,
            cors_origins,
            max_connections,
            max_connections_per_source,
            drain_timeout,
            handshake_timeout,
            header_timeout,
            idle_timeout,
            body_timeout,
            trusted_proxies,
            proxy_protocol,
        } = new;
        let in_force = Self {
            public_authority,
            cors_origins,
            ..self.clone()
        };
        let unchanged = [
            ("server.listen", self.listen == listen),
            (
                "server.max_connections",
                self.max_connections == max_connections,
            ),
            (
                "server.max_connections_per_source",
                self.max_connections_per_source == max_connections_per_source,
            ),
            ("server.drain_timeout", self.drain_timeout == drain_timeout),
            (
                "server.handshake_timeout",
                self.handshake_timeout == handshake_timeout,
            ),
            (
                "server.header_timeout",
                self.header_timeout == header_timeout,
            ),
            ("server.idle_timeout", self.idle_timeout == idle_timeout),
            ("server.body_timeout", self.body_timeout == body_timeout),
            (
                "server.trusted_proxies",
                self.trusted_proxies == trusted_proxies,
            ),
            (
                "server.proxy_protocol",
                self.proxy_protocol == proxy_protocol,
            ),
        ];
        let waiting = unchanged.into_iter().filter(|(_, same)| !same);
        (in_force, waiting.map(|(key, _)| key).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ProxyProtocol, Settings};

    fn settings() -> Settings {
        Settings {
            listen: vec![([127, 0, 0, 1], 443).into()],
            public_authority: Some("a.example.com".into()),
            cors_origins: Vec::new(),
            max_connections: 1,
            max_connections_per_source: None,
            drain_timeout: Duration::ZERO,
            handshake_timeout: Duration::ZERO,
            header_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            body_timeout: Duration::ZERO,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
        }
    }

    #[test]
    fn a_reload_takes_the_host_and_names_what_waits() {
        let (running, second) = (settings(), Duration::from_secs(1));
        let new = Settings {
            public_authority: Some("b.example.com".into()),
            cors_origins: vec!["https://ui.example.com".into()],
            body_timeout: second,
            proxy_protocol: ProxyProtocol::Required,
            ..running.clone()
        };
        let (in_force, waiting) = running.reloaded(new);
        assert_eq!(waiting, ["server.body_timeout", "server.proxy_protocol"]);
        let host = Some("b.example.com".into());
        assert_eq!(
            in_force,
            Settings {
                public_authority: host,
                cors_origins: vec!["https://ui.example.com".into()],
                ..running.clone()
            }
        );
        assert_eq!(running.reloaded(running.clone()), (running, Vec::new()));
    }
}
