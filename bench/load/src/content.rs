//! What is pulled and pushed, the same from the stub and from the real registry.

use aws_lc_rs::digest::{Context, SHA256, digest};
use bytes::Bytes;

pub(crate) const REPOSITORY: &str = "team-a/app";
pub(crate) const BLOCK: usize = 256 * 1024;
pub(crate) const BLOB: u64 = 256 * 1024 * 1024;
/// A blob for whoever has no time for the large one.
pub(crate) const SHORT_BLOB: u64 = 16 * 1024 * 1024;
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &[u8] = b"{}";

pub(crate) struct Content {
    /// The blob is this, over and over.
    pub(crate) block: Bytes,
    pub(crate) blob: String,
    pub(crate) short_blob: String,
    pub(crate) manifest: Bytes,
    pub(crate) manifest_digest: String,
}

impl Content {
    pub(crate) fn new() -> Self {
        let block = noise();
        let blob = digest_of(&block, BLOB);
        let short_blob = digest_of(&block, SHORT_BLOB);
        let manifest = Bytes::from(manifest(&blob));
        let manifest_digest = name(digest(&SHA256, &manifest).as_ref());
        Self {
            block,
            blob,
            short_blob,
            manifest,
            manifest_digest,
        }
    }
}

/// How many blocks a blob of that length has.
pub(crate) fn blocks(length: u64) -> u64 {
    length / BLOCK as u64
}

fn digest_of(block: &[u8], length: u64) -> String {
    let mut context = Context::new(&SHA256);
    for _ in 0..blocks(length) {
        context.update(block);
    }
    name(context.finish().as_ref())
}

/// A digest as the registry writes it.
pub(crate) fn name(sha256: &[u8]) -> String {
    use std::fmt::Write as _;
    sha256.iter().fold("sha256:".to_owned(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// About 2 KiB, as a manifest of an image with ten layers has.
fn manifest(blob: &str) -> String {
    let config = name(digest(&SHA256, CONFIG).as_ref());
    let padding = "0".repeat(1400);
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{blob}","size":{BLOB}}}],"annotations":{{"padding":"{padding}"}}}}"#,
        CONFIG.len()
    )
}

/// Bytes without a pattern (xorshift64).
fn noise() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..BLOCK / 8).flat_map(|_| next()).collect()
}
