//! An open loop: requests at a fixed rate, and how long each one took. Threads of their own with
//! blocking sockets, because an asynchronous timer is coarser than the latencies to be told apart.

use std::io::{self, Read, Write};
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
pub(crate) struct Latency {
    all: Histogram<u64>,
    /// Connections that the server closed and that were made again.
    pub(crate) cut: u64,
}

/// What becomes of a connection that the server closes between two requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    IsAnError,
    /// The next request waits until there is another connection.
    IsMadeAgain,
}

impl Latency {
    /// A quantile, in microseconds.
    pub(crate) fn us(&self, quantile: f64) -> f64 {
        self.all.value_at_quantile(quantile) as f64 / 1e3
    }

    pub(crate) fn worst_ms(&self) -> f64 {
        self.all.max() as f64 / 1e6
    }
}

/// Sends `rate` calls a second for so long. Who is behind its schedule because an answer was late
/// counts from when the request was due, so that a stall costs what it would cost many clients.
pub(crate) async fn paced(
    route: &Route,
    rate: u32,
    time: Duration,
    call: &Call,
    cut: Cut,
) -> Result<Latency> {
    let (route, call) = (route.clone(), call.clone());
    tokio::task::spawn_blocking(move || {
        let gap = Duration::from_secs(1) * THREADS / rate;
        thread::scope(|scope| {
            let lane = |number| {
                let (route, call) = (&route, &call);
                scope.spawn(move || {
                    let mut lane = Lane::new(route, call, cut)?;
                    lane.run(gap * number / THREADS, gap, time)?;
                    anyhow::Ok((lane.latencies, lane.cuts))
                })
            };
            let lanes: Vec<_> = (0..THREADS).map(lane).collect();
            let mut total = Latency {
                all: Histogram::new(3)?,
                cut: 0,
            };
            for lane in lanes {
                let (latencies, cuts) = lane.join().map_err(|_| anyhow!("a thread panicked"))??;
                total.all.add(latencies)?;
                total.cut += cuts;
            }
            Ok(total)
        })
    })
    .await?
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One connection and its requests.
struct Lane<'a> {
    route: &'a Route,
    call: &'a Call,
    cut: Cut,
    stream: Box<dyn Stream>,
    request: Vec<u8>,
    buffer: Vec<u8>,
    latencies: Histogram<u64>,
    cuts: u64,
}

impl<'a> Lane<'a> {
    fn new(route: &'a Route, call: &'a Call, cut: Cut) -> Result<Self> {
        Ok(Self {
            route,
            call,
            cut,
            stream: connect(route)?,
            request: head(route, call),
            buffer: Vec::with_capacity(1 << 16),
            latencies: Histogram::new(3)?,
            cuts: 0,
        })
    }

    fn run(&mut self, offset: Duration, gap: Duration, time: Duration) -> Result<()> {
        // The first answers pay for connections towards the registry and for the password's hash.
        let begun = Instant::now();
        for _ in 0..20 {
            self.ask()?;
            if begun.elapsed() > Duration::from_millis(200) {
                break;
            }
        }
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
            self.ask()?;
            let took = u64::try_from(from.elapsed().as_nanos())?;
            self.latencies.record(took)?;
            due += gap;
        }
        // What there was no time for would have been at least so late.
        while due < end {
            let late = u64::try_from(due.elapsed().as_nanos())?;
            self.latencies.record(late)?;
            due += gap;
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<()> {
        match self.exchange() {
            Err(error) if self.cut == Cut::IsMadeAgain && error.is::<io::Error>() => {
                self.stream = connect(self.route)?;
                self.cuts += 1;
                self.exchange()
            }
            answered => answered,
        }
    }

    fn exchange(&mut self) -> Result<()> {
        exchange(
            &mut *self.stream,
            &self.request,
            self.call,
            &mut self.buffer,
        )
    }
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
        if read == 0 {
            let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed");
            return Err(error.into());
        }
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
