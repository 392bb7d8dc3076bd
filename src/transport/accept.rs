//! Listening and accepting: who gets a connection at all, and how the server ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::caps::Caps;
use super::connection::{Admitted, drive};
use super::forwarded::is_trusted;
use super::settings::Settings;
use super::stop::Stop;
use crate::limit::connections::Origin;
use crate::proxy::{Proxy, asked_to_stop};
use crate::telemetry::LogLimit;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How long a connection that was accepted at the last moment has for its handshake and the head of
/// its first request: its client has been let in, and a restart is no reason to send it away.
const ACCEPT_GRACE: Duration = Duration::from_millis(500);
/// How long connections that are cut at the end of a drain may take to be gone.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// Bound listeners, not yet accepting.
pub struct Listeners(Vec<TcpListener>);

/// An address that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", hint(source))]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::AddrInUse {
        "; another program has it"
    } else if error.kind() == io::ErrorKind::PermissionDenied {
        "; ports below 1024 need CAP_NET_BIND_SERVICE or another `server.listen`"
    } else {
        ""
    }
}

/// Binds every address.
pub fn bind(addresses: &[SocketAddr]) -> Result<Listeners, BindError> {
    let bind = |address: &SocketAddr| {
        listener(*address).map_err(|source| BindError {
            address: *address,
            source,
        })
    };
    addresses
        .iter()
        .map(bind)
        .collect::<Result<_, _>>()
        .map(Listeners)
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, each named by who wants it.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Listeners {
    /// Takes over listeners that another process has bound.
    pub fn adopt(&mut self, sockets: Vec<std::net::TcpListener>) -> io::Result<()> {
        for socket in sockets {
            socket.set_nonblocking(true)?;
            self.0.push(TcpListener::from_std(socket)?);
        }
        Ok(())
    }

    /// The bare sockets, to serve something else on them.
    pub fn into_inner(self) -> Vec<TcpListener> {
        self.0
    }

    /// The addresses bound, with the real ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }
}

/// Serves until `shutdown` turns true, then drains: no new connections, the requests in flight to
/// their end, at most `drain_timeout` long. Returns how many connections had to be cut.
pub async fn serve(
    listeners: Listeners,
    proxy: Arc<Proxy>,
    server: Settings,
    shutdown: watch::Receiver<bool>,
) -> usize {
    let caps = Arc::new(Caps::new(&server));
    let limits = Arc::new(server);
    let (end, ending) = watch::channel(false);
    // Every connection holds a receiver; when the last one is gone, `cut` is closed.
    let (cut, alive) = watch::channel(false);
    let accepting: Vec<_> = listeners
        .0
        .into_iter()
        .map(|listener| {
            let task = Accepting {
                proxy: Arc::clone(&proxy),
                limits: Arc::clone(&limits),
                caps: Arc::clone(&caps),
                shutdown: shutdown.clone(),
                ending: ending.clone(),
                alive: alive.clone(),
                refused: LogLimit::new(),
            };
            tokio::spawn(task.run(listener))
        })
        .collect();
    drop(alive);
    for task in accepting {
        // The loops end at shutdown, and do not panic.
        let _ended = task.await;
    }
    tokio::time::sleep(ACCEPT_GRACE).await;
    end.send_replace(true);
    // A write goes on when its connection has ended.
    let effects = &proxy.effects;
    let all_ended = async || {
        cut.closed().await;
        effects.ended().await;
    };
    if tokio::time::timeout(limits.drain_timeout, all_ended())
        .await
        .is_ok()
    {
        return 0;
    }
    let late = cut.receiver_count().max(effects.count());
    // Their records are written before the one of the end.
    cut.send_replace(true);
    effects.cut();
    let _gone = tokio::time::timeout(CUT_GRACE, all_ended()).await.is_ok();
    late
}

struct Accepting {
    proxy: Arc<Proxy>,
    limits: Arc<Settings>,
    caps: Arc<Caps>,
    /// The end of accepting.
    shutdown: watch::Receiver<bool>,
    /// The end of what has been accepted.
    ending: watch::Receiver<bool>,
    alive: watch::Receiver<bool>,
    /// Of lines about connections that cannot be accepted.
    refused: LogLimit,
}

impl Accepting {
    async fn run(mut self, listener: TcpListener) {
        while let Some((stream, from)) = self.next(&listener).await {
            let address = from.ip().to_canonical();
            let origin = if is_trusted(address, &self.limits.trusted_proxies) {
                Origin::Balancer
            } else {
                Origin::Client
            };
            let seat = tokio::select! {
                // One that has been accepted is not dropped because a restart has begun.
                biased;
                seat = self.caps.seat(&self.proxy, address, origin) => seat,
                () = asked_to_stop(&mut self.shutdown) => return,
            };
            let Some(seat) = seat else {
                continue;
            };
            let occupant = Arc::clone(seat.occupant());
            let admitted = Admitted {
                stream,
                address,
                origin,
                seat,
                caps: Arc::clone(&self.caps),
                proxy: Arc::clone(&self.proxy),
                limits: Arc::clone(&self.limits),
                stop: Stop {
                    ending: self.ending.clone(),
                    occupant: Arc::clone(&occupant),
                },
            };
            let mut cut = self.alive.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = drive(admitted) => {}
                    () = asked_to_stop(&mut cut) => {}
                    () = occupant.must_leave() => {}
                }
            });
        }
    }

    /// The next connection; `None` at shutdown.
    async fn next(&mut self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                () = asked_to_stop(&mut self.shutdown) => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(connection) => return Some(connection),
                Err(error) if is_one_connection(&error) => {}
                Err(error) => {
                    if let Some(omitted) = self.refused.due() {
                        tracing::warn!(%error, omitted, "cannot accept connections at the moment");
                    }
                    if is_descriptors(&error) {
                        self.caps.room.shrink().await;
                    } else {
                        tokio::time::sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        }
    }
}

/// Errors of `accept` that are about the connection that was waiting, not about us.
fn is_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}

/// Errors of `accept` that another connection's end would help.
fn is_descriptors(error: &io::Error) -> bool {
    let used_up = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|number| used_up.contains(&number))
}
