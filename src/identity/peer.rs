//! The other end of a connection, as far as the connection itself proves it.

use std::net::IpAddr;
use std::sync::Arc;

use super::ClientCertificate;

/// What the TLS handshake settled, for the audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSession {
    /// `TLSv1.2` or `TLSv1.3`, with the cipher suite.
    pub description: Box<str>,
}

/// A verified client certificate, or why there is none.
#[derive(Clone, Debug)]
pub enum PeerCertificate {
    /// This listener does not ask for one.
    NotAsked,
    /// It was asked for, and the client has none to show.
    NotShown,
    /// It was shown, and its chain led to the configured CA.
    Shown(Arc<ClientCertificate>),
}

impl PeerCertificate {
    /// The certificate, if one was shown.
    pub fn shown(&self) -> Option<&ClientCertificate> {
        match self {
            Self::NotAsked | Self::NotShown => None,
            Self::Shown(certificate) => Some(certificate),
        }
    }
}

/// The other end of one connection. Made by the listener alone.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where the client is, after trusted proxies have been believed.
    pub address: IpAddr,
    /// Its certificate, verified against the configured CA.
    pub certificate: PeerCertificate,
    /// What the handshake settled.
    pub tls: Arc<TlsSession>,
}
