//! A client that sends what it is told to, over HTTP/1.1 or HTTP/2, and hides nothing of the answer.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::Pair;
use super::{PATIENCE, within};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

impl Http {
    pub(crate) const BOTH: [Self; 2] = [Self::One, Self::Two];
}

/// Where to, how, and as whom. Each `send` opens a connection; see [`Client::connect`] to keep one.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    /// What `Host` or `:authority` says.
    pub(crate) authority: String,
    /// Which of this machine's addresses it comes from.
    pub(crate) source: IpAddr,
    /// What is sent before TLS.
    preface: Vec<u8>,
    tls: Option<Arc<ClientConfig>>,
    http: Http,
    authorization: Option<String>,
}

impl Client {
    /// Without TLS, by HTTP/1.1.
    pub(crate) fn plain(address: SocketAddr) -> Self {
        Self {
            address,
            authority: address.to_string(),
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            preface: Vec::new(),
            tls: None,
            http: Http::One,
            authorization: None,
        }
    }

    /// With TLS, trusting the authority in `ca`; by HTTP/1.1 unless said otherwise.
    pub(crate) fn tls(address: SocketAddr, ca: &str) -> Self {
        Self {
            address,
            authority: format!("localhost:{}", address.port()),
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            preface: Vec::new(),
            tls: Some(Arc::new(tls_config(ca, None, rustls::DEFAULT_VERSIONS))),
            http: Http::One,
            authorization: None,
        }
    }

    /// The same with a client certificate, in one version of TLS only. All clones of it share their
    /// TLS sessions, and resume them as soon as the server lets them.
    pub(crate) fn showing_by(
        &self,
        ca: &str,
        pair: &Pair,
        version: &'static SupportedProtocolVersion,
    ) -> Self {
        let mut client = self.clone();
        client.tls = Some(Arc::new(tls_config(ca, Some(pair), &[version])));
        client.over(self.http)
    }

    pub(crate) fn over(&self, http: Http) -> Self {
        let mut client = self.clone();
        client.http = http;
        if let Some(tls) = &mut client.tls {
            let alpn: &[u8] = match http {
                Http::One => b"http/1.1",
                Http::Two => b"h2",
            };
            Arc::make_mut(tls).alpn_protocols = vec![alpn.to_vec()];
        }
        client
    }

    /// All of 127.0.0.0/8 is this machine.
    pub(crate) fn out_of(&self, source: [u8; 4]) -> Self {
        let mut client = self.clone();
        client.source = source.into();
        client
    }

    /// Begins every connection with these bytes, before TLS.
    pub(crate) fn prefaced(&self, bytes: impl Into<Vec<u8>>) -> Self {
        let mut client = self.clone();
        client.preface = bytes.into();
        client
    }

    pub(crate) fn with_authorization(&self, value: impl Into<String>) -> Self {
        let mut client = self.clone();
        client.authorization = Some(value.into());
        client
    }

    pub(crate) fn basic(&self, user: &str, password: &str) -> Self {
        self.with_authorization(basic(user, password))
    }

    pub(crate) fn bearer(&self, token: &str) -> Self {
        self.with_authorization(format!("Bearer {token}"))
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub(crate) fn head(&self, path: &str) -> Call {
        self.call(Method::HEAD, path)
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub(crate) fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Call {
        self.call(Method::PATCH, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    pub(crate) fn call(&self, method: Method, path: &str) -> Call {
        Call {
            client: self.clone(),
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Outgoing::empty(),
        }
    }

    /// A connection to send several requests on.
    pub(crate) async fn connect(&self) -> Connection {
        let connection = self.try_connect().await;
        connection.unwrap_or_else(|error| panic!("no connection to {}: {error}", self.address))
    }

    pub(crate) async fn try_connect(&self) -> io::Result<Connection> {
        let sender = match &self.tls {
            None => shake(self.http, self.tcp().await?).await,
            Some(_) => shake(self.http, self.raw().await?).await,
        };
        sender.map_err(io::Error::other)
    }

    /// A bare TLS stream, for bytes no client library would send.
    pub(crate) async fn raw(&self) -> io::Result<TlsStream<TcpStream>> {
        let tls = Arc::clone(self.tls.as_ref().expect("a TLS client"));
        let tcp = self.tcp().await?;
        let name = ServerName::try_from("localhost").unwrap();
        within(
            PATIENCE,
            "the TLS handshake",
            TlsConnector::from(tls).connect(name, tcp),
        )
        .await
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let mut tcp = if self.source.is_unspecified() {
            TcpStream::connect(self.address).await?
        } else {
            let socket = TcpSocket::new_v4()?;
            socket.bind((self.source, 0).into())?;
            socket.connect(self.address).await?
        };
        tcp.set_nodelay(true)?;
        tcp.write_all(&self.preface).await?;
        Ok(tcp)
    }

    /// Sends bytes as they are and reads until the other side closes.
    pub(crate) async fn raw_exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.raw().await.unwrap();
        // The other side may well have closed before it has read all.
        drop(stream.write_all(bytes).await);
        drop(stream.flush().await);
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        drop(within(PATIENCE, "the end of the answer", read).await);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn tls_config(
    ca: &str,
    pair: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match pair {
        None => config.with_no_client_auth(),
        Some(pair) => {
            let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
            let chain = chain.collect::<Result<_, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            let key = provider.key_provider.load_private_key(key).unwrap();
            // Without the checks of `with_client_auth_cert`: it shows whatever the test made.
            let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
            config.with_client_cert_resolver(Arc::new(shown))
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// The value of an `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A request being put together.
pub(crate) struct Call {
    client: Client,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Outgoing,
}

impl Call {
    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Outgoing>) -> Self {
        self.body = body.into();
        self
    }

    /// A form, as token clients send it.
    pub(crate) fn form(self, fields: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (name, value) in fields {
            if !text.is_empty() {
                text.push('&');
            }
            text += name;
            text.push('=');
            text += &escape(value);
        }
        self.header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(text))
    }

    /// Sends it on a connection of its own and reads the whole answer.
    pub(crate) async fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.path);
        self.try_send()
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    pub(crate) async fn try_send(self) -> io::Result<Answer> {
        let mut connection = self.client.try_connect().await?;
        connection.try_send(self).await
    }

    /// Sends it and gives the answer as soon as its head is there.
    pub(crate) async fn open(self) -> Response<Incoming> {
        let mut connection = self.client.connect().await;
        connection.open(self).await.unwrap()
    }

    fn into_request(self, http: Http) -> Request<Outgoing> {
        let client = &self.client;
        let uri = match http {
            Http::One => self.path,
            Http::Two => format!("https://{}{}", client.authority, self.path),
        };
        let mut request = Request::builder().method(self.method).uri(uri);
        if http == Http::One {
            request = request.header("host", &client.authority);
        }
        if let Some(value) = &client.authorization {
            request = request.header("authorization", value);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(self.body).unwrap()
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Everything but what may stand in a form's value as it is.
pub(crate) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let one = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// One connection.
pub(crate) enum Connection {
    One(http1::SendRequest<Outgoing>),
    Two(http2::SendRequest<Outgoing>),
}

impl Connection {
    pub(crate) async fn send(&mut self, call: Call) -> Answer {
        self.try_send(call).await.unwrap()
    }

    pub(crate) async fn try_send(&mut self, call: Call) -> io::Result<Answer> {
        let response = self.open(call).await.map_err(io::Error::other)?;
        Answer::read(response).await.map_err(io::Error::other)
    }

    pub(crate) async fn open(&mut self, call: Call) -> hyper::Result<Response<Incoming>> {
        let what = format!("the answer to {} {}", call.method, call.path);
        // A body that is fed takes as long as its test wants.
        let limit = match &call.body {
            Outgoing::Whole(_) => PATIENCE,
            Outgoing::Fed(_) => PATIENCE * 8,
        };
        match self {
            Self::One(sender) => {
                sender.ready().await?;
                let answer = sender.send_request(call.into_request(Http::One));
                within(limit, &what, answer).await
            }
            Self::Two(sender) => {
                sender.ready().await?;
                let answer = sender.send_request(call.into_request(Http::Two));
                within(limit, &what, answer).await
            }
        }
    }

    /// Whether the other side has closed.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }
}

async fn shake<S>(http: Http, stream: S) -> hyper::Result<Connection>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    Ok(match http {
        Http::One => {
            let (sender, connection) = http1::Builder::new().handshake(io).await?;
            tokio::spawn(connection);
            Connection::One(sender)
        }
        Http::Two => {
            let builder = http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = builder.handshake(io).await?;
            tokio::spawn(connection);
            Connection::Two(sender)
        }
    })
}

/// Headers of answers: those of the registry API, ours, those of the status page, and two that tests
/// configure. Those for pages of other origins have a test of their own.
const MAY_ANSWER: [&str; 32] = [
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "connection",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-security-policy",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-ratelimit-source",
    "docker-upload-uuid",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "range",
    "retry-after",
    "strict-transport-security",
    "transfer-encoding",
    "vary",
    "warning",
    "www-authenticate",
    "x-content-type-options",
    "x-frame-options",
    "x-portcullis-ref",
    "x-request-id",
];

/// A whole answer.
#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        for name in head.headers.keys().map(http::HeaderName::as_str) {
            let is_known = MAY_ANSWER.contains(&name)
                || name.starts_with("oci-")
                || name.starts_with("access-control-")
                || name.starts_with("ratelimit-");
            assert!(is_known, "no answer has {name}: {:?}", head.headers);
        }
        let body = within(PATIENCE, "the body of an answer", body.collect())
            .await?
            .to_bytes();
        Ok(Self {
            status: head.status.as_u16(),
            version: head.version,
            headers: head.headers,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The code of the first error in the body.
    pub(crate) fn code(&self) -> String {
        self.json()["errors"][0]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The message of the first error in the body.
    pub(crate) fn message(&self) -> String {
        self.json()["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The reference at the end of the message.
    pub(crate) fn reference(&self) -> String {
        let message = self.message();
        let tail = message
            .rsplit_once("[ref ")
            .map(|(_, tail)| tail.trim_end_matches(']'));
        tail.unwrap_or_else(|| panic!("no reference in {message}"))
            .to_owned()
    }

    /// Path and query of `Location`.
    pub(crate) fn location(&self) -> String {
        let location = self
            .header("location")
            .unwrap_or_else(|| panic!("no Location: {self:?}"));
        match location.split_once("://") {
            None => location.to_owned(),
            Some((_, rest)) => rest[rest.find('/').unwrap()..].to_owned(),
        }
    }

    /// An error of the registry API, complete as every client needs it.
    #[track_caller]
    pub(crate) fn assert_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("docker-distribution-api-version"),
            Some("registry/2.0"),
            "{self:?}"
        );
        let kind = self.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/json"), "{self:?}");
        assert_eq!(self.code(), code, "{self:?}");
        assert!(!self.reference().is_empty());
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = StatusCode::from_u16(self.status).unwrap();
        writeln!(f, "{:?} {status}", self.version)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let text = self.text();
        write!(f, "\n{}", text.chars().take(2000).collect::<String>())
    }
}

/// A request's body: all of it, or what the test feeds into it.
pub(crate) enum Outgoing {
    Whole(Full<Bytes>),
    Fed(mpsc::Receiver<io::Result<Bytes>>),
}

/// The end into which a test feeds a body. Dropping it ends the body in good order; sending an
/// error breaks it off.
pub(crate) type Feeder = mpsc::Sender<io::Result<Bytes>>;

impl Outgoing {
    pub(crate) fn empty() -> Self {
        Self::Whole(Full::default())
    }

    pub(crate) fn fed() -> (Feeder, Self) {
        let (feeder, fed) = mpsc::channel(1);
        (feeder, Self::Fed(fed))
    }
}

impl From<Bytes> for Outgoing {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl From<&'static str> for Outgoing {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Fed(fed) => {
                let next = ready!(fed.poll_recv(cx));
                Poll::Ready(next.map(|item| item.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(full) => full.is_end_stream(),
            Self::Fed(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(full) => full.size_hint(),
            Self::Fed(_) => hyper::body::SizeHint::default(),
        }
    }
}
