//! A request whose client went away before anything of it was looked at.
//!
//! Between the head of a request and its answer, hyper looks for the end of the connection, and drops
//! the request where it finds that: the client sent it and left. Nothing was done then, but it is on
//! record like everything else that came.

use std::sync::Arc;

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, Uri};

use super::service::Proxy;
use crate::identity::Peer;

/// The record of a request that is dropped before [`CancellationRecord::disarm`].
pub(crate) struct CancellationRecord {
    proxy: Arc<Proxy>,
    peer: Arc<Peer>,
    head: Option<Head>,
}

/// As much of a head as the record needs.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) agent: Option<HeaderValue>,
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
            self.proxy.record_cancelled(&self.peer, &head);
        }
    }
}
