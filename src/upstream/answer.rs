//! Bodies of the registry's answers, each with the connection that it comes on.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::pool::Lease;

/// The body of an answer. At its end the connection goes back to the pool; dropped before, it closes
/// the connection.
pub struct Incoming {
    inner: hyper::body::Incoming,
    lease: Option<Lease>,
    limit: Duration,
    is_awaited: bool,
}

/// An answer that has not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// The connection broke.
    #[error("the registry broke off in the middle of an answer")]
    Broken,
    /// Nothing came for too long.
    #[error("the registry stalled in the middle of an answer")]
    Stalled,
}

impl Incoming {
    /// `limit` is the longest pause.
    pub(super) fn new(inner: hyper::body::Incoming, lease: Lease, limit: Duration) -> Self {
        Self {
            inner,
            lease: Some(lease),
            limit,
            is_awaited: false,
        }
    }

    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// The next piece of the body, if there is one without waiting for the registry.
    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        let Some(lease) = self.lease.as_mut().filter(|_| frame.is_pending()) else {
            return frame;
        };
        lease.drive(cx);
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(lease) = &mut self.lease else {
            return Poll::Pending;
        };
        if !self.is_awaited {
            self.is_awaited = true;
            lease.put_off(self.limit);
        }
        lease.poll_stalled(cx)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.finish();
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.poll_inner(cx) else {
            return this.poll_stalled(cx).map(|()| Some(Err(Cut::Stalled)));
        };
        this.is_awaited = false;
        match frame {
            Some(Ok(frame)) if frame.is_data() => return Poll::Ready(Some(Ok(frame))),
            Some(Err(_cause)) => return Poll::Ready(Some(Err(Cut::Broken))),
            // Trailers are not passed on: nothing in them was judged.
            Some(Ok(_)) | None => {}
        }
        this.finish();
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
