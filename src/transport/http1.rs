//! HTTP/1.1 connections: while requests come they are hyper's; while none do, next to nothing is kept
//! for them but their TLS session.
//!
//! hyper holds 16 KiB of buffers for a connection from its beginning to its end. A machine that
//! pulls now and then keeps its connections open in between, so one that has been quiet for a moment
//! is taken out of hyper, and handed to it again with the first byte of its next request.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::context::ConnectionContext;
use super::stall_watch::Turn;
use super::stop::Stop;
use super::stream::Socket;
use super::strict::Strict;
use crate::request::MAX_HEAD;

/// Bytes read from a client in one go.
const BUFFER: usize = 64 * 1024;
/// How long a connection must have been quiet to be taken out of hyper: no longer than it takes a
/// client to ask for the next thing, so that what is given back serves the next connection.
const QUIET: Duration = Duration::from_millis(20);
/// How long the client of a connection that we end may send nothing before it is closed, and how
/// long it may go on sending at all.
const FAREWELL: Duration = Duration::from_secs(2);
const LONG_FAREWELL: Duration = Duration::from_secs(30);

type Stream = Strict<TlsStream<Socket>>;

/// Why requests are no longer served.
enum Pause {
    Ended(hyper::Result<()>),
    Quiet,
    /// What came is no request.
    Stuck,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    context: &ConnectionContext,
    stream: TlsStream<Socket>,
    stop: &mut Stop,
) -> hyper::Result<()> {
    let limits = &context.limits;
    let mut stream = Strict::new(stream, limits.header_timeout);
    let ended = loop {
        // In a box of its own, which is gone while the connection is quiet.
        let pause;
        (stream, pause) = Box::pin(requests(context, stream, stop)).await;
        match pause {
            Pause::Ended(ended) => break ended,
            Pause::Quiet => {}
            Pause::Stuck => {
                Box::pin(refuse(context, &mut stream)).await;
                break Ok(());
            }
        }
        let next = tokio::time::timeout(limits.idle_timeout, stream.next());
        let goes_on = tokio::select! {
            next = next => matches!(next, Ok(Ok(true))),
            () = stop.asked() => false,
        };
        if !goes_on {
            break Ok(());
        }
    };
    Box::pin(linger(stream)).await;
    ended
}

/// Serves requests until the connection ends, or has been quiet for a moment.
async fn requests(context: &ConnectionContext, stream: Stream, stop: &mut Stop) -> (Stream, Pause) {
    let watch = stream.watch();
    // Each request and its answer hold a clone.
    let turn = Arc::new(Turn::default());
    let service = service_fn(|request| context.respond(Arc::clone(&turn), request));
    let mut connection = http().serve_connection(TokioIo::new(stream), service);
    let mut rest = pin!(tokio::time::sleep(QUIET));
    let mut rests = false;
    let busy = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(Pause::Ended(ended));
        }
        let is_idle = Arc::strong_count(&turn) == 1;
        if is_idle && watch.is_stuck() {
            return Poll::Ready(Pause::Stuck);
        }
        let rested = std::mem::replace(&mut rests, is_idle && watch.is_quiet());
        if !rests {
            return Poll::Pending;
        }
        if !rested {
            let now = Instant::now();
            rest.as_mut().reset(now.checked_add(QUIET).unwrap_or(now));
        }
        rest.as_mut().poll(cx).map(|()| Pause::Quiet)
    });
    let pause = tokio::select! {
        pause = busy => pause,
        () = stop.asked() => {
            Pin::new(&mut connection).graceful_shutdown();
            Pause::Ended(poll_fn(|cx| connection.poll_without_shutdown(cx)).await)
        }
    };
    (connection.into_parts().io.into_inner(), pause)
}

/// Answers what came instead of a request, after the answers to those before.
async fn refuse(context: &ConnectionContext, stream: &mut Stream) {
    let Some((fault, asked, head)) = stream.bad_head() else {
        return;
    };
    let answer = context.refuse(fault, asked, head);
    let told = async {
        stream.write_all(&answer).await?;
        stream.flush().await
    };
    // A client that sends such things may as well be gone.
    let _told = told.await.is_ok();
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // A head's time is the stream's to watch, that between requests is ours.
        .header_read_timeout(None)
        // Lines of a head are bounded by hyper's own 100: setting that makes each request dearer.
        .max_header_size(MAX_HEAD)
        .max_buf_size(BUFFER);
    builder
}

/// Ends a connection whose client may still be sending: a socket that is closed with bytes unread
/// resets the connection, and the client loses the answer that it has not read yet.
async fn linger(stream: Stream) {
    let is_unfinished = stream.is_unfinished();
    let mut stream = stream.into_inner();
    let last_bytes = async {
        stream.shutdown().await?;
        if !is_unfinished {
            return Ok(());
        }
        let (socket, _session) = stream.get_mut();
        let mut scrap = [0; 4096];
        while let Ok(read) = tokio::time::timeout(FAREWELL, socket.read(&mut scrap)).await {
            if read? == 0 {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // A client that has not stopped by then is cut off.
    let _closed = tokio::time::timeout(LONG_FAREWELL, last_bytes)
        .await
        .is_ok();
}
