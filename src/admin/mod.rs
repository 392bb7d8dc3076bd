//! Health, metrics and status, over plain HTTP on an address of their own (loopback by default) and on a
//! unix socket.
//!
//! | path | says |
//! |---|---|
//! | `/livez` | the process answers |
//! | `/readyz` | 200 when the registry answers and the audit trail can be written, else 503; reports each separately, and the directory. 503 while draining |
//! | `/metrics` | OpenMetrics |
//! | `/status`, `/status.json` | one page for people, the same for machines |
//!
//! Nothing here changes anything yet, and no secret is shown; `change` decides where something may be
//! changed. What a page in the operator's browser could read is given to requests for hosts that `host`
//! accepts.
//!
//! A directory outage is shown but does not affect readiness: callers who need no directory (keys,
//! tokens of files, certificates, anonymous pulls) are served, and it is down for every replica.

mod health;
mod host;
mod metrics;
mod place;
mod settings;
mod socket;
mod status;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use health::Health;
pub use place::{Admin, Move};
pub use settings::Settings;
pub use socket::{AdminSocket, SocketError};
use status::{RobotKeys, Status};

use crate::limit::connections::Origin;
use crate::proxy::Proxy;
use crate::transport::{Room, Seat};

/// Connections at a time: a handful of scrapers and browsers.
const MAX_CONNECTIONS: usize = 64;
/// Time for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where requests come in.
enum Entrance {
    /// `admin.listen`, which web pages can reach through a browser, and other users of the machine.
    Address(TcpListener),
    /// `admin.socket`, which only its owner can.
    Socket(UnixListener),
}

/// The kind of an entrance.
#[derive(Clone, Copy)]
enum Via {
    Address,
    Socket,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Entrance {
    fn via(&self) -> Via {
        match self {
            Self::Address(_) => Via::Address,
            Self::Socket(_) => Via::Socket,
        }
    }

    /// The next connection, and its source.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, IpAddr)> {
        match self {
            Self::Address(listener) => {
                let (stream, from) = listener.accept().await?;
                Ok((Box::new(stream), from.ip()))
            }
            Self::Socket(listener) => {
                let (stream, _unnamed) = listener.accept().await?;
                Ok((Box::new(stream), Ipv4Addr::LOCALHOST.into()))
            }
        }
    }
}

/// Serves until it is dropped. Idle connections keep no one out: the oldest of the largest source is
/// closed for a new one.
async fn serve(entrance: Entrance, proxy: Arc<Proxy>) {
    let room = Room::new(MAX_CONNECTIONS, usize::MAX);
    loop {
        let Ok((stream, from)) = entrance.accept().await else {
            room.shrink().await;
            continue;
        };
        let Ok(seat) = room.seat(from, Origin::Client).await else {
            continue;
        };
        let via = entrance.via();
        tokio::spawn(serve_connection(stream, seat, via, Arc::clone(&proxy)));
    }
}

async fn serve_connection(stream: Box<dyn Stream>, seat: Seat, via: Via, proxy: Arc<Proxy>) {
    let occupant = seat.occupant();
    let service = service_fn(|request: Request<Incoming>| {
        let (proxy, busy) = (Arc::clone(&proxy), occupant.begin());
        async move {
            let answer = answer(&proxy, via, &request).await;
            drop(busy);
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // An error of the connection concerns the scraper alone.
        _ended = connection => {}
        () = occupant.asked_to_leave() => {}
    }
}

async fn answer(proxy: &Proxy, via: Via, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return change(via);
    }
    let path = request.uri().path();
    // Probes ask by whatever name they know, and learn nothing but how this process is.
    let is_probe = matches!(path, "/livez" | "/readyz");
    if let (Via::Address, false) = (via, is_probe) {
        let names = &proxy.rules().admin_hosts;
        let (version, headers) = (request.version(), request.headers());
        if let Err(wrong) = host::check(version, request.uri(), headers, names) {
            return page(wrong.status(), TEXT, format!("{wrong}\n"));
        }
    }
    match path {
        "/livez" => page(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => {
            let health = Health::of(proxy).await;
            let status = if health.ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            page(status, JSON, json(&health))
        }
        "/metrics" => {
            let health = Health::of(proxy).await;
            page(StatusCode::OK, OPEN_METRICS, metrics::text(proxy, &health))
        }
        "/status.json" => page(
            StatusCode::OK,
            JSON,
            json(&Status::of(proxy, Health::of(proxy).await)),
        ),
        // Not part of the status, which waits for the registry and the directory.
        "/keys.json" => page(
            StatusCode::OK,
            JSON,
            json(&RobotKeys::of(proxy.rules().robots.state())),
        ),
        "/status" | "/" => page(
            StatusCode::OK,
            HTML,
            Status::of(proxy, Health::of(proxy).await).html(),
        ),
        _ => page(
            StatusCode::NOT_FOUND,
            TEXT,
            "there are /livez, /readyz, /metrics, /status, /status.json and /keys.json\n"
                .to_owned(),
        ),
    }
}

/// Answers what would change something. That is served on the socket and nowhere else: a web page can
/// have a browser send requests to the address.
fn change(via: Via) -> Response<Full<Bytes>> {
    let text = match via {
        Via::Socket => "only GET: there is nothing to change yet\n",
        Via::Address => "only GET: what changes something is served on `admin.socket` alone\n",
    };
    page(StatusCode::METHOD_NOT_ALLOWED, TEXT, text.to_owned())
}

fn json<T: Serialize>(value: &T) -> String {
    // Structs of strings and numbers always serialise.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

fn page(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if kind == HTML {
        let policy = format!("{}; frame-ancestors 'none'", crate::page::policy());
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.extend(HeaderValue::try_from(policy).map(|value| (CONTENT_SECURITY_POLICY, value)));
    }
    response
}
