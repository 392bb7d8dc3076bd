//! Answers as the connection sees them: whether the client reads, and that a request is in progress.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::room::Busy;
use super::stall_watch::Turn;
use crate::proxy::{AnswerBody, Cut};

/// The body of an answer on its way to the client.
pub(super) struct WatchedBody {
    inner: AnswerBody,
    turn: Arc<Turn>,
    /// Held to the end of the body.
    _busy: Busy,
}

impl WatchedBody {
    /// Lets the connection see whether the client reads. The head is the first thing it has to.
    pub(super) fn new(inner: AnswerBody, turn: Arc<Turn>, busy: Busy) -> Self {
        turn.to_client();
        Self {
            inner,
            turn,
            _busy: busy,
        }
    }
}

impl Body for WatchedBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match polled {
            Poll::Pending => self.turn.to_registry(),
            Poll::Ready(_) => self.turn.to_client(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
