//! Blobs and manifests, pushed by hand.

use std::path::PathBuf;

use bytes::Bytes;
use portcullis::registry::Digest;

use super::folder::Folder;
use super::http::{Answer, Client};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

/// Bytes that do not repeat within a test, the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out.into()
}

/// An image of one layer, not yet anywhere.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) config: Bytes,
    pub(crate) layer: Bytes,
    pub(crate) manifest: Bytes,
}

impl Image {
    pub(crate) fn new(seed: u64) -> Self {
        let layer = noise(seed, 3000);
        let config = Bytes::from(
            serde_json::json!({
                "architecture": "amd64", "os": "linux", "config": {}, "seed": seed,
                "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            })
            .to_string(),
        );
        let manifest = Bytes::from(
            serde_json::json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": digest(&config), "size": config.len(),
                },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": digest(&layer), "size": layer.len(),
                }],
            })
            .to_string(),
        );
        Self {
            config,
            layer,
            manifest,
        }
    }

    pub(crate) fn digest(&self) -> String {
        digest(&self.manifest)
    }

    /// Pushes blobs and manifest; the answer to the manifest.
    pub(crate) async fn push(&self, client: &Client, repository: &str, tag: &str) -> Answer {
        for blob in [&self.config, &self.layer] {
            let answer = push_blob(client, repository, blob).await;
            assert_eq!(answer.status, 201, "{answer:?}");
        }
        self.push_manifest(client, repository, tag).await
    }

    pub(crate) async fn push_manifest(&self, client: &Client, repo: &str, tag: &str) -> Answer {
        client
            .put(&format!("/v2/{repo}/manifests/{tag}"))
            .header("content-type", MANIFEST)
            .body(self.manifest.clone())
            .send()
            .await
    }
}

/// Begins an upload; the path of its session.
pub(crate) async fn begin_upload(client: &Client, repository: &str) -> String {
    let answer = client
        .post(&format!("/v2/{repository}/blobs/uploads/"))
        .send()
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    answer.location()
}

/// POST and one PUT with everything.
pub(crate) async fn push_blob(client: &Client, repository: &str, blob: &Bytes) -> Answer {
    let session = begin_upload(client, repository).await;
    finish_upload(client, &session, blob.clone(), &digest(blob)).await
}

pub(crate) async fn finish_upload(
    client: &Client,
    session: &str,
    rest: Bytes,
    digest: &str,
) -> Answer {
    client
        .put(&with_digest(session, digest))
        .header("content-type", "application/octet-stream")
        .body(rest)
        .send()
        .await
}

/// Waits until the registry has begun to write an upload to `team-a/app` down; where it does.
pub(crate) async fn under_way(folder: &Folder, session: &str) -> PathBuf {
    let uploads = "storage/docker/registry/v2/repositories/team-a/app/_uploads";
    let id = session
        .split('?')
        .next()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap();
    let data = folder.join(uploads).join(id).join("data");
    super::eventually("bytes at the registry", || {
        let length = std::fs::metadata(&data).map_or(0, |data| data.len());
        (length > 0).then_some(())
    })
    .await;
    data
}

/// The session's path with the parameter that commits it.
pub(crate) fn with_digest(session: &str, digest: &str) -> String {
    let separator = if session.contains('?') { '&' } else { '?' };
    format!("{session}{separator}digest={digest}")
}
