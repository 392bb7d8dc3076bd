//! Request bodies on their way upstream: counted, bounded, and watched for stalls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
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
    /// No fault of the client: what it sends would be done without a record.
    #[error("the audit trail had no room for what the body does")]
    Unrecorded,
}

/// What has to happen when the last byte of a body has arrived, before it goes upstream. Where it comes
/// to nothing (`false`), that byte never goes.
pub type Clearance = Pin<Box<dyn Future<Output = bool> + Send>>;

/// How far a body is, shared between the body and whoever waits for the answer.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    bytes: Arc<AtomicU64>,
    fault: Arc<AtomicU8>,
    is_whole: Arc<AtomicBool>,
}

impl Progress {
    /// Returns true once the last byte has gone upstream.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What the client did wrong, if it did.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self.fault.load(Ordering::Relaxed) {
            1 => Some(Fault::Gone),
            2 => Some(Fault::Stalled),
            3 => Some(Fault::TooLarge),
            4 => Some(Fault::Unrecorded),
            _ => None,
        }
    }

    fn fail(&self, fault: Fault) -> Fault {
        let number = match fault {
            Fault::Gone => 1,
            Fault::Stalled => 2,
            Fault::TooLarge => 3,
            Fault::Unrecorded => 4,
        };
        self.fault.store(number, Ordering::Relaxed);
        fault
    }
}

/// A client's body. Trailers are dropped: nothing in them was judged.
pub struct ClientBody {
    inner: Incoming,
    progress: Progress,
    left: u64,
    timeout: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    clearance: Option<Clearance>,
    /// Whether each piece waits until it is known whether it is the last one.
    holds_back: bool,
    held: Option<Bytes>,
    has_arrived: bool,
}

impl std::fmt::Debug for ClientBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBody")
            .field("progress", &self.progress)
            .finish_non_exhaustive()
    }
}

impl ClientBody {
    /// Wraps a body of at most `limit` bytes; `bytes` counts what was read, `timeout` is the longest
    /// pause.
    pub fn new(inner: Incoming, bytes: Arc<AtomicU64>, limit: u64, timeout: Duration) -> Self {
        let progress = Progress {
            bytes,
            fault: Arc::default(),
            is_whole: Arc::default(),
        };
        let has_arrived = inner.is_end_stream();
        Self {
            inner,
            progress,
            left: limit,
            timeout,
            stall: None,
            clearance: None,
            holds_back: false,
            held: None,
            has_arrived,
        }
    }

    /// The same with something to happen when its last byte has arrived; before that byte goes on if
    /// it `holds_back`.
    #[must_use]
    pub fn cleared_by(self, clearance: Clearance, holds_back: bool) -> Self {
        Self {
            clearance: Some(clearance),
            holds_back,
            ..self
        }
    }

    /// The next piece that the client has sent.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            let timeout = self.timeout;
            let stall = self
                .stall
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            ready!(stall.as_mut().poll(cx));
            return Poll::Ready(Some(Err(self.progress.fail(Fault::Stalled))));
        };
        self.stall = None;
        let data = match frame {
            None => return Poll::Ready(None),
            Some(Err(_cause)) => return Poll::Ready(Some(Err(self.progress.fail(Fault::Gone)))),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(_trailers) => return Poll::Ready(None),
            },
        };
        let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(length) else {
            return Poll::Ready(Some(Err(self.progress.fail(Fault::TooLarge))));
        };
        self.left = left;
        self.progress.bytes.fetch_add(length, Ordering::Relaxed);
        Poll::Ready(Some(Ok(data)))
    }

    /// What is left when the last byte has arrived.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if let Some(clearance) = &mut self.clearance {
            let is_cleared = ready!(clearance.as_mut().poll(cx));
            self.clearance = None;
            if !is_cleared {
                self.held = None;
                return Poll::Ready(Some(Err(self.progress.fail(Fault::Unrecorded))));
            }
        }
        self.progress.is_whole.store(true, Ordering::Relaxed);
        Poll::Ready(self.held.take().map(Ok))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            if self.has_arrived {
                return self.poll_last(cx);
            }
            let data = match ready!(self.poll_inner(cx)) {
                None => {
                    self.has_arrived = true;
                    continue;
                }
                Some(Ok(data)) => data,
                Some(Err(fault)) => return Poll::Ready(Some(Err(fault))),
            };
            self.has_arrived = self.inner.is_end_stream();
            if !self.has_arrived && !self.holds_back {
                return Poll::Ready(Some(Ok(data)));
            }
            if let Some(before) = self.held.replace(data) {
                return Poll::Ready(Some(Ok(before)));
            }
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
        let data = ready!(self.poll_data(cx));
        Poll::Ready(data.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_arrived && self.held.is_none() && self.clearance.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.as_ref().map_or(0, Bytes::len);
        let held = u64::try_from(held).unwrap_or(u64::MAX);
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(held));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(held));
        }
        hint
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
