//! Where health, metrics and status are served: nowhere, or on one address that a reload may change,
//! and on one socket from the start to the end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::socket::SocketFile;
use super::{AdminSocket, Entrance, serve};
use crate::proxy::Proxy;
use crate::transport::{self, BindError, Listeners};

/// The address and the socket in use, if there are any. The socket's file is removed on drop.
#[derive(Default)]
pub struct Admin {
    serving: Mutex<Option<(SocketAddr, AbortHandle)>>,
    socket: Mutex<Option<SocketFile>>,
}

/// Another place to serve at, bound already; or none at all from now on.
pub struct Move(Option<(SocketAddr, Vec<TcpListener>)>);

impl Move {
    /// To an address that is bound already.
    pub fn to(address: SocketAddr, listeners: Listeners) -> Self {
        Self(Some((address, listeners.into_inner())))
    }
}

impl Admin {
    /// Serves on the socket from now on.
    pub fn open(&self, socket: AdminSocket, proxy: &Arc<Proxy>) {
        let AdminSocket { listener, file } = socket;
        tokio::spawn(serve(Entrance::Socket(listener), Arc::clone(proxy)));
        *self.socket.lock() = Some(file);
    }

    /// Returns true if another socket is wanted than the one in use: that needs a restart.
    pub fn socket_waits(&self, wanted: Option<&Path>) -> bool {
        self.socket.lock().as_ref().map(SocketFile::path) != wanted
    }

    /// Binds the configured address; `None` if it is served at already.
    pub fn prepare(&self, wanted: Option<SocketAddr>) -> Result<Option<Move>, BindError> {
        let serving = self.serving.lock();
        if serving.as_ref().map(|(address, _)| *address) == wanted {
            return Ok(None);
        }
        let bound = match wanted {
            Some(address) => Some((address, transport::bind(&[address])?.into_inner())),
            None => None,
        };
        Ok(Some(Move(bound)))
    }

    /// Serves at the new place and no longer at the old one.
    pub fn take(&self, place: Move, proxy: &Arc<Proxy>) {
        let next = place.0.and_then(|(address, listeners)| {
            let listener = listeners.into_iter().next()?;
            let task = tokio::spawn(serve(Entrance::Address(listener), Arc::clone(proxy)));
            Some((address, task.abort_handle()))
        });
        let mut serving = self.serving.lock();
        if let Some((_, old)) = std::mem::replace(&mut *serving, next) {
            old.abort();
        }
    }
}
