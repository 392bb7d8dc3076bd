//! Answer bodies. The end of a streamed body is the end of its request: there the connection goes
//! back to the pool and the audit record is closed; if the client leaves before, `Drop` does both
//! otherwise.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::readers::Turn;
use crate::audit::{Outcome, Record};
use crate::limit::Running;
use crate::upstream::Lease;

/// An answer's body.
pub(super) struct AnswerBody {
    content: Content,
    /// Where the connection sees that it is busy, and whether the client reads.
    turn: Option<Arc<Turn>>,
}

enum Content {
    /// Known as a whole.
    Full(Option<Bytes>),
    /// On its way from the registry.
    Stream(Box<Tail>),
}

/// The registry broke off, so the client's answer must break off too: never end a cut body as if it
/// were whole.
#[derive(Debug, thiserror::Error)]
#[error("the registry broke off in the middle of an answer")]
pub(super) struct Cut;

/// A body from the registry and what hangs on its end.
pub(super) struct Tail {
    inner: Incoming,
    end: Option<(Lease, Record)>,
    timeout: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    running: Option<Running>,
}

impl AnswerBody {
    /// A body known as a whole.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Content::Full(Some(bytes.into())).into()
    }

    /// No body.
    pub(super) fn empty() -> Self {
        Content::Full(None).into()
    }

    /// A body from the registry; `timeout` is its longest pause.
    pub(super) fn stream(inner: Incoming, lease: Lease, record: Record, timeout: Duration) -> Self {
        let mut tail = Tail {
            inner,
            end: Some((lease, record)),
            timeout,
            stall: None,
            running: None,
        };
        if tail.inner.is_end_stream() {
            tail.finish();
            return Self::empty();
        }
        Content::Stream(Box::new(tail)).into()
    }

    /// The length of a body that is known as a whole.
    pub(super) fn known_length(&self) -> Option<usize> {
        match &self.content {
            Content::Full(bytes) => bytes.as_ref().map(Bytes::len),
            Content::Stream(_) => None,
        }
    }

    /// The body of an answer to HEAD: what is known is not sent, what comes from the registry is
    /// nothing.
    pub(super) fn withheld(self) -> Self {
        match self.content {
            Content::Full(_) => Self::empty(),
            Content::Stream(_) => self,
        }
    }

    /// Keeps a place among the requests of its source until the end of the body.
    pub(super) fn hold(&mut self, running: Running) {
        match &mut self.content {
            Content::Full(_) => drop(running),
            Content::Stream(tail) => tail.running = Some(running),
        }
    }

    /// Lets the connection see whether the client reads. The head is the first thing it has to.
    pub(super) fn watch(&mut self, turn: Arc<Turn>) {
        turn.to_client();
        self.turn = Some(turn);
    }
}

impl From<Content> for AnswerBody {
    fn from(content: Content) -> Self {
        Self {
            content,
            turn: None,
        }
    }
}

impl Tail {
    fn finish(&mut self) {
        self.running = None;
        if let Some((lease, record)) = self.end.take() {
            lease.give_back();
            record.close();
        }
    }

    fn cut(&mut self, why: &str) {
        if let Some((_closed, mut record)) = self.end.take() {
            record.cut(Outcome::Error);
            record.reason(why);
            record.close();
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.finish();
        } else if let Some((_closed, mut record)) = self.end.take() {
            record.cut(Outcome::Aborted);
            record.close();
        }
    }
}

impl Body for Tail {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            let timeout = this.timeout;
            let stall = this
                .stall
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
            ready!(stall.as_mut().poll(cx));
            this.cut("the registry stalled in the middle of an answer");
            return Poll::Ready(Some(Err(Cut)));
        };
        this.stall = None;
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if let Some((_, record)) = &mut this.end {
                        record.add_bytes_out(u64::try_from(data.len()).unwrap_or(u64::MAX));
                    }
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(_trailers) => {
                    this.finish();
                    Poll::Ready(None)
                }
            },
            Some(Err(_cause)) => {
                this.cut("the registry broke off in the middle of an answer");
                Poll::Ready(Some(Err(Cut)))
            }
            None => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let polled = match &mut this.content {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Stream(tail) => Pin::new(&mut **tail).poll_frame(cx),
        };
        if let Some(turn) = &this.turn {
            match polled {
                Poll::Pending => turn.to_registry(),
                Poll::Ready(_) => turn.to_client(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Full(bytes) => bytes.is_none(),
            Content::Stream(tail) => tail.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Content::Stream(tail) => tail.size_hint(),
        }
    }
}
