//! Request bodies on their way upstream: counted, bounded, and watched for stalls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Sleep;

/// How a client's body can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The client went away, or broke the framing.
    #[error("the client broke off")]
    Gone,
    /// No byte came for too long.
    #[error("the client stalled")]
    Stalled,
    /// More bytes than this call may have.
    #[error("the body is too large")]
    TooLarge,
}

/// How far a body is, shared between the body and whoever waits for the answer.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bytes: Arc<AtomicU64>,
    fault: Arc<AtomicU8>,
}

impl Progress {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What the client did wrong, if it did.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Relaxed) {
            1 => Some(Fault::Gone),
            2 => Some(Fault::Stalled),
            3 => Some(Fault::TooLarge),
            _ => None,
        }
    }

    fn fail(&self, fault: Fault) -> Fault {
        let number = match fault {
            Fault::Gone => 1,
            Fault::Stalled => 2,
            Fault::TooLarge => 3,
        };
        self.fault.store(number, Ordering::Relaxed);
        fault
    }
}

/// A client's body. Trailers are dropped: nothing in them was judged.
#[derive(Debug)]
pub struct ClientBody {
    inner: Incoming,
    progress: Progress,
    left: u64,
    timeout: Duration,
    stall: Option<Pin<Box<Sleep>>>,
}

impl ClientBody {
    /// Wraps a body of at most `limit` bytes; `bytes` counts what was read, `timeout` is the longest
    /// pause.
    pub fn new(inner: Incoming, bytes: Arc<AtomicU64>, limit: u64, timeout: Duration) -> Self {
        let progress = Progress {
            bytes,
            fault: Arc::default(),
        };
        Self {
            inner,
            progress,
            left: limit,
            timeout,
            stall: None,
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let timeout = this.timeout;
            let stall = this
                .stall
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            ready!(stall.as_mut().poll(cx));
            return Poll::Ready(Some(Err(this.progress.fail(Fault::Stalled))));
        };
        this.stall = None;
        let data = match frame {
            None => return Poll::Ready(None),
            Some(Err(_cause)) => return Poll::Ready(Some(Err(this.progress.fail(Fault::Gone)))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => return Poll::Ready(None),
            },
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let Some(left) = this.left.checked_sub(length) else {
            return Poll::Ready(Some(Err(this.progress.fail(Fault::TooLarge))));
        };
        this.left = left;
        this.progress.bytes.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of a request to the registry.
#[derive(Debug)]
pub enum RequestBody {
    /// The client's own.
    Client(ClientBody),
    /// None.
    Empty,
    /// The client's own, read already.
    Whole(Full<Bytes>),
}

impl RequestBody {
    /// The shared view of how far the body is, if that depends on the client.
    pub(super) fn progress(&self) -> Option<Progress> {
        match self {
            Self::Client(body) => Some(body.progress.clone()),
            Self::Empty | Self::Whole(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match &mut *self {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
            Self::Whole(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Empty => true,
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(body) => body.size_hint(),
        }
    }
}
