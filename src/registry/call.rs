//! One request to the registry API, parsed: what it does, to which repository, and what that
//! needs. The request that goes upstream is written from this value, never from the client's bytes.

mod parse;
mod target;

pub use parse::CallError;

use super::{Action, Digest, Reference, RepoName, Tag};

/// Reading with or without the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The whole answer.
    Get,
    /// Its headers only.
    Head,
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// How many entries at most; never more than [`MAX_PAGE`] where a client asks.
    pub n: Option<u32>,
    /// The entry after which to begin.
    pub last: Option<String>,
}

/// Entries of a page of a listing at most; the registry answers more with an error.
pub const MAX_PAGE: u32 = 1000;

/// A blob to be mounted from another repository instead of uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The blob.
    pub digest: Digest,
    /// Where it is; without it some registries would search everywhere.
    pub from: Option<RepoName>,
}

/// What is done to a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestVerb {
    /// Delete it, or a tag.
    Delete,
    /// Store it, under a tag, or under a digest with any number of tags (1.2 end-7b).
    Put {
        /// Tags named in the query beside a digest.
        tags: Vec<Tag>,
    },
    /// Read it.
    Read(Read),
}

/// What is done to a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobVerb {
    /// Delete it.
    Delete,
    /// Read it.
    Read(Read),
}

/// What is done to an upload session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadVerb {
    /// Send a chunk.
    Append,
    /// Give up.
    Cancel,
    /// Send the rest and commit it as this digest.
    Finish(Digest),
    /// Ask how far it is.
    Status(Read),
}

/// An upload session's name at the registry: `[a-zA-Z0-9_.=-]{1,128}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadId(Box<str>);

impl UploadId {
    /// Parses a session's name; `None` when it is outside the grammar.
    pub fn parse(text: &str) -> Option<Self> {
        let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'=');
        let dots = text.bytes().all(|b| b == b'.');
        ((1..=128).contains(&text.len()) && !dots && text.bytes().all(word))
            .then(|| Self(text.into()))
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A request to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `GET /v2/<name>/blobs/<digest>` (end-2), `DELETE` (end-10).
    Blob {
        /// The repository.
        repo: RepoName,
        /// Its digest.
        digest: Digest,
        /// The method.
        verb: BlobVerb,
    },
    /// `GET /v2/_catalog`.
    Catalog(Page),
    /// `/v2/<name>/manifests/<reference>` (end-3, end-7, end-9).
    Manifest {
        /// The repository.
        repo: RepoName,
        /// Its tag or digest.
        reference: Reference,
        /// The method.
        verb: ManifestVerb,
    },
    /// `GET /v2/` (end-1).
    Ping,
    /// `GET /v2/<name>/referrers/<digest>` (end-12).
    Referrers {
        /// The repository.
        repo: RepoName,
        /// Its digest.
        digest: Digest,
        /// Only referrers of this type.
        artifact_type: Option<String>,
        /// With or without the body.
        read: Read,
    },
    /// `POST /v2/<name>/blobs/uploads/` (end-4a, end-4b, end-11).
    StartUpload {
        /// Where to.
        repo: RepoName,
        /// What to mount instead, if it can be.
        mount: Option<Mount>,
        /// The digest of a blob sent in this very request.
        digest: Option<Digest>,
        /// The algorithm the client will use (1.2 end-4c).
        algorithm: Option<String>,
    },
    /// `GET /v2/<name>/tags/list` (end-8).
    Tags {
        /// The repository.
        repo: RepoName,
        /// The page of them.
        page: Page,
        /// With or without the body.
        read: Read,
    },
    /// `/v2/<name>/blobs/uploads/<id>` (end-5, end-6, end-13, end-14).
    Upload {
        /// Where to.
        repo: RepoName,
        /// The session.
        id: UploadId,
        /// The method.
        verb: UploadVerb,
        /// The sealed proof of who began it, as handed out in `Location`.
        state: Option<String>,
    },
}

impl Call {
    /// The repository the call is about; `None` for `/v2/` and the catalog.
    pub fn repository(&self) -> Option<&RepoName> {
        match self {
            Self::Catalog(_) | Self::Ping => None,
            Self::Blob { repo, .. }
            | Self::Manifest { repo, .. }
            | Self::Referrers { repo, .. }
            | Self::StartUpload { repo, .. }
            | Self::Tags { repo, .. }
            | Self::Upload { repo, .. } => Some(repo),
        }
    }

    /// What the call does to its repository, in the policy's terms. A manifest put under a tag may
    /// need [`Action::Overwrite`] besides, see [`Call::tags_written`].
    pub fn action(&self) -> Option<Action> {
        match self {
            Self::Ping => None,
            Self::Catalog(_) => Some(Action::Catalog),
            Self::Blob {
                verb: BlobVerb::Read(_),
                ..
            }
            | Self::Manifest {
                verb: ManifestVerb::Read(_),
                ..
            }
            | Self::Referrers { .. }
            | Self::Tags { .. } => Some(Action::Pull),
            Self::Blob {
                verb: BlobVerb::Delete,
                ..
            }
            | Self::Manifest {
                verb: ManifestVerb::Delete,
                ..
            } => Some(Action::Delete),
            Self::Manifest {
                verb: ManifestVerb::Put { .. },
                ..
            }
            | Self::StartUpload { .. }
            | Self::Upload { .. } => Some(Action::Push),
        }
    }

    /// What the call acts on, for the audit record.
    pub fn object(&self) -> &'static str {
        match self {
            Self::Blob { .. } => "blob",
            Self::Catalog(_) => "catalog",
            Self::Manifest { .. } => "manifest",
            Self::Ping => "ping",
            Self::Referrers { .. } => "referrers",
            Self::StartUpload { .. } | Self::Upload { .. } => "upload",
            Self::Tags { .. } => "tags",
        }
    }

    /// The tag, digest or upload session named, for the audit record.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::Catalog(_) | Self::Ping | Self::Tags { .. } => None,
            Self::Blob { digest, .. }
            | Self::Referrers { digest, .. }
            | Self::Upload {
                verb: UploadVerb::Finish(digest),
                ..
            } => Some(digest.as_str()),
            Self::Manifest { reference, .. } => Some(reference.as_str()),
            Self::StartUpload { mount, digest, .. } => mount
                .as_ref()
                .map(|mount| mount.digest.as_str())
                .or(digest.as_ref().map(Digest::as_str)),
            Self::Upload { id, .. } => Some(id.as_str()),
        }
    }

    /// The content that the call itself names by its digest; of two, which the registry chooses
    /// from, none.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Blob { digest, .. }
            | Self::Manifest {
                reference: Reference::Digest(digest),
                ..
            }
            | Self::Upload {
                verb: UploadVerb::Finish(digest),
                ..
            } => Some(digest),
            Self::StartUpload {
                mount: Some(Mount { digest, .. }),
                digest: other,
                ..
            } => other
                .as_ref()
                .is_none_or(|other| other == digest)
                .then_some(digest),
            Self::StartUpload {
                mount: None,
                digest,
                ..
            } => digest.as_ref(),
            Self::Catalog(_)
            | Self::Manifest {
                reference: Reference::Tag(_),
                ..
            }
            | Self::Ping
            | Self::Referrers { .. }
            | Self::Tags { .. }
            | Self::Upload {
                verb: UploadVerb::Append | UploadVerb::Cancel | UploadVerb::Status(_),
                ..
            } => None,
        }
    }

    /// Whether the call makes something part of the registry, or takes it away: from its last byte on
    /// it can be done. An upload that is begun or continued is not part of anything yet.
    pub fn commits(&self) -> bool {
        match self {
            Self::Blob {
                verb: BlobVerb::Delete,
                ..
            }
            | Self::Manifest {
                verb: ManifestVerb::Delete | ManifestVerb::Put { .. },
                ..
            }
            | Self::Upload {
                verb: UploadVerb::Finish(_),
                ..
            } => true,
            Self::StartUpload { mount, digest, .. } => mount.is_some() || digest.is_some(),
            Self::Blob {
                verb: BlobVerb::Read(_),
                ..
            }
            | Self::Catalog(_)
            | Self::Manifest {
                verb: ManifestVerb::Read(_),
                ..
            }
            | Self::Ping
            | Self::Referrers { .. }
            | Self::Tags { .. }
            | Self::Upload {
                verb: UploadVerb::Append | UploadVerb::Cancel | UploadVerb::Status(_),
                ..
            } => false,
        }
    }

    /// The repository a blob is to be mounted from, which must be readable too.
    pub fn mount_source(&self) -> Option<&RepoName> {
        match self {
            Self::StartUpload {
                mount: Some(Mount { from, .. }),
                ..
            } => from.as_ref(),
            Self::Blob { .. }
            | Self::Catalog(_)
            | Self::Manifest { .. }
            | Self::Ping
            | Self::Referrers { .. }
            | Self::StartUpload { mount: None, .. }
            | Self::Tags { .. }
            | Self::Upload { .. } => None,
        }
    }

    /// The same call as an ordinary upload: what a client is told to do when it may not mount.
    #[must_use]
    pub fn without_mount(self) -> Self {
        match self {
            Self::StartUpload {
                repo,
                digest,
                algorithm,
                mount: _,
            } => Self::StartUpload {
                repo,
                mount: None,
                digest,
                algorithm,
            },
            other @ (Self::Blob { .. }
            | Self::Catalog(_)
            | Self::Manifest { .. }
            | Self::Ping
            | Self::Referrers { .. }
            | Self::Tags { .. }
            | Self::Upload { .. }) => other,
        }
    }

    /// The tags a manifest is put under. Where one of them exists, the call moves it.
    pub fn tags_written(&self) -> Vec<&Tag> {
        match self {
            Self::Manifest {
                reference,
                verb: ManifestVerb::Put { tags },
                ..
            } => {
                let named = match reference {
                    Reference::Tag(tag) => Some(tag),
                    Reference::Digest(_) => None,
                };
                named.into_iter().chain(tags).collect()
            }
            Self::Blob { .. }
            | Self::Catalog(_)
            | Self::Manifest { .. }
            | Self::Ping
            | Self::Referrers { .. }
            | Self::StartUpload { .. }
            | Self::Tags { .. }
            | Self::Upload { .. } => Vec::new(),
        }
    }

    /// Whether this is a pull in the sense of a pull limit: a GET of a manifest.
    pub fn is_pull(&self) -> bool {
        matches!(
            self,
            Self::Manifest {
                verb: ManifestVerb::Read(Read::Get),
                ..
            }
        )
    }

    /// Whether the call leaves the registry as it was.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Blob {
                verb: BlobVerb::Read(_),
                ..
            }
            | Self::Catalog(_)
            | Self::Manifest {
                verb: ManifestVerb::Read(_),
                ..
            }
            | Self::Ping
            | Self::Referrers { .. }
            | Self::Tags { .. }
            | Self::Upload {
                verb: UploadVerb::Status(_),
                ..
            } => true,
            Self::Blob {
                verb: BlobVerb::Delete,
                ..
            }
            | Self::Manifest {
                verb: ManifestVerb::Delete | ManifestVerb::Put { .. },
                ..
            }
            | Self::StartUpload { .. }
            | Self::Upload {
                verb: UploadVerb::Append | UploadVerb::Cancel | UploadVerb::Finish(_),
                ..
            } => false,
        }
    }

    /// The scope a token needs for this call, as the challenge names it (distribution token
    /// specification, "Token Scope"). A mount needs [`Call::source_scope`] too.
    pub fn scope(&self) -> Option<String> {
        let repo = match self {
            Self::Ping => return None,
            Self::Catalog(_) => return Some("registry:catalog:*".to_owned()),
            Self::Blob { repo, .. }
            | Self::Manifest { repo, .. }
            | Self::Referrers { repo, .. }
            | Self::StartUpload { repo, .. }
            | Self::Tags { repo, .. }
            | Self::Upload { repo, .. } => repo,
        };
        let actions = match self.action() {
            Some(Action::Delete) => "delete",
            Some(Action::Push | Action::Overwrite) => "pull,push",
            Some(Action::Pull | Action::Catalog) | None => "pull",
        };
        Some(format!("repository:{repo}:{actions}"))
    }

    /// The scope a token needs for the source of a mount, unless that is the target itself.
    pub fn source_scope(&self) -> Option<String> {
        let source = self.mount_source()?;
        (self.repository() != Some(source)).then(|| format!("repository:{source}:pull"))
    }
}

#[cfg(test)]
mod tests;
