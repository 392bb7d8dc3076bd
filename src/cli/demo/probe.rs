//! A trial of the demo: a request as a client makes it, through TLS, with the demo's user.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::folder::{Setup, USER};

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The registry's own answer.
    Works,
    /// The proxy's: the configuration has been edited and no longer knows the user.
    Refused(StatusCode),
}

/// Asks until the proxy and the registry both answer.
pub(super) struct Probe {
    tls: TlsConnector,
    port: u16,
    credentials: HeaderValue,
}

impl Probe {
    pub(super) fn new(setup: &Setup) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(setup.path("ca.pem")).context("ca.pem")?;
        roots.add(ca).context("ca.pem")?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let pair = Zeroizing::new(format!("{USER}:{}", *setup.password()?));
        let basic = Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())));
        let mut credentials = HeaderValue::from_str(&basic)?;
        credentials.set_sensitive(true);
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            port: setup.port,
            credentials,
        })
    }

    pub(super) async fn until_answered(&self) -> Answer {
        loop {
            // Why not yet is in the log of the one that is late.
            match self.ask().await {
                Ok(StatusCode::OK) => return Answer::Works,
                Ok(status) if !status.is_server_error() => return Answer::Refused(status),
                Ok(_) | Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
    }

    async fn ask(&self) -> Result<StatusCode> {
        let tcp = TcpStream::connect(("localhost", self.port)).await?;
        let name = ServerName::try_from("localhost")?;
        let io = TokioIo::new(self.tls.connect(name, tcp).await?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
        let request = Request::get("/v2/")
            .header(HOST, format!("localhost:{}", self.port))
            .header(AUTHORIZATION, self.credentials.clone())
            .body(Empty::<Bytes>::new())?;
        tokio::select! {
            answer = sender.send_request(request) => Ok(answer?.status()),
            ended = connection => {
                ended?;
                anyhow::bail!("the connection was closed")
            }
        }
    }
}
