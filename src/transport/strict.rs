//! A stream between TLS and hyper that lets nothing through but whole and good heads, and bodies as
//! far as they are framed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::framing::{Fed, Framing};
use crate::request::{Asked, BadHead};

/// A stream of HTTP/1.1 requests with [`Framing`] watching what is read from it. A head that has
/// begun must end in time; between requests a connection may be idle for as long as hyper lets it.
pub(super) struct Strict<S> {
    inner: S,
    framing: Framing,
    fault: Option<BadHead>,
    head_limit: Duration,
    head_ends: Option<Pin<Box<Sleep>>>,
    /// What is not handed over yet: a head that is not whole, and before it so many bytes that have
    /// become good since.
    held: Vec<u8>,
    good: usize,
    /// The first byte of the next request, taken by [`Strict::next`].
    first: Option<u8>,
    waiting: bool,
    unflushed: bool,
    watch: Arc<Watch>,
}

/// What can be seen of a stream by the task that has lent it away.
#[derive(Debug, Default)]
pub(super) struct Watch {
    quiet: AtomicBool,
    stuck: AtomicBool,
}

impl Watch {
    /// Whether the task that uses the stream awaits the first byte of a request, and has nothing left to
    /// write.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Whether no request will come any more but what came instead of one, and nothing is left to
    /// write.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }
}

impl<S> Strict<S> {
    pub(super) fn new(inner: S, head_limit: Duration) -> Self {
        Self {
            inner,
            framing: Framing::default(),
            fault: None,
            head_limit,
            head_ends: None,
            held: Vec::new(),
            good: 0,
            first: None,
            waiting: false,
            unflushed: false,
            watch: Arc::default(),
        }
    }

    /// What can be seen of it from outside.
    pub(super) fn watch(&self) -> Arc<Watch> {
        Arc::clone(&self.watch)
    }

    /// What is wrong with the head that came last, what it asks for, and as much of it as was read and
    /// good.
    pub(super) fn bad_head(&self) -> Option<(BadHead, Asked, &[u8])> {
        let fault = self.fault.filter(|_| self.framing.awaits_head())?;
        Some((fault, self.framing.asked(), &self.held))
    }

    fn note(&self) {
        let at_rest = self.waiting && !self.unflushed;
        let quiet = at_rest && self.framing.is_between();
        let stuck = at_rest && self.fault.is_some();
        self.watch.quiet.store(quiet, Ordering::Relaxed);
        self.watch.stuck.store(stuck, Ordering::Relaxed);
    }

    /// Whether the client has something left to send, as far as can be seen from what was read.
    pub(super) fn is_unfinished(&self) -> bool {
        self.fault.is_some() || !self.framing.is_between()
    }

    /// What is watched.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    /// Nothing more will be read. A body breaks off; instead of a head nothing ever comes, and the task
    /// that watches takes the stream back.
    fn stop(&mut self) -> Poll<io::Result<()>> {
        if !self.framing.awaits_head() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.waiting = true;
        self.note();
        Poll::Pending
    }

    /// Runs the head's timer while more of it is awaited.
    fn awaiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.framing.in_head() {
            self.head_ends = None;
            return Poll::Pending;
        }
        let limit = self.head_limit;
        let ends = self
            .head_ends
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if ends.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        if !self.framing.mid_head() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.fault = Some(BadHead::Late);
        self.stop()
    }

    /// Hands over what was held back and is good by now.
    fn release(&mut self, buf: &mut ReadBuf<'_>) {
        let taken = self.good.min(buf.remaining());
        buf.put_slice(self.held.get(..taken).unwrap_or_default());
        self.good = self.good.saturating_sub(taken);
        self.held.drain(..taken);
        if self.held.is_empty() {
            // An idle connection keeps nothing.
            self.held = Vec::new();
        }
    }

    /// Looks at what was read behind the first `before` bytes, and leaves there what may be seen.
    fn inspect(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let new = buf.filled().get(before..).unwrap_or_default();
        let Fed { whole, fine, fault } = self.framing.feed(new);
        self.fault = fault;
        if self.held.is_empty() {
            let rest = new.get(whole..fine).unwrap_or_default();
            self.held.extend_from_slice(rest);
            buf.set_filled(before.saturating_add(whole));
        } else {
            self.held
                .extend_from_slice(new.get(..fine).unwrap_or_default());
            if whole > 0 {
                let withheld = fine.saturating_sub(whole);
                self.good = self.held.len().saturating_sub(withheld);
            }
            buf.set_filled(before);
            self.release(buf);
        }
        if !self.framing.in_head() {
            self.head_ends = None;
        }
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Waits for the first byte of the next request; `false` at the end of the stream.
    pub(super) async fn next(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        let read = self.inner.read(&mut byte).await?;
        self.first = byte.first().copied().filter(|_| read > 0);
        Ok(read > 0)
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(first) = self.first.take() {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        this.release(buf);
        // Nothing read would mean the end of the stream, so it goes on until there is something.
        while buf.filled().len() == before && buf.remaining() > 0 {
            if this.fault.is_some() {
                return this.stop();
            }
            let polled = this.poll_inner(cx, buf);
            this.waiting = polled.is_pending();
            this.note();
            match polled {
                Poll::Pending => return this.awaiting(cx),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if buf.filled().len() == before => break,
                Poll::Ready(Ok(())) => this.inspect(buf, before),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        self.note();
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_ready() && self.unflushed {
            self.unflushed = false;
            self.note();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        self.note();
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
