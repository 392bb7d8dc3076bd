//! The socket under TLS: a client that does not read is given up after a while, and one that sends
//! much is read in large pieces.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Bytes read in one go from a client that sends much. The TLS library asks for 4 KiB at a time,
/// which costs an upload a tenth more.
const AHEAD: usize = 32 * 1024;

/// A TCP stream whose writes may not make no progress for longer than a limit.
pub(super) struct Socket {
    inner: TcpStream,
    limit: Duration,
    stall: Option<Pin<Box<Sleep>>>,
    /// What was read before it was asked for; nothing is kept for a client that sends little.
    ahead: Option<Ahead>,
}

struct Ahead {
    bytes: Box<[u8]>,
    filled: Range<usize>,
}

impl Socket {
    pub(super) fn new(inner: TcpStream, limit: Duration) -> Self {
        Self {
            inner,
            limit,
            stall: None,
            ahead: None,
        }
    }

    /// Runs the timer while a write is pending.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let limit = self.limit;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(ahead) = &mut this.ahead {
            let read = ahead.poll_read(&mut this.inner, cx, buf);
            if !matches!(read, Poll::Ready(Ok(()))) {
                this.ahead = None;
            }
            return read;
        }
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if read.is_ready() && buf.remaining() == 0 {
            // There is more where that came from.
            this.ahead = Some(Ahead {
                bytes: vec![0; AHEAD].into(),
                filled: 0..0,
            });
        }
        read
    }
}

impl Ahead {
    fn poll_read(
        &mut self,
        from: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.filled.is_empty() {
            let mut ahead = ReadBuf::new(&mut self.bytes);
            ready!(Pin::new(from).poll_read(cx, &mut ahead))?;
            self.filled = 0..ahead.filled().len();
        }
        let taken = self.filled.len().min(buf.remaining());
        let end = self.filled.start.saturating_add(taken);
        buf.put_slice(self.bytes.get(self.filled.start..end).unwrap_or_default());
        self.filled.start = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD, Socket};
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn what_is_read_ahead_is_neither_lost_nor_doubled() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let sent: Vec<u8> = (0..=250).cycle().take(10 * AHEAD + 77).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
        });
        let mut socket = Socket::new(accepted, Duration::from_secs(10));
        let mut read = Vec::new();
        let mut part = [0; 4096];
        let sizes = [1, 4096, 100, 4095].into_iter().cycle();
        for size in sizes {
            let taken = socket.read(&mut part[..size]).await.unwrap();
            read.extend_from_slice(&part[..taken]);
            if taken == 0 {
                break;
            }
        }
        writer.await.unwrap();
        assert!(read == expected, "{} of {}", read.len(), expected.len());
    }
}
