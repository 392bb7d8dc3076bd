//! The heads of the registry's answers, looked at before hyper reads them: a line ends with CR LF and
//! nothing else (RFC 9112 section 2.2), so that nobody who reads along sees another answer than we do,
//! and few interim answers come before one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Interim answers (1xx) before one.
const MAX_INTERIM: u8 = 16;
/// Where the status begins: after `HTTP/1.1 `.
const STATUS_AT: usize = 9;

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeadFault {
    /// A line feed without a carriage return.
    #[error("a line of the head ends with a bare line feed")]
    BareLineFeed,
    /// An empty line in place of the first one.
    #[error("an answer begins with an empty line")]
    EmptyLine,
    /// No end of them.
    #[error("too many interim answers")]
    Interim,
}

/// How far a head has been read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the line so far.
    line: usize,
    last: u8,
    /// First digit of the status.
    class: u8,
    is_past_first_line: bool,
    interim: u8,
}

impl Head {
    /// Reads on; true at the end of the head. What comes after it is not looked at.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<bool, HeadFault> {
        while let Some(at) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at_checked(at).unwrap_or_default();
            bytes = rest.get(1..).unwrap_or_default();
            self.add(line);
            if self.last != b'\r' {
                return Err(HeadFault::BareLineFeed);
            }
            let is_empty = self.line == 1;
            (self.line, self.last) = (0, 0);
            if !is_empty {
                self.is_past_first_line = true;
            } else if !self.is_past_first_line {
                return Err(HeadFault::EmptyLine);
            } else if self.class != b'1' {
                return Ok(true);
            } else if self.interim == MAX_INTERIM {
                return Err(HeadFault::Interim);
            } else {
                let interim = self.interim.saturating_add(1);
                *self = Self {
                    interim,
                    ..Self::default()
                };
            }
        }
        self.add(bytes);
        Ok(false)
    }

    fn add(&mut self, piece: &[u8]) {
        if !self.is_past_first_line
            && let Some(at) = STATUS_AT.checked_sub(self.line)
            && let Some(digit) = piece.get(at)
        {
            self.class = *digit;
        }
        self.line = self.line.saturating_add(piece.len());
        self.last = piece.last().copied().unwrap_or(self.last);
    }
}

/// A connection to the registry on which the heads of answers are looked at.
pub(super) struct Watched<S> {
    stream: S,
    expects: Expects,
    head: Option<Head>,
}

/// Tells that the next bytes are the head of an answer, because a request is being sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Expects(Arc<AtomicBool>);

impl Expects {
    pub(super) fn head(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> (Self, Expects) {
        let expects = Expects::default();
        let watched = Self {
            stream,
            expects: expects.clone(),
            head: None,
        };
        (watched, expects)
    }

    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.expects.0.swap(false, Ordering::Relaxed) {
            self.head = Some(Head::default());
        }
        if let Some(head) = &mut self.head
            && head.read(bytes).map_err(io::Error::other)?
        {
            self.head = None;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        Poll::Ready(self.look(new))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::{Head, HeadFault, MAX_INTERIM};
    use proptest::prelude::*;

    fn read(text: &str) -> Result<bool, HeadFault> {
        Head::default().read(text.as_bytes())
    }

    #[test]
    fn lines_of_a_head_end_in_one_way() {
        for whole in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\nwith\n\nlines",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nA: b\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 x\r\n\r\n\n",
        ] {
            assert_eq!(read(whole), Ok(true), "{whole:?}");
        }
        for part in [
            "",
            "HTTP/1.1 200 OK\r\nA: b\r\n\r",
            "HTTP/1.1 100 x\r\n\r\n",
        ] {
            assert_eq!(read(part), Ok(false), "{part:?}");
        }
        for bare in [
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n\n",
            "HTTP/1.1 200 OK\r\nA: b\n\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 200 OK\n\n",
            "\n",
        ] {
            assert_eq!(read(bare), Err(HeadFault::BareLineFeed), "{bare:?}");
        }
        assert_eq!(
            read("\r\nHTTP/1.1 200 OK\r\n\r\n"),
            Err(HeadFault::EmptyLine)
        );
        let few = "HTTP/1.1 102 x\r\n\r\n".repeat(MAX_INTERIM.into());
        assert_eq!(read(&format!("{few}HTTP/1.1 200 x\r\n\r\n")), Ok(true));
        let many = "HTTP/1.1 102 x\r\n\r\n".repeat(usize::from(MAX_INTERIM) + 1);
        assert_eq!(read(&many), Err(HeadFault::Interim));
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_the_whole(
            text in "(HTTP/1\\.1 [12]00 x|a|\r|\n|\r\n){0,12}", at in 0usize..60
        ) {
            let whole = read(&text);
            let (first, second) = text.as_bytes().split_at(at.min(text.len()));
            let mut head = Head::default();
            let pieces = match head.read(first) {
                Ok(false) => head.read(second),
                ended => ended,
            };
            prop_assert_eq!(pieces, whole);
        }
    }
}
