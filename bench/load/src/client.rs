//! The load generator's side of a connection: hyper over tokio-rustls, every answer checked.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::content::{BLOB, Content, MANIFEST_TYPE, REPOSITORY, SHORT_BLOB};
use crate::stub::Sent;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// How a server is reached.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) address: SocketAddr,
    /// None: plain HTTP, for the bare registry.
    pub(crate) tls: Option<ClientConfig>,
}

impl Route {
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// The TLS configuration, with the one protocol that is to be spoken.
    pub(crate) fn config(&self, http: Http) -> Option<Arc<ClientConfig>> {
        let mut config = self.tls.clone()?;
        config.alpn_protocols = match http {
            Http::One => vec![b"http/1.1".to_vec()],
            Http::Two => vec![b"h2".to_vec()],
        };
        Some(Arc::new(config))
    }

    pub(crate) fn dial(&self, http: Http) -> Dial {
        Dial {
            address: self.address,
            authority: self.authority(),
            http,
            tls: self.config(http),
        }
    }
}

/// All that a connection needs, made once.
#[derive(Clone)]
pub(crate) struct Dial {
    address: SocketAddr,
    authority: String,
    http: Http,
    tls: Option<Arc<ClientConfig>>,
}

/// A request, and the answer it must get.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) authorization: Option<HeaderValue>,
    pub(crate) forwarded_for: Option<HeaderValue>,
    pub(crate) content_type: Option<&'static str>,
    pub(crate) status: u16,
    /// Of the answer's body; None: any.
    pub(crate) length: Option<u64>,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            authorization: None,
            forwarded_for: None,
            content_type: None,
            status: 200,
            length: None,
        }
    }

    pub(crate) fn manifest(content: &Content) -> Self {
        let length = Some(content.manifest.len() as u64);
        Self {
            length,
            ..Self::get(format!("/v2/{REPOSITORY}/manifests/latest"))
        }
    }

    pub(crate) fn blob(content: &Content) -> Self {
        Self {
            length: Some(BLOB),
            ..Self::get(format!("/v2/{REPOSITORY}/blobs/{}", content.blob))
        }
    }

    pub(crate) fn short_blob(content: &Content) -> Self {
        Self {
            length: Some(SHORT_BLOB),
            ..Self::get(format!("/v2/{REPOSITORY}/blobs/{}", content.short_blob))
        }
    }

    pub(crate) fn with(mut self, authorization: Option<HeaderValue>) -> Self {
        self.authorization = authorization;
        self
    }

    pub(crate) fn expecting(mut self, status: u16) -> Self {
        (self.status, self.length) = (status, None);
        self
    }

    fn request(&self, dial: &Dial, body: Sent) -> Result<Request<Sent>> {
        let builder = Request::builder().method(&self.method);
        let builder = match dial.http {
            Http::One => builder.uri(&self.path).header(HOST, &dial.authority),
            Http::Two => builder.uri(format!("https://{}{}", dial.authority, self.path)),
        };
        let mut request = builder.header("accept", MANIFEST_TYPE).body(body)?;
        let headers = request.headers_mut();
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        if let Some(value) = &self.forwarded_for {
            headers.insert("x-forwarded-for", value.clone());
        }
        if let Some(value) = self.content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
        }
        Ok(request)
    }
}

enum Sender {
    One(http1::SendRequest<Sent>),
    Two(http2::SendRequest<Sent>),
}

pub(crate) struct Connection {
    dial: Dial,
    sender: Sender,
    /// Whether the TLS session was begun on an earlier connection.
    pub(crate) is_resumed: bool,
}

impl Dial {
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address)
            .await
            .context("cannot connect")?;
        stream.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            return self.speak(stream, false).await;
        };
        let name = ServerName::try_from("localhost")?;
        let connector = TlsConnector::from(Arc::clone(tls));
        let stream = connector.connect(name, stream).await.context("no TLS")?;
        let kind = stream.get_ref().1.handshake_kind();
        self.speak(stream, kind == Some(rustls::HandshakeKind::Resumed))
            .await
    }

    async fn speak<S>(&self, stream: S, is_resumed: bool) -> Result<Connection>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        let sender = match self.http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await?;
                // Its errors reach whoever waits for an answer.
                tokio::spawn(async { connection.await.ok() });
                Sender::One(sender)
            }
            Http::Two => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(1 << 20)
                    .initial_connection_window_size(4 << 20)
                    .handshake(io)
                    .await?;
                tokio::spawn(async { connection.await.ok() });
                Sender::Two(sender)
            }
        };
        Ok(Connection {
            dial: self.clone(),
            sender,
            is_resumed,
        })
    }
}

impl Connection {
    /// Another user of the same connection: HTTP/2 only.
    pub(crate) fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::One(_) => None,
            Sender::Two(sender) => Some(Self {
                dial: self.dial.clone(),
                sender: Sender::Two(sender.clone()),
                is_resumed: self.is_resumed,
            }),
        }
    }

    /// The answer once its head is here, unchecked.
    pub(crate) async fn open(&mut self, call: &Call, body: Sent) -> Result<Response<Incoming>> {
        let request = call.request(&self.dial, body)?;
        match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                Ok(sender.send_request(request).await?)
            }
        }
    }

    /// Sends, reads the whole answer and checks it.
    pub(crate) async fn send(&mut self, call: &Call, body: Sent) -> Result<HeaderMap> {
        let (head, mut incoming) = self.open(call, body).await?.into_parts();
        let mut length = 0;
        let mut text = Vec::new();
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.context("the answer was cut")?.into_data() else {
                continue;
            };
            length += data.len() as u64;
            if head.status != call.status && text.len() < 300 {
                text.extend_from_slice(&data);
            }
        }
        let (status, path) = (head.status.as_u16(), &call.path);
        let text = String::from_utf8_lossy(&text);
        ensure!(
            status == call.status,
            "{path}: {status} instead of {}: {text}",
            call.status
        );
        let wanted = call.length.unwrap_or(length);
        ensure!(
            length == wanted,
            "{path}: {length} bytes instead of {wanted}"
        );
        Ok(head.headers)
    }

    pub(crate) async fn ask(&mut self, call: &Call) -> Result<HeaderMap> {
        self.send(call, Sent::whole(bytes::Bytes::new())).await
    }

    /// The body of an answer, for the few that are read.
    pub(crate) async fn read(&mut self, call: &Call) -> Result<Vec<u8>> {
        let response = self.open(call, Sent::whole(bytes::Bytes::new())).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes().to_vec();
        let text = String::from_utf8_lossy(&body);
        ensure!(status == call.status, "{}: {status}: {text}", call.path);
        Ok(body)
    }
}

/// Where an upload goes on, as path and query.
pub(crate) fn location(headers: &HeaderMap) -> Result<String> {
    let value = headers.get(LOCATION).context("no Location")?.to_str()?;
    let uri: http::Uri = value.parse()?;
    Ok(uri
        .path_and_query()
        .context("an empty Location")?
        .as_str()
        .to_owned())
}

/// `Authorization` of a user.
pub(crate) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    HeaderValue::from_str(&format!("Basic {text}")).ok()
}
