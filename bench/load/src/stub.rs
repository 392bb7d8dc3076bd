//! A registry that does next to nothing, so that what is measured is the proxy before it. It keeps
//! no blobs, but hashes every upload and refuses a wrong digest, as the real one does.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use aws_lc_rs::digest::{Context as Hash, SHA256};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::content::{BLOB, Content, MANIFEST_TYPE, SHORT_BLOB, blocks, name};

/// The argument with which this program is the stub.
pub(crate) const COMMAND: &str = "stub";

struct Stub {
    content: Content,
    uploads: Mutex<HashMap<String, Hash>>,
}

/// Serves until the process is ended.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let stub = Arc::new(Stub {
        content: Content::new(),
        uploads: Mutex::default(),
    });
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let stub = Arc::clone(&stub);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let stub = Arc::clone(&stub);
                async move { Ok::<_, Infallible>(stub.answer(request).await) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            // A client that goes away is no news here.
            http.serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

impl Stub {
    async fn answer(&self, request: Request<Incoming>) -> Response<Sent> {
        let path = request.uri().path().to_owned();
        let part = |number| path.rsplit('/').nth(number).unwrap_or_default();
        match (request.method(), part(1), part(0)) {
            (&Method::GET | &Method::HEAD, "manifests", _) => self.manifest(),
            (&Method::GET, "blobs", digest) if digest == self.content.blob => {
                blob(digest, Sent::blob(&self.content))
            }
            (&Method::GET, "blobs", digest) if digest == self.content.short_blob => {
                blob(digest, Sent::short_blob(&self.content))
            }
            (&Method::GET, "v2", "") => answer(StatusCode::OK, &[], Bytes::from_static(b"{}")),
            (&Method::POST, "uploads", "") => self.begin(&path),
            (&Method::PATCH, "uploads", id) => self.take(id, &path, request.into_body()).await,
            (&Method::PUT, "uploads", id) => {
                let digest = digest_of(request.uri().query().unwrap_or_default());
                self.take(id, &path, request.into_body()).await;
                self.finish(id, &digest)
            }
            _ => answer(StatusCode::NOT_FOUND, &[], Bytes::new()),
        }
    }

    fn manifest(&self) -> Response<Sent> {
        let digest = self.content.manifest_digest.as_str();
        let headers = [
            ("content-type", MANIFEST_TYPE),
            ("docker-content-digest", digest),
        ];
        answer(StatusCode::OK, &headers, self.content.manifest.clone())
    }

    fn begin(&self, path: &str) -> Response<Sent> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let id = format!("0f8fad5b-d9cb-469f-a165-{:012x}", uploads.len());
        uploads.insert(id.clone(), Hash::new(&SHA256));
        let location = format!("{path}{id}?_state=x");
        answer(
            StatusCode::ACCEPTED,
            &[("location", &location), ("docker-upload-uuid", &id)],
            Bytes::new(),
        )
    }

    async fn take(&self, id: &str, path: &str, mut body: Incoming) -> Response<Sent> {
        let lock = || self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut hash) = lock().get(id).cloned() else {
            return answer(StatusCode::NOT_FOUND, &[], Bytes::new());
        };
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => hash.update(&data),
                Ok(Err(_trailers)) => {}
                Err(_) => return answer(StatusCode::BAD_REQUEST, &[], Bytes::new()),
            }
        }
        lock().insert(id.to_owned(), hash);
        let location = format!("{path}?_state=x");
        answer(
            StatusCode::ACCEPTED,
            &[("location", &location), ("docker-upload-uuid", id)],
            Bytes::new(),
        )
    }

    fn finish(&self, id: &str, digest: &str) -> Response<Sent> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        // The place stays, so that the next upload has a number of its own.
        let hash = uploads.insert(id.to_owned(), Hash::new(&SHA256));
        let is_right = hash.is_some_and(|hash| name(hash.finish().as_ref()) == digest);
        if is_right {
            answer(
                StatusCode::CREATED,
                &[("docker-content-digest", digest)],
                Bytes::new(),
            )
        } else {
            answer(StatusCode::BAD_REQUEST, &[], Bytes::new())
        }
    }
}

fn blob(digest: &str, body: Sent) -> Response<Sent> {
    let mut response = Response::new(body);
    if let Ok(digest) = http::HeaderValue::from_str(digest) {
        response
            .headers_mut()
            .insert("docker-content-digest", digest);
    }
    response
}

fn digest_of(query: &str) -> String {
    let digest = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("digest="));
    digest
        .unwrap_or_default()
        .replace("%3A", ":")
        .replace("%3a", ":")
}

fn answer(status: StatusCode, headers: &[(&str, &str)], body: Bytes) -> Response<Sent> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder
        .header("docker-distribution-api-version", "registry/2.0")
        .body(Sent::whole(body))
        .unwrap_or_else(|_| Response::new(Sent::whole(Bytes::new())))
}

/// A body: one block, so many times. Also what the load generator sends.
pub(crate) struct Sent {
    block: Bytes,
    left: u64,
    /// Otherwise nobody is told how long it is, so it is sent in chunks.
    is_counted: bool,
}

impl Sent {
    pub(crate) fn whole(block: Bytes) -> Self {
        Self {
            left: u64::from(!block.is_empty()),
            block,
            is_counted: true,
        }
    }

    pub(crate) fn blob(content: &Content) -> Self {
        Self::of_length(content, BLOB)
    }

    fn short_blob(content: &Content) -> Self {
        Self::of_length(content, SHORT_BLOB)
    }

    fn of_length(content: &Content, length: u64) -> Self {
        Self {
            block: content.block.clone(),
            left: blocks(length),
            is_counted: true,
        }
    }

    pub(crate) fn chunked(mut self) -> Self {
        self.is_counted = false;
        self
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.block.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left * self.block.len() as u64;
        if self.is_counted {
            SizeHint::with_exact(left)
        } else {
            SizeHint::new()
        }
    }
}
