//! Looks, for `portcullis check --online`, whether clients get a blob of this registry from somewhere
//! else, and follows there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, LOCATION, RANGE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::origin::{Origin, Scheme, Url};
use super::{Answer, MANIFESTS, Pool, RequestBody, Target, Upstream, UpstreamError, pool};
use crate::registry::{Digest, RepoName, Tag};

/// Repositories that are looked into for a blob.
const REPOSITORIES: usize = 10;
/// The longest list or manifest.
const MAX_BODY: usize = 4 << 20;
/// How long one answer may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Where a blob of this registry is read from.
#[derive(Debug)]
pub enum BlobSource {
    /// There is none to look at.
    NoBlob,
    /// From the registry itself.
    Registry,
    /// From a host that `upstream.redirect_hosts` allows: its name there, and the answer, or why there
    /// was none.
    Elsewhere(String, Result<StatusCode, String>),
    /// From where no client is let go.
    Barred(String),
}

impl Upstream {
    /// Reads one blob of the registry, or at least the beginning of it, and follows its redirect.
    ///
    /// # Errors
    ///
    /// The registry does not answer.
    pub async fn blob_source(&self) -> Result<BlobSource, UpstreamError> {
        let Some(blob) = self.some_blob().await? else {
            return Ok(BlobSource::NoBlob);
        };
        let Answer { head, body } = self.read(&blob, "*/*").await?;
        drop(body);
        if !head.status.is_redirection() {
            return Ok(BlobSource::Registry);
        }
        let location = head.headers.get(LOCATION);
        let location = location.and_then(|location| location.to_str().ok());
        let location = location.unwrap_or_default();
        if let Err(place) = self.redirect_hosts.check(location) {
            return Ok(BlobSource::Barred(place));
        }
        let Some(Url::Whole(origin, target)) = Url::parse(location) else {
            return Err(UpstreamError::Unusable("a redirect without a host"));
        };
        let answer = self.follow(&origin, target).await;
        Ok(BlobSource::Elsewhere(origin.to_string(), answer))
    }

    /// The path of a blob of the first image that is found.
    async fn some_blob(&self) -> Result<Option<String>, UpstreamError> {
        let list = format!("/v2/_catalog?n={REPOSITORIES}");
        let repositories = self.json(&list).await?;
        let names = repositories.get("repositories").and_then(Value::as_array);
        let names = names.into_iter().flatten().filter_map(Value::as_str);
        for repo in names.take(REPOSITORIES).filter_map(RepoName::parse) {
            let tags = self.json(&format!("/v2/{repo}/tags/list?n=1")).await?;
            let tag = tags.pointer("/tags/0").and_then(Value::as_str);
            let Some(tag) = tag.and_then(Tag::parse) else {
                continue;
            };
            let manifest = format!("/v2/{repo}/manifests/");
            let mut image = self.json(&format!("{manifest}{tag}")).await?;
            if let Some(digest) = digest_at(&image, "/manifests/0/digest") {
                image = self.json(&format!("{manifest}{digest}")).await?;
            }
            let blob =
                digest_at(&image, "/config/digest").or(digest_at(&image, "/layers/0/digest"));
            if let Some(digest) = blob {
                return Ok(Some(format!("/v2/{repo}/blobs/{digest}")));
            }
        }
        Ok(None)
    }

    async fn read(&self, target: &str, accept: &'static str) -> Result<Answer, UpstreamError> {
        let make = || {
            let mut request = self.request(Method::GET, target, "localhost", RequestBody::Empty)?;
            let accept = HeaderValue::from_static(accept);
            request.headers_mut().insert(ACCEPT, accept);
            Ok(request)
        };
        self.ask(make).await
    }

    /// What a list or manifest says; nothing where there is none.
    async fn json(&self, target: &str) -> Result<Value, UpstreamError> {
        let Answer { head, body } = self.read(target, MANIFESTS).await?;
        if head.status != StatusCode::OK {
            return Ok(Value::Null);
        }
        let arriving = Limited::new(body, MAX_BODY).collect();
        let body = tokio::time::timeout(BODY_TIME, arriving).await;
        let body: Bytes = body
            .map_err(|_elapsed| UpstreamError::Timeout)?
            .map_err(|_cause| UpstreamError::Unusable("a list or manifest broke off"))?
            .to_bytes();
        Ok(serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Asks another host for the first byte, without any credential, as a client would.
    async fn follow(&self, origin: &Origin, target: &str) -> Result<StatusCode, String> {
        let host = origin.host.trim_start_matches('[').trim_end_matches(']');
        let tls = match origin.scheme {
            Scheme::Http => None,
            Scheme::Https => {
                let trust = crate::tls::upstream_trust(None);
                let trust = trust.map_err(|error| error.to_string())?;
                Some(trust.config)
            }
        };
        let there = Target::Tcp {
            host: host.into(),
            port: origin.port,
            tls,
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        let request = Request::get(format!("{slash}{target}"))
            .header(HOST, origin.authority())
            .header(RANGE, "bytes=0-0")
            .body(RequestBody::Empty)
            .map_err(|error| error.to_string())?;
        let pool = Arc::new(Pool::default());
        let connecting = pool::connect(&there, &pool, 0);
        let connected = tokio::time::timeout(self.connect_timeout, connecting).await;
        let mut lease = connected
            .map_err(|_elapsed| "no connection in time".to_owned())?
            .map_err(|error| error.to_string())?;
        let limits = pool::Limits {
            progress: self.response_timeout,
            answer: self.response_timeout,
        };
        match lease.send(request, limits).await {
            Ok(answer) => Ok(answer.status()),
            Err(pool::Failure::Stalled) => Err("no answer in time".to_owned()),
            Err(pool::Failure::Broken(error)) => Err(error.into_error().to_string()),
        }
    }
}

fn digest_at(manifest: &Value, place: &str) -> Option<Digest> {
    manifest
        .pointer(place)
        .and_then(Value::as_str)
        .and_then(Digest::parse)
}
