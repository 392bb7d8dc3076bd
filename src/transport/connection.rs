//! One connection: its TLS handshake, its protocol, its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::caps::{Caps, announce};
use super::context::ConnectionContext;
use super::http1;
use super::http2_refusals::noticing;
use super::proxy_protocol::{self, Header};
use super::room::Seat;
use super::settings::{ProxyProtocol, Settings};
use super::stall_watch::StallWatch;
use super::stop::Stop;
use super::stream::Socket;
use crate::identity::{Peer, PeerCertificate, TlsSession, Witness as _};
use crate::limit::connections::Origin;
use crate::proxy::{Proxy, written};
use crate::request::{Asked, BadHead};
use crate::tls::{certificate_in_words, in_words, read_certificate};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const HANDSHAKE: u8 = 0x16;
/// Bytes of an HTTP/2 request's head, as HTTP/2 counts them, that are read at all. Twice of what is
/// allowed: what is read is answered by us, and what is not by the engine, without a body.
const MAX_H2_HEAD: u32 = 64 * 1024;
/// Bytes of an answer that wait for a client.
const BUFFER: usize = 64 * 1024;
/// Requests at a time on one HTTP/2 connection.
const MAX_STREAMS: u32 = 100;
/// HTTP/2 flow control: 1 MiB a stream halves the cost of an upload against 64 KiB, more gains nothing.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Streams a client may reset before they are served (CVE-2023-44487), and faults of its own that
/// make us reset one (CVE-2025-8671), until the connection ends.
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 256;
/// How long an HTTP/2 connection that was idle may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);
/// HTTP/2 connections are asked for a sign of life this often.
const PING: Duration = Duration::from_secs(30);

/// A connection that has a seat, before anything has been read from it.
pub(super) struct Admitted {
    pub(super) stream: TcpStream,
    pub(super) address: IpAddr,
    pub(super) origin: Origin,
    pub(super) seat: Seat,
    pub(super) caps: Arc<Caps>,
    pub(super) proxy: Arc<Proxy>,
    pub(super) limits: Arc<Settings>,
    pub(super) stop: Stop,
}

/// Serves a connection to its end.
pub(super) async fn drive(admitted: Admitted) {
    let Admitted {
        stream,
        address,
        origin,
        seat,
        caps,
        proxy,
        limits,
        mut stop,
    } = admitted;
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let handshake = async {
        let arrival = Arrival {
            stream,
            address,
            origin,
        };
        let arrival = arrival.announced(&limits, &proxy, &caps, &seat).await?;
        let address = arrival.address;
        let limit = limits.body_timeout;
        let stream = shake_hands(arrival.stream, &proxy, address, limit).await?;
        Some((stream, address, arrival.origin))
    };
    let handshake = Box::pin(tokio::time::timeout(limits.handshake_timeout, handshake));
    let stream = tokio::select! {
        stream = handshake => stream,
        () = stop.asked() => return,
    };
    let Ok(Some((stream, address, origin))) = stream else {
        tracing::debug!(%address, "no TLS handshake");
        return;
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let occupant = Arc::clone(seat.occupant());
    let certificate = certificate(session);
    if certificate.shown().is_some() {
        occupant.proven();
    }
    let peer = Arc::new(Peer {
        address,
        certificate,
        tls: Arc::new(TlsSession {
            description: describe(session).into(),
        }),
        witness: Arc::clone(&occupant) as _,
    });
    let context = ConnectionContext {
        proxy,
        peer,
        limits,
        origin,
        occupant,
    };
    // In a box of its own, because a task has room for the largest of its steps until its end.
    let ended = if is_h2 {
        Box::pin(over_h2(context, stream, stop)).await
    } else {
        http1::serve(&context, stream, &mut stop).await
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended early");
    }
    drop(seat);
}

async fn over_h2(
    context: ConnectionContext,
    stream: TlsStream<Socket>,
    mut stop: Stop,
) -> hyper::Result<()> {
    let watch = Arc::new(StallWatch::default());
    let (noted, limits) = (Arc::clone(&watch), Arc::clone(&context.limits));
    let (proxy, peer) = (Arc::clone(&context.proxy), Arc::clone(&context.peer));
    let stream = noticing(stream, move || {
        let (tls, whole) = (Some(&*peer.tls.description), Asked::Whole);
        // The engine has answered; the record is ours.
        drop(proxy.refuse_unread(peer.address, tls, BadHead::TooLarge, whole, b""));
    });
    let service = service_fn(move |request| context.respond(noted.add(), request));
    let connection = h2().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = not_reading(&watch, limits.body_timeout) => Ok(()),
        () = until_stop_or_idle(&mut stop, &watch, limits.idle_timeout) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = not_reading(&watch, limits.body_timeout) => Ok(()),
                () = idle(&watch, FAREWELL) => Ok(()),
            }
        }
    }
}

/// A connection before TLS, and for whom it is as far as that is known.
struct Arrival {
    stream: TcpStream,
    address: IpAddr,
    origin: Origin,
}

impl Arrival {
    /// Reads the PROXY header with which a connection from a trusted proxy has to begin, where that is
    /// configured. The client it names then needs a seat like one that comes by itself.
    async fn announced(
        mut self,
        limits: &Settings,
        proxy: &Proxy,
        caps: &Caps,
        seat: &Seat,
    ) -> Option<Self> {
        match (limits.proxy_protocol, self.origin) {
            (ProxyProtocol::Off, _) | (ProxyProtocol::Required, Origin::Client) => {
                return Some(self);
            }
            (ProxyProtocol::Required, Origin::Balancer) => {}
        }
        match proxy_protocol::read(&mut self.stream).await.ok()? {
            Header::Client(address) => {
                announce(proxy, seat, address)?;
                self.address = address;
                self.origin = Origin::Client;
            }
            Header::Own => {}
            Header::None => {
                caps.tell_unannounced(self.address);
                return None;
            }
        }
        Some(self)
    }
}

async fn until_stop_or_idle(stop: &mut Stop, watch: &StallWatch, limit: Duration) {
    tokio::select! {
        () = stop.asked() => {}
        () = idle(watch, limit) => {}
    }
}

/// Ends when there has been no request for `limit`.
async fn idle(watch: &StallWatch, limit: Duration) {
    while !watch.idle_for(limit) {
        tokio::time::sleep(limit.div_f32(4.0)).await;
    }
}

/// Ends when a client has left an answer unread for `limit`.
async fn not_reading(watch: &StallWatch, limit: Duration) {
    while !watch.stalled_for(limit) {
        tokio::time::sleep(limit.div_f32(4.0)).await;
    }
}

fn h2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_H2_HEAD)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_send_buf_size(BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// The TLS handshake with the configuration in force now. Plain HTTP is told what it is; anything
/// else is let go without a word.
async fn shake_hands(
    mut stream: TcpStream,
    proxy: &Proxy,
    address: IpAddr,
    write_limit: Duration,
) -> Option<TlsStream<Socket>> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    match first {
        [HANDSHAKE] => {
            let acceptor = TlsAcceptor::from(Arc::clone(&proxy.rules().tls));
            let accepted = acceptor.accept(Socket::new(stream, write_limit)).await;
            if let Err(error) = &accepted {
                let error_chain = in_words(error);
                tracing::debug!(%address, error = error_chain, "TLS handshake failed");
                if let Some(reason) = certificate_refused(error) {
                    proxy.refuse_certificate(address, &reason);
                }
            }
            accepted.ok()
        }
        [letter] if letter.is_ascii_uppercase() => {
            // Best effort: a client that speaks plain HTTP here may as well be gone.
            let _told = speaks_tls(&mut stream, proxy, address).await;
            None
        }
        [_] => None,
    }
}

/// Why a client's certificate was refused, if that is what a handshake ended with.
fn certificate_refused(error: &std::io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(cause) = error {
        Some(certificate_in_words(cause))
    } else {
        None
    }
}

/// Answers plain HTTP on the TLS port in a way that clients show to people.
async fn speaks_tls(stream: &mut TcpStream, proxy: &Proxy, address: IpAddr) -> std::io::Result<()> {
    let mut head = vec![0; 4096];
    let read = stream.read(&mut head).await?;
    let head = head.get(..read).unwrap_or_default();
    let asked = Asked::by(head.trim_ascii_start());
    let refused = proxy.refuse_unread(address, None, BadHead::Plain, asked, head);
    stream.write_all(&written(refused)).await?;
    stream.shutdown().await?;
    // Closed with bytes unread, the connection would be reset, and the answer lost.
    let rest = async { tokio::io::copy(stream, &mut tokio::io::sink()).await };
    let _read = tokio::time::timeout(FAREWELL, rest).await;
    Ok(())
}

/// What the client showed; the handshake has verified it. A certificate that cannot be read is none.
fn certificate(session: &rustls::ServerConnection) -> PeerCertificate {
    let shown = session.peer_certificates().and_then(read_certificate);
    shown.map_or(PeerCertificate::NotShown, |read| {
        PeerCertificate::Shown(Arc::new(read))
    })
}

fn describe(session: &rustls::ServerConnection) -> String {
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    match session.negotiated_cipher_suite().map(|suite| suite.suite()) {
        Some(suite) => format!("{version} {}", suite.as_str().unwrap_or("unknown")),
        None => version.to_owned(),
    }
}
