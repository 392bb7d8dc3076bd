//! A registry double that stores the exact bytes it gets and answers what the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// One request, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// From the request line up to and with the empty line.
    pub(crate) head: String,
    /// The body, still in its framing.
    pub(crate) body: Vec<u8>,
    /// On which connection, counted from 0.
    pub(crate) connection: usize,
    /// The how-manieth on it, counted from 0.
    pub(crate) turn: usize,
}

impl Seen {
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &str {
        self.line().split(' ').next().unwrap_or_default()
    }

    pub(crate) fn target(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// The values of a header, in order.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let fields = self
            .head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'));
        fields
            .filter(|(seen, _)| seen.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.values(name).is_empty()
    }
}

/// What the double does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These bytes, then the next request.
    Say(Vec<u8>),
    /// These bytes, then the connection is closed.
    SayAndClose(Vec<u8>),
    /// These bytes, once the test adds a permit for them.
    After(Arc<Semaphore>, Vec<u8>),
    /// Nothing, for ever.
    Hang,
    /// These bytes, then nothing for ever.
    SayAndHang(Vec<u8>),
}

impl Reply {
    /// A plain answer with a body.
    pub(crate) fn ok(body: &str) -> Self {
        Self::status("200 OK", body)
    }

    pub(crate) fn status(status: &str, body: &str) -> Self {
        Self::Say(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes(),
        )
    }
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn(accept(listener, script, Arc::clone(&seen)));
        Self {
            address,
            seen,
            task,
        }
    }

    /// Answers every request with 200 and an empty object.
    pub(crate) async fn agreeable() -> Self {
        Self::start(|_| Reply::ok("{}")).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that has arrived so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Forgets what has arrived so far, and gives it.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    pub(crate) async fn request(&self, number: usize) -> Seen {
        super::eventually("a request upstream", || self.seen().get(number).cloned()).await
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>, seen: Arc<Mutex<Vec<Seen>>>) {
    // Aborting this task drops the set, and with it every connection.
    let mut connections = tokio::task::JoinSet::new();
    let mut number = 0;
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(converse(
            stream,
            number,
            Arc::clone(&script),
            Arc::clone(&seen),
        ));
        number += 1;
    }
}

async fn converse(
    mut stream: TcpStream,
    connection: usize,
    script: Arc<Script>,
    all: Arc<Mutex<Vec<Seen>>>,
) {
    let mut buffer = Vec::new();
    let mut turn = 0;
    while let Some(mut seen) = read_request(&mut stream, &mut buffer).await {
        seen.connection = connection;
        seen.turn = turn;
        turn += 1;
        let reply = script(&seen);
        all.lock().unwrap().push(seen);
        let goes_on = match &reply {
            Reply::Say(bytes) => stream.write_all(bytes).await.is_ok(),
            Reply::After(permits, bytes) => {
                permits.acquire().await.unwrap().forget();
                stream.write_all(bytes).await.is_ok()
            }
            Reply::SayAndClose(bytes) => {
                drop(stream.write_all(bytes).await);
                false
            }
            Reply::SayAndHang(bytes) => {
                drop(stream.write_all(bytes).await);
                std::future::pending().await
            }
            Reply::Hang => std::future::pending().await,
        };
        if !goes_on {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = find(buffer, b"\r\n\r\n") {
            break at + 4;
        }
        read_more(stream, buffer).await?;
    };
    let rest = buffer.split_off(end);
    let head = String::from_utf8_lossy(buffer).into_owned();
    *buffer = rest;
    let mut seen = Seen {
        head,
        body: Vec::new(),
        connection: 0,
        turn: 0,
    };
    let length = seen
        .values("content-length")
        .first()
        .and_then(|value| value.parse().ok());
    let end = if seen.has("transfer-encoding") {
        loop {
            if buffer.starts_with(b"0\r\n\r\n") {
                break 5;
            }
            if let Some(at) = find(buffer, b"\r\n0\r\n\r\n") {
                break at + 7;
            }
            read_more(stream, buffer).await?;
        }
    } else {
        let length = length.unwrap_or(0);
        while buffer.len() < length {
            read_more(stream, buffer).await?;
        }
        length
    };
    let rest = buffer.split_off(end);
    seen.body = std::mem::replace(buffer, rest);
    Some(seen)
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
