//! The other end of a connection, as far as the connection itself proves it.

use std::fmt;
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

/// Whoever keeps a connection, and wants to know whether its callers are known: when there are too
/// many connections, those of callers nobody knows go first.
pub trait Witness: fmt::Debug + Send + Sync {
    /// A credential that came over the connection has been verified, or a change been permitted.
    fn proven(&self);
}

/// Nobody wants to know.
impl Witness for () {
    fn proven(&self) {}
}

/// An address as text. The same as `Display`, without the formatter: each request is forwarded and
/// recorded with it.
pub fn address_text(address: IpAddr) -> String {
    let IpAddr::V4(v4) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity(15);
    for (position, octet) in v4.octets().into_iter().enumerate() {
        if position > 0 {
            text.push('.');
        }
        text.push_str(itoa::Buffer::new().format(octet));
    }
    text
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
    /// Function that is told once this peer has proved who it is.
    pub witness: Arc<dyn Witness>,
}
