//! HTTP/1.1 framing, watched as it comes in (RFC 9112 sections 2.2, 6 and 7.1).
//!
//! hyper reads leniently where the specification lets it: equal `Content-Length` lines become one,
//! `Transfer-Encoding` beside `Content-Length` wins, a bare LF ends a line. Requests go upstream
//! framed anew, so none of this reaches the registry; but a client that frames so is confused or
//! lying, and is refused. [`Framing`] is pure; [`Strict`] puts it between TLS and hyper, and turns
//! the first violation in a head into bytes that hyper refuses as well, with 400 and the end of the
//! connection, and one in a body into the end of what can be read.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes of one line of a head at most; the whole head is hyper's to bound.
const MAX_LINE: usize = 32 * 1024;
/// Bytes of a chunk's size line at most, extensions included.
const MAX_CHUNK_LINE: usize = 256;

/// A request that is not framed in exactly one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Violation;

/// Where in the stream of requests the next byte stands.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    line: Vec<u8>,
    head: Head,
    /// Whether a whole head has been seen.
    begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The line feed after a chunk's data and carriage return.
    ChunkEnd { seen_cr: bool },
    /// A chunk's size line.
    ChunkSize,
    /// So many bytes of body, then what follows.
    Data { left: u64, then: After },
    /// A line of a head, of which it is the first or not.
    Head { first: bool },
    /// A line after the last chunk.
    Trailer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Chunk,
    Message,
}

/// What the lines of a head have said about its body so far.
#[derive(Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::Head { first: true },
            line: Vec::new(),
            head: Head::default(),
            begun: false,
        }
    }
}

impl Framing {
    fn awaits_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Whether it stands between two requests.
    fn is_between(&self) -> bool {
        self.begun && self.line.is_empty() && self.state == State::Head { first: true }
    }

    /// Whether a head is due: it has begun to arrive, or the connection is new.
    fn in_head(&self) -> bool {
        match self.state {
            State::Head { first } => !self.begun || !first || !self.line.is_empty(),
            State::ChunkEnd { .. } | State::ChunkSize | State::Data { .. } | State::Trailer => {
                false
            }
        }
    }

    /// Takes the next bytes. On a violation, `Err` with how many of them were fine.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self
                .step(rest)
                .map_err(|Violation| bytes.len().saturating_sub(rest.len()))?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Takes as many bytes as belong together; at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        match self.state {
            State::Data { left, then } => {
                let available = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let taken = available.min(left);
                let left = left.saturating_sub(taken);
                self.state = if left > 0 {
                    State::Data { left, then }
                } else {
                    then.begin()
                };
                Ok(usize::try_from(taken).unwrap_or(bytes.len()))
            }
            State::ChunkEnd { seen_cr } => {
                self.state = match (seen_cr, bytes.first()) {
                    (false, Some(b'\r')) => State::ChunkEnd { seen_cr: true },
                    (true, Some(b'\n')) => State::ChunkSize,
                    _ => return Err(Violation),
                };
                Ok(1)
            }
            State::ChunkSize | State::Head { .. } | State::Trailer => {
                let found = bytes.iter().position(|byte| *byte == b'\n');
                let taken = found.map_or(bytes.len(), |at| at.saturating_add(1));
                let part = bytes.get(..taken).unwrap_or_default();
                let longest = if self.state == State::ChunkSize {
                    MAX_CHUNK_LINE
                } else {
                    MAX_LINE
                };
                if self.line.len().saturating_add(taken) > longest {
                    return Err(Violation);
                }
                self.line.extend_from_slice(part);
                if found.is_some() {
                    let line = std::mem::take(&mut self.line);
                    self.state = self.line_ended(line.strip_suffix(b"\r\n").ok_or(Violation)?)?;
                    self.line = line;
                    self.line.clear();
                }
                Ok(taken)
            }
        }
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<State, Violation> {
        if line.contains(&b'\r') || line.contains(&0) {
            return Err(Violation);
        }
        match self.state {
            // Old clients send an empty line too many after a body.
            State::Head { first: true } if line.is_empty() => Ok(self.state),
            // A fragment is not sent in a request (RFC 9112 section 3.2); hyper would cut it off.
            State::Head { first: true } if line.contains(&b'#') => Err(Violation),
            State::Head { first: true } => Ok(State::Head { first: false }),
            State::Head { first: false } if line.is_empty() => {
                self.begun = true;
                Ok(std::mem::take(&mut self.head).body())
            }
            State::Head { first: false } => {
                self.head.field(line)?;
                Ok(self.state)
            }
            State::ChunkSize => match chunk_size(line)? {
                0 => Ok(State::Trailer),
                left => Ok(State::Data {
                    left,
                    then: After::Chunk,
                }),
            },
            State::Trailer if line.is_empty() => Ok(State::Head { first: true }),
            State::ChunkEnd { .. } | State::Data { .. } | State::Trailer => Ok(self.state),
        }
    }
}

impl After {
    fn begin(self) -> State {
        match self {
            Self::Chunk => State::ChunkEnd { seen_cr: false },
            Self::Message => State::Head { first: true },
        }
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(Violation)?;
        let (name, value) = line.split_at_checked(colon).ok_or(Violation)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).map_err(|_not_digits| Violation)?;
            let length = text.parse().map_err(|_too_large| Violation)?;
            if !digits || self.chunked || self.length.replace(length).is_some() {
                return Err(Violation);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if !is_chunked || self.length.is_some() || std::mem::replace(&mut self.chunked, true) {
                return Err(Violation);
            }
        }
        Ok(())
    }

    fn body(self) -> State {
        match (self.chunked, self.length) {
            (true, _) => State::ChunkSize,
            (false, None | Some(0)) => State::Head { first: true },
            (false, Some(left)) => State::Data {
                left,
                then: After::Message,
            },
        }
    }
}

/// `1*HEXDIG [ chunk-ext ]`; extensions are ignored, and never passed on.
fn chunk_size(line: &[u8]) -> Result<u64, Violation> {
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    if size.is_empty() || size.len() > 15 || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(Violation);
    }
    let text = std::str::from_utf8(size).map_err(|_not_hex| Violation)?;
    u64::from_str_radix(text, 16).map_err(|_not_hex| Violation)
}

/// A stream of HTTP/1.1 requests with [`Framing`] watching what is read from it. A head that has
/// begun must end in time; between requests a connection may be idle for as long as hyper lets it.
pub(super) struct Strict<S> {
    inner: S,
    framing: Framing,
    violated: bool,
    head_limit: Duration,
    head_ends: Option<Pin<Box<Sleep>>>,
    /// The first byte of the next request, taken by [`Strict::next`].
    first: Option<u8>,
    waiting: bool,
    unflushed: bool,
    quiet: Arc<AtomicBool>,
}

impl<S> Strict<S> {
    pub(super) fn new(inner: S, head_limit: Duration) -> Self {
        let framing = Framing::default();
        Self {
            inner,
            framing,
            violated: false,
            head_limit,
            head_ends: None,
            first: None,
            waiting: false,
            unflushed: false,
            quiet: Arc::default(),
        }
    }

    /// Whether whoever uses the stream awaits the first byte of a request, and has nothing left to
    /// write.
    pub(super) fn quiet(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.quiet)
    }

    fn note(&self) {
        let quiet = self.waiting && !self.unflushed && self.framing.is_between();
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Whether the client has something left to send, as far as can be seen from what was read.
    pub(super) fn is_unfinished(&self) -> bool {
        self.violated || !self.framing.is_between()
    }

    /// What is watched.
    pub(super) fn into_inner(self) -> S {
        self.inner
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
        ends.as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
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
        if this.violated && !this.framing.awaits_head() {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = buf.filled().len();
        let polled = this.poll_inner(cx, buf);
        this.waiting = polled.is_pending();
        this.note();
        match polled {
            Poll::Pending => return this.awaiting(cx),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {}
        }
        let new = buf.filled_mut().get_mut(before..).unwrap_or_default();
        let fine = if this.violated {
            Err(0)
        } else {
            this.framing.feed(new)
        };
        if let Err(fine) = fine {
            this.violated = true;
            if this.framing.awaits_head() {
                // No head may hold these, so hyper answers it with 400.
                new.get_mut(fine..).unwrap_or_default().fill(0);
            } else {
                // hyper would take nearly anything for a trailer; a body that breaks is none.
                buf.set_filled(before.saturating_add(fine));
                if fine == 0 {
                    // Nothing read would mean the end of the stream.
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
            }
        }
        if !this.framing.in_head() {
            this.head_ends = None;
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

#[cfg(test)]
mod tests {
    use super::{Framing, State};
    use proptest::prelude::*;

    fn feed(text: &str) -> Result<State, usize> {
        let mut framing = Framing::default();
        framing.feed(text.as_bytes()).map(|()| framing.state)
    }

    #[test]
    fn well_framed_requests_end_where_the_next_begins() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nTrailer: x\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(feed(text), Ok(State::Head { first: true }), "{text:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "Content-Length: 3\r\nContent-Length: 3",
            "Content-Length: 3, 3",
            "Content-Length: +3",
            "Content-Length: -3",
            "Content-Length: 0x3",
            "Content-Length:",
            "Content-Length: 3 3",
            "Content-Length: 99999999999999999999",
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked;q=1",
            "Transfer-Encoding: \x0bchunked",
            "no colon",
            "A: b\nC: d",
            "A: b\rC: d",
            "A: b\0",
        ] {
            assert!(
                feed(&format!("PUT / HTTP/1.1\r\n{head}\r\n\r\n")).is_err(),
                "{head:?}"
            );
        }
        assert!(feed("GET /v2/#x HTTP/1.1\r\n\r\n").is_err());
        for body in [
            "3\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "\r\n",
            "0x3\r\nabc",
            "+3\r\nabc",
            "3 \r\nabc",
            "fffffffffffffffff\r\n",
            "3;\nabc",
            "3\r\r\nabc",
            "g\r\n",
            "0\r\nTrailer: x\n\r\n",
        ] {
            let text = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert!(feed(&text).is_err(), "{body:?}");
        }
        assert!(feed("GET / HTTP/1.1\n\n").is_err());
        assert!(feed(&format!("GET /{}", "a".repeat(40_000))).is_err());
    }

    proptest! {
        /// Packets do not matter: byte by byte the verdict is the same.
        #[test]
        fn the_verdict_does_not_depend_on_where_reads_end(
            text in "(GET|PUT) / HTTP/1.1\r?\n((Content-Length: [0-4]|Transfer-Encoding: chunked|A: b)\r?\n){0,2}\r\n(([0-3]\r\n)?[a-c\r\n]{0,5}){0,3}"
        ) {
            let mut framing = Framing::default();
            let bytewise = text.as_bytes().iter().try_for_each(|byte| framing.feed(&[*byte]));
            let whole = feed(&text);
            prop_assert_eq!(bytewise.is_ok(), whole.is_ok());
            if let Ok(state) = whole {
                prop_assert_eq!(framing.state, state);
            }
        }
    }
}
