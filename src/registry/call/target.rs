//! From a call to the request target that goes upstream.

use std::borrow::Cow;

use super::{Call, ManifestVerb, Page, UploadVerb};
use crate::registry::query::encode;
use crate::registry::{Digest, RepoName};

impl Call {
    /// The canonical path and query. Upload sessions carry the registry's own query besides, which
    /// is not the client's to choose.
    pub fn target(&self) -> String {
        let mut out = String::with_capacity(96);
        self.write_path(&mut out);
        let query = self.query_as(|value| Cow::Borrowed(value));
        if !query.is_empty() {
            out.extend(["?", &query]);
        }
        out
    }

    fn write_path(&self, out: &mut String) {
        out.push_str("/v2/");
        match self {
            Self::Ping => {}
            Self::Catalog(_) => out.push_str("_catalog"),
            Self::Tags { repo, .. } => out.extend([repo.as_str(), "/tags/list"]),
            Self::Manifest {
                repo, reference, ..
            } => out.extend([repo.as_str(), "/manifests/", reference.as_str()]),
            Self::Blob { repo, digest, .. } => {
                out.extend([repo.as_str(), "/blobs/", digest.as_str()]);
            }
            Self::Referrers { repo, digest, .. } => {
                out.extend([repo.as_str(), "/referrers/", digest.as_str()]);
            }
            Self::StartUpload { repo, .. } => out.extend([repo.as_str(), "/blobs/uploads/"]),
            Self::Upload { repo, id, .. } => {
                out.extend([repo.as_str(), "/blobs/uploads/", id.as_str()]);
            }
        }
    }

    /// The canonical query without its question mark, with each value as `shown` has it; empty for none.
    pub fn query_as(&self, shown: fn(&str) -> Cow<'_, str>) -> String {
        let mut parameters = Parameters {
            query: String::new(),
            shown,
        };
        match self {
            Self::Ping | Self::Blob { .. } => {}
            Self::Catalog(page) | Self::Tags { page, .. } => parameters.page(page),
            Self::Manifest { verb, .. } => {
                if let ManifestVerb::Put { tags } = verb {
                    for tag in tags {
                        parameters.add("tag", tag.as_str());
                    }
                }
            }
            Self::Referrers { artifact_type, .. } => {
                parameters.add_some("artifactType", artifact_type.as_deref());
            }
            Self::StartUpload {
                repo: _,
                mount,
                digest,
                algorithm,
            } => {
                if let Some(mount) = mount {
                    parameters.add("mount", mount.digest.as_str());
                    parameters.add_some("from", mount.from.as_ref().map(RepoName::as_str));
                }
                parameters.add_some("digest", digest.as_ref().map(Digest::as_str));
                parameters.add_some("digest-algorithm", algorithm.as_deref());
            }
            Self::Upload { verb, .. } => {
                if let UploadVerb::Finish(digest) = verb {
                    parameters.add("digest", digest.as_str());
                }
            }
        }
        parameters.query
    }
}

/// The query under construction.
struct Parameters {
    query: String,
    shown: fn(&str) -> Cow<'_, str>,
}

impl Parameters {
    fn add(&mut self, name: &str, value: &str) {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.push_str(name);
        self.query.push('=');
        match (self.shown)(value) {
            Cow::Borrowed(value) => encode(value, &mut self.query),
            Cow::Owned(instead) => self.query.push_str(&instead),
        }
    }

    fn add_some(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    fn page(&mut self, page: &Page) {
        self.add_some("n", page.n.map(|n| n.to_string()).as_deref());
        self.add_some("last", page.last.as_deref());
    }
}
