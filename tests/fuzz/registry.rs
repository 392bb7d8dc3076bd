//! A registry double that reads every request as strictly as the specifications allow, and remembers
//! what it would not have said so itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::Method;
use portcullis::registry::Call;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What was wrong with what arrived.
pub(crate) type Faults = Arc<Mutex<Vec<String>>>;

/// The headers of requests that may arrive, besides those that begin with `oci-`.
const MAY: [&str; 26] = [
    "accept",
    "accept-encoding",
    "cache-control",
    "content-digest",
    "content-length",
    "content-range",
    "content-type",
    "digest",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
    "repr-digest",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-proto",
];

/// Begins to listen.
pub(crate) async fn start(faults: Faults) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let faults = Arc::clone(&faults);
            tokio::spawn(async move {
                if let Err(Broken::Fault(fault)) = converse(stream).await {
                    faults.lock().expect("nobody panics here").push(fault);
                }
            });
        }
    });
    address
}

/// Why a connection is over.
enum Broken {
    /// Its other end has gone.
    Gone,
    /// It said something that it should not.
    Fault(String),
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<String> for Broken {
    fn from(fault: String) -> Self {
        Self::Fault(fault)
    }
}

async fn converse(stream: TcpStream) -> Result<(), Broken> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_until(b'\n', &mut head).await? == 0 {
                if head.is_empty() {
                    return Err(Broken::Gone);
                }
                return Err(format!("a head without an end: {head:?}").into());
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let (method, path, framing) = lint(&head)?;
        body(&mut stream, framing).await?;
        stream.write_all(answer(&method, &path).as_bytes()).await?;
    }
}

/// How a request's body is framed.
enum Framing {
    Chunked,
    Length(u64),
}

/// Nothing of what a strict reader would object to.
fn lint(head: &str) -> Result<(Method, String, Framing), String> {
    let fault = |what: &str| format!("{what}: {head:?}");
    let whole = head.strip_suffix("\r\n\r\n").ok_or_else(|| fault("end"))?;
    if whole.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err(fault("line ends"));
    }
    let mut lines = whole.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else {
        return Err(fault("request line"));
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_cause| fault("method"))?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let call = Call::parse(&method, path, query).map_err(|_cause| fault("target"))?;
    let canonical = call.target();
    if canonical.split('?').next() != Some(path) {
        return Err(fault("another spelling"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| fault("header"))?;
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^`|~".contains(&b);
        if name.is_empty() || !name.bytes().all(token) {
            return Err(fault("name"));
        }
        fields.push((name.to_ascii_lowercase(), value));
    }
    let all = |wanted: &str| -> Vec<&str> {
        let named = fields.iter().filter(|(name, _)| name == wanted);
        named.map(|(_, value)| *value).collect()
    };
    let may = |name: &str| MAY.contains(&name) || name.starts_with("oci-");
    if let Some((name, _)) = fields.iter().find(|(name, _)| !may(name)) {
        return Err(fault(name));
    }
    if all("host").len() != 1 {
        return Err(fault("host"));
    }
    // The catalog is read by the proxy itself, for all callers at once.
    let clients: &[&str] = match call {
        Call::Catalog(_) => &[],
        _ => &["127.0.0.1"],
    };
    if all("x-forwarded-for") != clients || all("x-forwarded-proto") != ["https"] {
        return Err(fault("forwarded"));
    }
    let framing = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Framing::Length(0),
        ([length], []) => Framing::Length(length.parse().map_err(|_cause| fault("length"))?),
        ([], ["chunked"]) => Framing::Chunked,
        (_, _) => return Err(fault("framed twice")),
    };
    Ok((method, path.to_owned(), framing))
}

async fn body(stream: &mut BufReader<TcpStream>, framing: Framing) -> Result<(), Broken> {
    let Framing::Length(length) = framing else {
        return chunks(stream).await;
    };
    skip(stream, length).await
}

async fn skip(stream: &mut BufReader<TcpStream>, length: u64) -> Result<(), Broken> {
    let taken = tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    // Whoever sends less has been left by its own client.
    if taken == length {
        Ok(())
    } else {
        Err(Broken::Gone)
    }
}

async fn chunks(stream: &mut BufReader<TcpStream>) -> Result<(), Broken> {
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(Broken::Gone);
        }
        let fault = || format!("chunk: {line:?}");
        let size = line.strip_suffix(b"\r\n").ok_or_else(fault)?;
        let size = std::str::from_utf8(size).map_err(|_cause| fault())?;
        let size = u64::from_str_radix(size, 16).map_err(|_cause| fault())?;
        skip(stream, size).await?;
        let mut end = [0; 2];
        stream.read_exact(&mut end).await?;
        if end != *b"\r\n" {
            // Also where trailers follow the last one.
            return Err(format!("end of a chunk: {end:?}").into());
        }
        if size == 0 {
            return Ok(());
        }
    }
}

fn answer(method: &Method, path: &str) -> String {
    let (status, more, body) = match method.as_str() {
        "GET" if path == "/v2/_catalog" => {
            ("200 OK", String::new(), "{\"repositories\":[\"a/b\"]}")
        }
        "GET" | "HEAD" => (
            "200 OK",
            "Connection: x-hop\r\nX-Hop: 1\r\n".to_owned(),
            "{}",
        ),
        "POST" | "PATCH" => {
            let place = path.trim_end_matches('/');
            let place = place.strip_suffix("/x").unwrap_or(place);
            let location = format!("Location: {place}/x?_state=1\r\n");
            ("202 Accepted", location, "")
        }
        "PUT" => ("201 Created", format!("Location: {path}\r\n"), ""),
        _ => ("202 Accepted", String::new(), ""),
    };
    let length = body.len();
    let body = if *method == Method::HEAD { "" } else { body };
    format!("HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\n\r\n{body}")
}
