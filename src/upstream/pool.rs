//! Connections to the registry, kept alive between requests.
//!
//! A connection is driven by whoever has it, in the task that serves the client: what one reads the
//! other writes on the same processor, and no task waits for another to be woken. An idle one is
//! driven by nobody; before it is used again it is asked once whether it is still good.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::future::poll_fn;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, Sleep};

use super::body::{Progress, RequestBody};
use super::head::{Expects, Watched};
use super::settings::UpstreamUrl;

/// Idle connections kept at most.
const IDLE: usize = 256;
/// An idle connection older than this is not trusted any more.
const IDLE_TIME: Duration = Duration::from_mins(1);
/// How long a connection may take to become ready after its answer has been read.
const READY_TIME: Duration = Duration::from_secs(5);
/// Bytes read from the registry in one go. Larger pieces make blobs hardly cheaper, and a slow reader
/// holds several of them.
const BUFFER: usize = 64 * 1024;

/// The idle connections, by where they lead to. One for the life of the process.
#[derive(Default)]
pub struct Pool(Mutex<Held>);

#[derive(Default)]
struct Held {
    idle: HashMap<u64, Vec<Idle>>,
    /// The only connections to keep: those of the configuration in force.
    current: Option<u64>,
}

struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// A connection in use. Dropping it closes it.
pub(super) struct Lease {
    link: Box<Link>,
    key: u64,
    pool: Arc<Pool>,
}

/// A connection and what goes on with it.
struct Link {
    sender: SendRequest<RequestBody>,
    connection: Connection<TokioIo<Watched<Stream>>, RequestBody>,
    expects: Expects,
    has_ended: bool,
    /// One for all its requests: to put a timer off is much cheaper than to make another.
    timer: Pin<Box<Sleep>>,
}

/// The way to the registry.
pub(super) enum Target {
    Tcp {
        host: Box<str>,
        port: u16,
        tls: Option<Arc<ClientConfig>>,
    },
    Unix(PathBuf),
}

/// How long a request may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// The longest pause in which the registry takes nothing of the body.
    pub(super) progress: Duration,
    /// From the last byte of the request to the first of the answer.
    pub(super) answer: Duration,
}

/// Why there is no answer.
pub(super) enum Failure {
    /// The connection broke; the request is in it if nothing was sent.
    Broken(Box<TrySendError<Request<RequestBody>>>),
    /// Nothing went on for too long.
    Stalled,
}

impl Pool {
    /// A connection that is ready, if one is idle; of several the one used last.
    pub(super) fn get(self: &Arc<Self>, key: u64) -> Option<Lease> {
        loop {
            let Idle { mut link, since } = self.0.lock().idle.get_mut(&key)?.pop()?;
            if since.elapsed() < IDLE_TIME && link.is_ready() {
                let pool = Arc::clone(self);
                return Some(Lease { link, key, pool });
            }
        }
    }

    /// Keeps a connection, and closes those that nobody has needed for too long.
    fn put(&self, key: u64, link: Box<Link>) {
        let since = Instant::now();
        let mut held = self.0.lock();
        if held.current.is_some_and(|current| current != key) {
            return;
        }
        let idle = held.idle.entry(key).or_default();
        let old = idle.partition_point(|one| since.duration_since(one.since) >= IDLE_TIME);
        let closed: Vec<_> = idle.drain(..old).collect();
        if idle.len() < IDLE {
            idle.push(Idle { link, since });
        }
        drop(held);
        drop(closed);
    }

    /// Closes the connections that lead elsewhere, or were verified by other authorities, and those
    /// in use at the end of their request.
    pub(super) fn keep_only(&self, key: u64) {
        let mut held = self.0.lock();
        held.current = Some(key);
        let kept = held.idle.remove(&key).unwrap_or_default();
        let closed = std::mem::replace(&mut held.idle, HashMap::from([(key, kept)]));
        drop(held);
        drop(closed);
    }
}

impl Lease {
    /// Sends a request and waits for the head of its answer. It fails when for a whole
    /// `limits.progress` the body has made none, because the registry has stopped reading, and when
    /// `limits.answer` after its last byte there is no answer.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        limits: Limits,
    ) -> Result<Response<Incoming>, Failure> {
        let mut is_whole = request.body().is_end_stream();
        let progress = request.body().progress();
        let sent_so_far = || progress.as_ref().map_or(0, Progress::bytes);
        let link = &mut *self.link;
        link.expects.head();
        let mut answer = pin!(link.sender.try_send_request(request));
        let mut before = sent_so_far();
        link.put_off(if is_whole {
            limits.answer
        } else {
            limits.progress
        });
        poll_fn(|cx| {
            link.drive(cx);
            if !is_whole && progress.as_ref().is_none_or(Progress::is_whole) {
                is_whole = true;
                link.put_off(limits.answer);
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|error| Failure::Broken(Box::new(error))));
            }
            loop {
                ready!(link.timer.as_mut().poll(cx));
                if is_whole || sent_so_far() == before {
                    return Poll::Ready(Err(Failure::Stalled));
                }
                before = sent_so_far();
                link.put_off(limits.progress);
            }
        })
        .await
    }

    /// Lets the connection do what it can.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) {
        self.link.drive(cx);
    }

    /// Starts the time anew in which something has to happen.
    pub(super) fn put_off(&mut self, limit: Duration) {
        self.link.put_off(limit);
    }

    /// Ends when that time is over.
    pub(super) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.timer.as_mut().poll(cx)
    }

    /// Gives the connection back after an answer has been read to its end.
    pub(super) fn give_back(mut self) {
        if self.link.is_ready() {
            self.put();
        } else if !self.link.has_ended {
            // The answer came before the request was through: it may be ready in a moment.
            tokio::spawn(async move {
                let ready = poll_fn(|cx| {
                    self.link.drive(cx);
                    self.link.sender.poll_ready(cx)
                });
                if matches!(tokio::time::timeout(READY_TIME, ready).await, Ok(Ok(()))) {
                    self.put();
                }
            });
        }
    }

    fn put(self) {
        let Self { link, key, pool } = self;
        pool.put(key, link);
    }
}

impl Link {
    fn drive(&mut self, cx: &mut Context<'_>) {
        // How it ended is told to whoever waits for the answer.
        self.has_ended = self.has_ended || Pin::new(&mut self.connection).poll(cx).is_ready();
    }

    /// Whether another request can be sent; not if the registry has closed the connection, or has
    /// sent what nobody asked for.
    fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        !self.has_ended && self.sender.is_ready()
    }

    fn put_off(&mut self, limit: Duration) {
        let now = Instant::now();
        let end = now.checked_add(limit).unwrap_or(now);
        self.timer.as_mut().reset(end);
    }
}

/// Connections to the same place, whose certificate was checked by the same authorities, share a key.
pub(super) fn key(url: &UpstreamUrl, roots: Option<u64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (url, roots).hash(&mut hasher);
    hasher.finish()
}

/// Opens a connection.
pub(super) async fn connect(target: &Target, pool: &Arc<Pool>, key: u64) -> io::Result<Lease> {
    let (stream, expects) = Watched::new(dial(target).await?);
    let (sender, connection) = Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let link = Link {
        sender,
        connection,
        expects,
        has_ended: false,
        timer: Box::pin(tokio::time::sleep(IDLE_TIME)),
    };
    Ok(Lease {
        link: Box::new(link),
        key,
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
            let stream = crate::tls::secure(tls, host, tcp).await?;
            Ok(Stream::Tls(Box::new(stream)))
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
