//! A request, with all that it is judged and answered by.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Uri};
use jiff::Timestamp;

use super::Authority;
use crate::identity::Peer;
use crate::registry::{Call, CallError};
use crate::state::{Retained, Rules};
use crate::trace::TraceId;

/// One request, from its preflight to its end. Everything in it is read once: a request sees one
/// configuration, whatever is reloaded meanwhile.
pub struct RequestContext {
    /// The rules in force when it began.
    pub rules: Arc<Rules>,
    /// What survives a reload.
    pub retained: Arc<Retained>,
    /// When it began.
    pub now: Timestamp,
    /// The other end of the connection.
    pub peer: Arc<Peer>,
    /// The host that it is for.
    pub authority: Authority,
    /// Method, target and headers as they came.
    pub head: Parts,
    /// What it asks for.
    pub route: Route,
    /// The distributed trace that it belongs to.
    pub trace: Option<TraceId>,
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Route {
    /// A token.
    Token,
    /// A call to the API, or what is wrong with it.
    Api(Result<Arc<Call>, CallError>),
}

impl Route {
    /// Reads a request's method and target.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        match uri.path() {
            "/token" => Self::Token,
            path => Self::Api(Call::parse(method, path, uri.query()).map(Arc::new)),
        }
    }

    /// The call, if it is one.
    pub fn call(&self) -> Option<&Call> {
        match self {
            Self::Api(Ok(call)) => Some(call),
            Self::Api(Err(_)) | Self::Token => None,
        }
    }
}
