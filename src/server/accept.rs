//! Listening and accepting: who gets a connection at all, and how the server ends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pingora_limits::inflight::{Guard, Inflight};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::connection::{Admitted, drive};
use super::forwarded::is_trusted;
use super::respond::Proxy;
use crate::config;
use crate::limit::Source;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 4096;
/// Pause after `accept` failed for want of descriptors or memory.
const BREATH: Duration = Duration::from_millis(50);

/// It is told of no more often than this: it may go on for long.
const SILENCE: Duration = Duration::from_secs(10);

/// How long a connection that was accepted at the last moment has for its handshake and the head of
/// its first request: its client has been let in, and a restart is no reason to send it away.
const FIRST_WORDS: Duration = Duration::from_millis(500);
/// How long connections that are cut at the end of a drain may take to be gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    /// Takes listeners over that somebody else has bound.
    pub fn adopt(&mut self, sockets: Vec<std::net::TcpListener>) -> io::Result<()> {
        for socket in sockets {
            socket.set_nonblocking(true)?;
            self.0.push(TcpListener::from_std(socket)?);
        }
        Ok(())
    }

    /// The bare sockets, for whoever serves something else on them.
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

/// Caps on connections: over all, and for one source.
pub(super) struct Caps {
    all: Arc<Semaphore>,
    sources: Inflight,
    per_source: isize,
    /// When it was told last that a trusted proxy writes no PROXY header.
    unannounced: Mutex<Option<Instant>>,
}

/// A connection's place among those of its source, given back on drop.
pub(super) struct Place(#[expect(dead_code, reason = "held for its Drop")] Guard);

impl Caps {
    /// A place, unless its source has too many already, or makes new ones too fast.
    pub(super) fn admit(&self, proxy: &Proxy, address: IpAddr) -> Option<Place> {
        let source = Source::of(address);
        let (rates, ledger) = (proxy.rules().rates, proxy.ledger());
        let now = ledger.now();
        if ledger.shield.connection(source, rates, now).is_err() {
            tracing::debug!(%address, "too many new connections from one source");
            return None;
        }
        let (place, count) = self.sources.incr(source, 1);
        if count > self.per_source {
            tracing::debug!(%address, "too many connections from one source");
            return None;
        }
        Some(Place(place))
    }

    /// Tells the operator that a trusted proxy does not write the header that it has to.
    pub(super) fn tell_unannounced(&self, address: IpAddr) {
        let mut told = self
            .unannounced
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if is_due(&mut told) {
            tracing::warn!(
                %address,
                "a connection from a trusted proxy did not begin with a PROXY header, as \
                 `server.proxy_protocol` requires, and was closed"
            );
        }
    }
}

/// Whether it is time to tell something again that may go on for long.
fn is_due(told: &mut Option<Instant>) -> bool {
    let now = Instant::now();
    let due = told.is_none_or(|told| now.duration_since(told) > SILENCE);
    if due {
        *told = Some(now);
    }
    due
}

/// Serves until `shutdown` turns true, then drains: no new connections, the requests in flight to
/// their end, at most `drain_timeout` long. Returns how many connections had to be cut.
pub async fn serve(
    listeners: Listeners,
    proxy: Arc<Proxy>,
    server: config::Server,
    shutdown: watch::Receiver<bool>,
) -> usize {
    let caps = Arc::new(Caps {
        all: Arc::new(Semaphore::new(server.max_connections)),
        sources: Inflight::new(),
        per_source: isize::try_from(server.max_connections_per_source).unwrap_or(isize::MAX),
        unannounced: Mutex::default(),
    });
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
                told: None,
            };
            tokio::spawn(task.run(listener))
        })
        .collect();
    drop(alive);
    for task in accepting {
        // The loops end at shutdown, and do not panic.
        let _ended = task.await;
    }
    tokio::time::sleep(FIRST_WORDS).await;
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
    let _gone = tokio::time::timeout(LAST_WORDS, all_ended()).await.is_ok();
    late
}

struct Accepting {
    proxy: Arc<Proxy>,
    limits: Arc<config::Server>,
    caps: Arc<Caps>,
    /// The end of accepting.
    shutdown: watch::Receiver<bool>,
    /// The end of what has been accepted.
    ending: watch::Receiver<bool>,
    alive: watch::Receiver<bool>,
    /// When it was told last that connections cannot be accepted.
    told: Option<Instant>,
}

impl Accepting {
    async fn run(mut self, listener: TcpListener) {
        while let Some((all, stream, from)) = self.next(&listener).await {
            let address = from.ip().to_canonical();
            // A trusted proxy has many clients; their places are taken once they are known.
            let place = if is_trusted(address, &self.limits.trusted_proxies) {
                None
            } else {
                let Some(place) = self.caps.admit(&self.proxy, address) else {
                    continue;
                };
                Some(place)
            };
            let admitted = Admitted {
                stream,
                address,
                place,
                caps: Arc::clone(&self.caps),
                _all: all,
                proxy: Arc::clone(&self.proxy),
                limits: Arc::clone(&self.limits),
                shutdown: self.ending.clone(),
            };
            let mut cut = self.alive.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = drive(admitted) => {}
                    () = asked_to_stop(&mut cut) => {}
                }
            });
        }
    }

    /// The next connection, as soon as there is a place for it; `None` at shutdown.
    async fn next(
        &mut self,
        listener: &TcpListener,
    ) -> Option<(OwnedSemaphorePermit, TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                () = asked_to_stop(&mut self.shutdown) => return None,
                accepted = async {
                    let place = Arc::clone(&self.caps.all).acquire_owned().await;
                    listener.accept().await.map(|connection| (place, connection))
                } => accepted,
            };
            match accepted {
                Ok((Ok(place), (stream, from))) => return Some((place, stream, from)),
                Ok((Err(_closed), _)) => return None,
                Err(error) if is_one_connection(&error) => {}
                Err(error) => {
                    if is_due(&mut self.told) {
                        tracing::warn!(%error, "cannot accept connections at the moment");
                    }
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    }
}

/// Ends when the server has been asked to stop.
pub(super) async fn asked_to_stop(shutdown: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could ask; that is an end as well.
    let _asked = shutdown.wait_for(|asked| *asked).await.is_ok();
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
