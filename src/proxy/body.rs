//! Answer bodies. The end of a streamed body is the end of its request: there the audit record is
//! closed; if the client leaves before, `Drop` closes it otherwise.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::audit::{Outcome, Record};
use crate::limit::Running;
use crate::upstream::{Cut, Incoming};

/// An answer's body.
pub(crate) struct AnswerBody(Content);

enum Content {
    /// Known as a whole.
    Full(Option<Bytes>),
    /// On its way from the registry.
    Stream(Box<Tail>),
}

/// A body from the registry and what happens at its end.
pub(super) struct Tail {
    inner: Incoming,
    /// Until the end has come.
    completion: Option<Completion>,
    /// How it was cut short, until that has been told.
    cut: Option<Cut>,
}

/// What the end of a request waits for while its body is on its way.
pub(super) struct Completion {
    pub(super) record: Record,
    /// The place among the requests of its source.
    pub(super) running: Running,
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

    /// A body from the registry.
    pub(super) fn stream(inner: Incoming, completion: Completion) -> Self {
        if inner.is_end_stream() {
            completion.close();
            return Self::empty();
        }
        let tail = Tail {
            inner,
            completion: Some(completion),
            cut: None,
        };
        Content::Stream(Box::new(tail)).into()
    }

    /// The length of a body that is known as a whole.
    pub(super) fn known_length(&self) -> Option<usize> {
        match &self.0 {
            Content::Full(bytes) => bytes.as_ref().map(Bytes::len),
            Content::Stream(_) => None,
        }
    }

    /// A body that is known as a whole.
    pub(super) fn into_known(self) -> Bytes {
        match self.0 {
            Content::Full(bytes) => bytes.unwrap_or_default(),
            Content::Stream(_) => Bytes::new(),
        }
    }

    /// The body of an answer to HEAD: what is known is not sent, what comes from the registry is
    /// nothing.
    pub(super) fn withheld(self) -> Self {
        match self.0 {
            Content::Full(_) => Self::empty(),
            Content::Stream(_) => self,
        }
    }
}

impl From<Content> for AnswerBody {
    fn from(content: Content) -> Self {
        Self(content)
    }
}

impl Completion {
    /// Gives the place back, then closes the record.
    fn close(self) {
        drop(self.running);
        self.record.close();
    }

    fn cut(mut self, how: Cut) {
        self.record.outcome(Outcome::Error);
        self.record.reason(&how.to_string());
        self.close();
    }

    fn abort(mut self) {
        self.record.outcome(Outcome::Aborted);
        self.close();
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        match self.completion.take() {
            Some(completion) if self.inner.is_end_stream() => completion.close(),
            Some(completion) => completion.abort(),
            None => {}
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
        if let Some(cut) = this.cut.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                if let Some(Completion { record, .. }) = &mut this.completion {
                    record.add_bytes_out(u64::try_from(length).unwrap_or(u64::MAX));
                }
            }
            Some(Err(how)) => {
                if let Some(completion) = this.completion.take() {
                    completion.cut(*how);
                }
                // A cut body never ends as if it were whole: the client's answer breaks off as well.
                // That ends the connection with what has not been sent yet: first the client is to
                // have everything that came before.
                this.cut = Some(*how);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                if let Some(completion) = this.completion.take() {
                    completion.close();
                }
            }
        }
        Poll::Ready(frame)
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
        match &mut self.0 {
            Content::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Stream(tail) => Pin::new(&mut **tail).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Content::Full(bytes) => bytes.is_none(),
            Content::Stream(tail) => tail.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Content::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Content::Stream(tail) => tail.size_hint(),
        }
    }
}
