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
use crate::upstream::Lease;

/// An answer's body.
pub(super) enum AnswerBody {
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
    turn: Option<Arc<Turn>>,
    end: Option<(Lease, Record)>,
    timeout: Duration,
    stall: Option<Pin<Box<Sleep>>>,
}

impl AnswerBody {
    /// A body known as a whole.
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()))
    }

    /// A body from the registry. `timeout` is its longest pause, `turn` where the connection sees
    /// whether the client reads.
    pub(super) fn stream(
        inner: Incoming,
        lease: Lease,
        record: Record,
        timeout: Duration,
        turn: Option<Arc<Turn>>,
    ) -> Self {
        let mut tail = Tail {
            turn,
            inner,
            end: Some((lease, record)),
            timeout,
            stall: None,
        };
        if tail.inner.is_end_stream() {
            tail.finish();
            return Self::Full(None);
        }
        Self::Stream(Box::new(tail))
    }
}

impl Tail {
    fn finish(&mut self) {
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
            if let Some(turn) = &this.turn {
                turn.to_registry();
            }
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
                    if let Some(turn) = &this.turn {
                        turn.to_client();
                    }
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
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(tail) => Pin::new(&mut **tail).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Stream(tail) => tail.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Self::Stream(tail) => tail.size_hint(),
        }
    }
}
