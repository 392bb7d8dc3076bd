//! An open loop: requests at a fixed rate, and how long each one took. Threads of their own with
//! blocking sockets, because an asynchronous timer is coarser than the latencies to be told apart.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

use crate::client::{Call, Http, Route};
use crate::content::MANIFEST_TYPE;

const THREADS: u32 = 4;

/// Latencies in nanoseconds.
pub(crate) struct Latency(Histogram<u64>);

impl Latency {
    /// A quantile, in microseconds.
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    pub(crate) fn worst_ms(&self) -> f64 {
        self.0.max() as f64 / 1e6
    }
}

/// Sends `rate` calls a second for so long. Who is behind its schedule because an answer was late
/// counts from when the request was due, so that a stall costs what it would cost many clients.
pub(crate) async fn paced(
    route: &Route,
    rate: u32,
    time: Duration,
    call: &Call,
) -> Result<Latency> {
    let (route, call) = (route.clone(), call.clone());
    tokio::task::spawn_blocking(move || {
        let gap = Duration::from_secs(1) * THREADS / rate;
        thread::scope(|scope| {
            let lane = |lane| {
                let (route, call) = (&route, &call);
                scope.spawn(move || run_lane(route, call, gap * lane / THREADS, gap, time))
            };
            let lanes: Vec<_> = (0..THREADS).map(lane).collect();
            let mut all = Histogram::new(3)?;
            for lane in lanes {
                all.add(lane.join().map_err(|_| anyhow!("a thread panicked"))??)?;
            }
            Ok(Latency(all))
        })
    })
    .await?
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn run_lane(
    route: &Route,
    call: &Call,
    offset: Duration,
    gap: Duration,
    time: Duration,
) -> Result<Histogram<u64>> {
    let mut stream = connect(route)?;
    let request = head(route, call);
    let mut buffer = Vec::with_capacity(1 << 16);
    // The first answers pay for connections towards the registry and for the password's hash.
    let begun = Instant::now();
    for _ in 0..20 {
        exchange(&mut *stream, &request, call, &mut buffer)?;
        if begun.elapsed() > Duration::from_millis(200) {
            break;
        }
    }
    let mut latencies = Histogram::new(3)?;
    let begun = Instant::now() + Duration::from_millis(5);
    let mut due = begun + offset;
    let end = begun + time;
    while due < end && Instant::now() < end {
        let wait = due.saturating_duration_since(Instant::now());
        let from = if wait.is_zero() {
            due
        } else {
            thread::sleep(wait);
            Instant::now()
        };
        exchange(&mut *stream, &request, call, &mut buffer)?;
        latencies.record(u64::try_from(from.elapsed().as_nanos())?)?;
        due += gap;
    }
    // What there was no time for would have been at least so late.
    while due < end {
        latencies.record(u64::try_from(due.elapsed().as_nanos())?)?;
        due += gap;
    }
    Ok(latencies)
}

fn connect(route: &Route) -> Result<Box<dyn Stream>> {
    let socket = TcpStream::connect(route.address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let Some(config) = route.config(Http::One) else {
        return Ok(Box::new(socket));
    };
    let name = ServerName::try_from("localhost")?;
    let connection = ClientConnection::new(Arc::clone(&config), name)?;
    Ok(Box::new(StreamOwned::new(connection, socket)))
}

fn head(route: &Route, call: &Call) -> Vec<u8> {
    let (method, path, host) = (&call.method, &call.path, route.authority());
    let mut text =
        format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {MANIFEST_TYPE}\r\n")
            .into_bytes();
    if let Some(value) = &call.authorization {
        text.extend_from_slice(b"Authorization: ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// One request and its whole answer, which must have a Content-Length.
fn exchange(
    stream: &mut dyn Stream,
    request: &[u8],
    call: &Call,
    buffer: &mut Vec<u8>,
) -> Result<()> {
    stream.write_all(request)?;
    stream.flush()?;
    buffer.clear();
    let mut chunk = [0; 16384];
    let mut whole = None;
    while whole.is_none_or(|whole| buffer.len() < whole) {
        let read = stream.read(&mut chunk)?;
        ensure!(read > 0, "the connection was closed");
        buffer.extend_from_slice(&chunk[..read]);
        if whole.is_none() {
            let end = buffer.windows(4).position(|four| four == b"\r\n\r\n");
            whole = match end {
                Some(end) => Some(end + 4 + check_head(&buffer[..end], call)?),
                None => None,
            };
        }
    }
    Ok(())
}

/// The length of the body that follows a right head.
fn check_head(head: &[u8], call: &Call) -> Result<usize> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status == call.status.to_string(), "{}: {status}", call.path);
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.context("no Content-Length")?.trim().parse()?;
    let wanted = call.length.unwrap_or(length as u64);
    ensure!(
        length as u64 == wanted,
        "{}: {length} bytes instead of {wanted}",
        call.path
    );
    Ok(length)
}
