//! Requests of one connection, answered by the proxy on behalf of the client they come from.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;

use super::body::WatchedBody;
use super::forwarded;
use super::room::Occupant;
use super::settings::{ProxyProtocol, Settings};
use super::stall_watch::Turn;
use crate::identity::{Peer, Witness as _};
use crate::limit::connections::Origin;
use crate::proxy::{CancellationRecord, Proxy, written};
use crate::request::{Asked, BadHead};

/// What the requests of one connection have in common.
pub(super) struct ConnectionContext {
    pub(super) proxy: Arc<Proxy>,
    pub(super) peer: Arc<Peer>,
    pub(super) limits: Arc<Settings>,
    pub(super) origin: Origin,
    pub(super) occupant: Arc<Occupant>,
}

/// A request being answered.
pub(super) type Responding =
    Pin<Box<dyn Future<Output = Result<Response<WatchedBody>, Infallible>> + Send>>;

impl ConnectionContext {
    /// Answers one request, in a box of its own: an idle connection has no room for a request in it.
    pub(super) fn respond(&self, turn: Arc<Turn>, request: Request<Incoming>) -> Responding {
        let proxy = Arc::clone(&self.proxy);
        let peer = on_behalf_of(&self.peer, &request, &self.limits);
        let cancelled = CancellationRecord::new(&proxy, &peer, &request);
        let busy = self.occupant.begin();
        match self.origin {
            Origin::Balancer => self.occupant.proven(),
            Origin::Client => {}
        }
        Box::pin(async move {
            cancelled.disarm();
            let response = proxy.respond(&peer, request).await;
            Ok(response.map(|body| WatchedBody::new(body, turn, busy)))
        })
    }

    /// The bytes of the answer to what came instead of a request, of which so much was good.
    pub(super) fn refuse(&self, fault: BadHead, asked: Asked, head: &[u8]) -> Vec<u8> {
        let tls = Some(&*self.peer.tls.description);
        let refused = self
            .proxy
            .refuse_unread(self.peer.address, tls, fault, asked, head);
        written(refused)
    }
}

/// The peer with the address of the client that a trusted proxy names, if it is one. Where trusted
/// proxies write PROXY headers these alone name clients: `X-Forwarded-For` is then the client's own.
fn on_behalf_of(peer: &Arc<Peer>, request: &Request<Incoming>, limits: &Settings) -> Arc<Peer> {
    let address = match limits.proxy_protocol {
        ProxyProtocol::Off => {
            forwarded::client(peer.address, request.headers(), &limits.trusted_proxies)
        }
        ProxyProtocol::Required => peer.address,
    };
    if address == peer.address {
        return Arc::clone(peer);
    }
    Arc::new(Peer {
        address,
        ..Peer::clone(peer)
    })
}
