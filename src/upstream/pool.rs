//! Connections to the registry, kept alive between requests.
//!
//! A connection goes back when the body of its last answer has ended and hyper says it is ready for
//! another; it is taken out only while it still says so.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use pingora_pool::{ConnectionMeta, ConnectionPool};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::{RequestBody, Target};
use crate::config::UpstreamUrl;

/// Idle connections kept at most.
const IDLE: usize = 256;
/// An idle connection older than this is not trusted any more.
const IDLE_TIME: Duration = Duration::from_mins(1);
/// How long a connection may take to become ready after its answer has been read.
const READY_TIME: Duration = Duration::from_secs(5);
/// Bytes read from the registry in one go. Larger pieces make blobs hardly cheaper, and a slow reader
/// holds several of them.
const BUFFER: usize = 64 * 1024;

type Sender = SendRequest<RequestBody>;

/// The idle connections. One for the life of the process.
pub struct Pool {
    idle: ConnectionPool<(Sender, ConnectionMeta, Instant)>,
    next: AtomicI32,
}

/// A connection taken out of the pool, or new.
pub struct Lease {
    sender: Sender,
    meta: ConnectionMeta,
    pool: Arc<Pool>,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle: ConnectionPool::new(IDLE),
            next: AtomicI32::new(0),
        }
    }
}

impl Pool {
    /// A connection that is ready, if one is idle.
    pub(super) fn get(self: &Arc<Self>, key: u64) -> Option<Lease> {
        while let Some((sender, meta, since)) = self.idle.get(&key) {
            if sender.is_ready() && since.elapsed() < IDLE_TIME {
                return Some(Lease {
                    sender,
                    meta,
                    pool: Arc::clone(self),
                });
            }
        }
        None
    }
}

impl Lease {
    /// Sends a request.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Gives the connection back after an answer has been read to its end.
    pub fn give_back(self) {
        if self.sender.is_ready() {
            self.put();
        } else if !self.sender.is_closed() {
            // The answer came before the request was through: it may be ready in a moment.
            tokio::spawn(async move {
                let mut lease = self;
                let ready = tokio::time::timeout(READY_TIME, lease.sender.ready()).await;
                if matches!(ready, Ok(Ok(()))) {
                    lease.put();
                }
            });
        }
    }

    fn put(self) {
        let Self { sender, meta, pool } = self;
        let kept = (sender, meta.clone(), Instant::now());
        // Both notifications are for watcher tasks, which `connect` makes unnecessary.
        let _watchers = pool.idle.put(&meta, kept);
    }
}

/// Connections to the same place share a key.
pub(super) fn key(url: &UpstreamUrl, ca: Option<&Path>) -> u64 {
    let mut hasher = DefaultHasher::new();
    url.hash(&mut hasher);
    ca.hash(&mut hasher);
    hasher.finish()
}

/// Opens a connection and starts driving it.
pub(super) async fn connect(target: &Target, pool: &Arc<Pool>, key: u64) -> io::Result<Lease> {
    let stream = dial(target).await?;
    let (sender, connection) = Builder::new()
        .max_buf_size(BUFFER)
        .max_headers(128)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let meta = ConnectionMeta::new(key, pool.next.fetch_add(1, Ordering::Relaxed));
    let (ended, in_pool) = (meta.clone(), Arc::clone(pool));
    tokio::spawn(async move {
        // How a connection ended is told to whoever waits for its answer.
        let _ended = connection.await;
        in_pool.idle.pop_closed(&ended);
    });
    Ok(Lease {
        sender,
        meta,
        pool: Arc::clone(pool),
    })
}

async fn dial(target: &Target) -> io::Result<Stream> {
    match target {
        Target::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Target::Tcp { host, port, tls } => {
            let tcp = TcpStream::connect((&**host, *port)).await?;
            tcp.set_nodelay(true)?;
            let Some(tls) = tls else {
                return Ok(Stream::Tcp(tcp));
            };
            let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
            tls.connect(name, tcp)
                .await
                .map(|stream| Stream::Tls(Box::new(stream)))
        }
    }
}

/// The transports to a registry.
enum Stream {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// Hands a call to whichever transport it is.
macro_rules! each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }
}
