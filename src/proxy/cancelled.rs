//! A request whose client went away before anything of it was looked at.
//!
//! Between the head of a request and its answer, hyper looks for the end of the connection, and drops
//! the request where it finds that: the client sent it and left. Nothing was done then, but it is on
//! record like everything else that came.

use std::sync::Arc;

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, Uri};

use super::instance::Proxy;
use super::opening::event;
use crate::audit::Record;
use crate::identity::Peer;
use crate::request::Route;

/// The record of a request that is dropped before [`CancellationRecord::disarm`].
pub(crate) struct CancellationRecord {
    proxy: Arc<Proxy>,
    peer: Arc<Peer>,
    head: Option<Head>,
}

/// As much of a head as the record needs.
struct Head {
    method: Method,
    uri: Uri,
    agent: Option<HeaderValue>,
}

impl CancellationRecord {
    pub(crate) fn new<B>(proxy: &Arc<Proxy>, peer: &Arc<Peer>, request: &Request<B>) -> Self {
        let head = Head {
            method: request.method().clone(),
            uri: request.uri().clone(),
            agent: request.headers().get(USER_AGENT).cloned(),
        };
        Self {
            proxy: Arc::clone(proxy),
            peer: Arc::clone(peer),
            head: Some(head),
        }
    }

    /// The request is looked at from now on, and leaves its own record.
    pub(crate) fn disarm(mut self) {
        self.head = None;
    }
}

impl Drop for CancellationRecord {
    fn drop(&mut self) {
        if let Some(head) = self.head.take() {
            record(&self.proxy, &self.peer, &head);
        }
    }
}

fn record(proxy: &Proxy, peer: &Peer, head: &Head) {
    let audit = &proxy.retained.audit;
    if let Err(why) = proxy.admit(peer.address, proxy.rules().rates) {
        drop(proxy.turn_away(peer.address, why));
        return;
    }
    let route = Route::of(&head.method, &head.uri);
    let mut record = Record::open(audit, event(&route));
    let agent = head.agent.as_ref().and_then(|value| value.to_str().ok());
    let tls = &peer.tls.description;
    record.client(peer.address, tls, head.method.as_str(), agent);
    record.certificate(peer.certificate.shown());
    if let Some(call) = route.call() {
        record.call(call);
    }
    record.reason("the client went away at once");
    record.close();
}
