//! One request to the registry API, parsed: what it does, to which repository, and what that
//! needs. The request that goes upstream is written from this value, never from the client's bytes.

use http::Method;

use super::query::{Query, QueryError, encode};
use super::reference::is_algorithm;
use super::{Digest, Reference, RepoName, Tag};

/// No path of the API is longer: a name, a keyword and a digest.
const MAX_PATH: usize = 1024;
/// The longest `last` or `artifactType` passed on, in bytes.
const MAX_VALUE: usize = 256;

/// What a policy grants or denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// See the whole catalog.
    Catalog,
    /// Delete manifests, tags and blobs.
    Delete,
    /// Move a tag that exists.
    Overwrite,
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Upload blobs and create tags.
    Push,
}

impl Action {
    /// Every action, in the order in which people name them.
    pub const ALL: [Self; 5] = [
        Self::Pull,
        Self::Push,
        Self::Overwrite,
        Self::Delete,
        Self::Catalog,
    ];

    /// The action's name in configuration, audit records and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Delete => "delete",
            Self::Overwrite => "overwrite",
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }

    /// Reads an action's name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

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
    /// How many entries at most.
    pub n: Option<u32>,
    /// The entry after which to begin.
    pub last: Option<String>,
}

/// Entries of a page of the catalog at most; the registry answers more with an error.
pub const MAX_PAGE: u32 = 1000;

impl Page {
    /// The page, no larger than the registry would have it.
    fn bounded(self) -> Self {
        Self {
            n: self.n.map(|n| n.min(MAX_PAGE)),
            ..self
        }
    }
}

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
        /// Whose blob.
        repo: RepoName,
        /// Which.
        digest: Digest,
        /// What is done to it.
        verb: BlobVerb,
    },
    /// `GET /v2/_catalog`.
    Catalog(Page),
    /// `/v2/<name>/manifests/<reference>` (end-3, end-7, end-9).
    Manifest {
        /// Whose manifest.
        repo: RepoName,
        /// Which.
        reference: Reference,
        /// What is done to it.
        verb: ManifestVerb,
    },
    /// `GET /v2/` (end-1).
    Ping,
    /// `GET /v2/<name>/referrers/<digest>` (end-12).
    Referrers {
        /// Whose manifest.
        repo: RepoName,
        /// Which.
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
        /// Whose tags.
        repo: RepoName,
        /// Which page of them.
        page: Page,
        /// With or without the body.
        read: Read,
    },
    /// `/v2/<name>/blobs/uploads/<id>` (end-5, end-6, end-13, end-14).
    Upload {
        /// Where to.
        repo: RepoName,
        /// Which session.
        id: UploadId,
        /// What is done to it.
        verb: UploadVerb,
        /// The sealed proof of who began it, as handed out in `Location`.
        state: Option<String>,
    },
}

/// Why a request is not one of the API. None of these is ever forwarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// A digest parameter that is none.
    #[error("`{0}` is not a digest")]
    Digest(&'static str),
    /// A method this end point does not have.
    #[error("this method is not supported here")]
    Method {
        /// What the end point does have, for `Allow`.
        allow: &'static str,
    },
    /// Not a path of the API.
    #[error("this is not a path of the registry API")]
    Path,
    /// `n` is not a number.
    #[error("`n` is not a number")]
    Pagination,
    /// The query cannot be read in exactly one way.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A parameter outside its grammar.
    #[error("the parameter `{0}` is not valid")]
    Parameter(&'static str),
}

impl Call {
    /// Parses a request's head. `path` and `query` are as they stood on the wire.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Result<Self, CallError> {
        let path = canonical(path).ok_or(CallError::Path)?;
        let route = Route::parse(&path).ok_or(CallError::Path)?;
        let allow = route.allow();
        let refused = || CallError::Method { allow };
        if !allow.split(", ").any(|known| known == method.as_str()) {
            return Err(refused());
        }
        let query = Query::parse(query, &["tag"])?;
        let read = read(method);
        Ok(match route {
            Route::Ping => Self::Ping,
            Route::Catalog => Self::Catalog(page(&query)?.bounded()),
            Route::Tags(repo) => Self::Tags {
                repo,
                page: page(&query)?,
                read: read.ok_or_else(refused)?,
            },
            Route::Manifest(repo, reference) => {
                let verb = match (read, method) {
                    (Some(read), _) => ManifestVerb::Read(read),
                    (None, &Method::DELETE) => ManifestVerb::Delete,
                    (None, _) => ManifestVerb::Put {
                        tags: tags(&query, &reference)?,
                    },
                };
                Self::Manifest {
                    repo,
                    reference,
                    verb,
                }
            }
            Route::Blob(repo, digest) => {
                let verb = read.map_or(BlobVerb::Delete, BlobVerb::Read);
                Self::Blob { repo, digest, verb }
            }
            Route::Referrers(repo, digest) => Self::Referrers {
                repo,
                digest,
                artifact_type: bounded(&query, "artifactType")?,
                read: read.ok_or_else(refused)?,
            },
            Route::StartUpload(repo) => Self::StartUpload {
                repo,
                mount: mount(&query)?,
                digest: digest(&query, "digest")?,
                algorithm: algorithm(&query)?,
            },
            Route::Upload(repo, id) => {
                let verb = match (read, method) {
                    (Some(read), _) => UploadVerb::Status(read),
                    (None, &Method::PATCH) => UploadVerb::Append,
                    (None, &Method::DELETE) => UploadVerb::Cancel,
                    (None, _) => UploadVerb::Finish(
                        digest(&query, "digest")?.ok_or(CallError::Digest("digest"))?,
                    ),
                };
                let state = query.value("_state").map(str::to_owned);
                Self::Upload {
                    repo,
                    id,
                    verb,
                    state,
                }
            }
        })
    }

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

    /// The scope a token needs for this call, as the challenge names it
    /// (distribution token specification, "Token Scope").
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

    /// The canonical path and query. Upload sessions carry the registry's own query besides, which
    /// is not the client's to choose.
    pub fn target(&self) -> String {
        let mut out = String::with_capacity(96);
        out.push_str("/v2/");
        let mut parameters = Parameters::default();
        match self {
            Self::Ping => {}
            Self::Catalog(page) => {
                out.push_str("_catalog");
                parameters.page(page);
            }
            Self::Tags { repo, page, .. } => {
                out.extend([repo.as_str(), "/tags/list"]);
                parameters.page(page);
            }
            Self::Manifest {
                repo,
                reference,
                verb,
            } => {
                out.extend([repo.as_str(), "/manifests/", reference.as_str()]);
                if let ManifestVerb::Put { tags } = verb {
                    for tag in tags {
                        parameters.add("tag", tag.as_str());
                    }
                }
            }
            Self::Blob { repo, digest, .. } => {
                out.extend([repo.as_str(), "/blobs/", digest.as_str()]);
            }
            Self::Referrers {
                repo,
                digest,
                artifact_type,
                ..
            } => {
                out.extend([repo.as_str(), "/referrers/", digest.as_str()]);
                parameters.add_some("artifactType", artifact_type.as_deref());
            }
            Self::StartUpload {
                repo,
                mount,
                digest,
                algorithm,
            } => {
                out.extend([repo.as_str(), "/blobs/uploads/"]);
                if let Some(mount) = mount {
                    parameters.add("mount", mount.digest.as_str());
                    parameters.add_some("from", mount.from.as_ref().map(RepoName::as_str));
                }
                parameters.add_some("digest", digest.as_ref().map(Digest::as_str));
                parameters.add_some("digest-algorithm", algorithm.as_deref());
            }
            Self::Upload { repo, id, verb, .. } => {
                out.extend([repo.as_str(), "/blobs/uploads/", id.as_str()]);
                if let UploadVerb::Finish(digest) = verb {
                    parameters.add("digest", digest.as_str());
                }
            }
        }
        out.push_str(&parameters.0);
        out
    }
}

/// The query under construction, with its leading `?`.
#[derive(Default)]
struct Parameters(String);

impl Parameters {
    fn add(&mut self, name: &str, value: &str) {
        self.0.push(if self.0.is_empty() { '?' } else { '&' });
        self.0.push_str(name);
        self.0.push('=');
        encode(value, &mut self.0);
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

/// An end point, before the method and the query are looked at.
enum Route {
    Blob(RepoName, Digest),
    Catalog,
    Manifest(RepoName, Reference),
    Ping,
    Referrers(RepoName, Digest),
    StartUpload(RepoName),
    Tags(RepoName),
    Upload(RepoName, UploadId),
}

impl Route {
    /// Splits from the right, as the registry's greedy patterns do: in `a/manifests/b/manifests/v1`
    /// the name is `a/manifests/b`.
    fn parse(path: &str) -> Option<Self> {
        let rest = match path {
            "/v2" => return Some(Self::Ping),
            _ => path.strip_prefix("/v2/")?,
        };
        match rest {
            "" => return Some(Self::Ping),
            "_catalog" => return Some(Self::Catalog),
            _ => {}
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Self::Tags(RepoName::parse(name)?));
        }
        let (head, last) = rest.rsplit_once('/')?;
        if let Some(name) = head.strip_suffix("/blobs/uploads") {
            let repo = RepoName::parse(name)?;
            return match last {
                "" => Some(Self::StartUpload(repo)),
                id => UploadId::parse(id).map(|id| Self::Upload(repo, id)),
            };
        }
        let (name, keyword) = head.rsplit_once('/')?;
        let repo = RepoName::parse(name)?;
        match keyword {
            "manifests" => Reference::parse(last).map(|found| Self::Manifest(repo, found)),
            "blobs" => Digest::parse(last).map(|found| Self::Blob(repo, found)),
            "referrers" => Digest::parse(last).map(|found| Self::Referrers(repo, found)),
            _ => None,
        }
    }

    fn allow(&self) -> &'static str {
        match self {
            Self::Blob(..) => "GET, HEAD, DELETE",
            Self::Catalog => "GET",
            Self::Manifest(..) => "GET, HEAD, PUT, DELETE",
            Self::Ping | Self::Referrers(..) | Self::Tags(_) => "GET, HEAD",
            Self::StartUpload(_) => "POST",
            Self::Upload(..) => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }
}

/// The path with a digest's escaped colon put right; `None` if it holds anything else that would
/// need decoding, or a byte no path of the API has.
fn canonical(path: &str) -> Option<String> {
    if path.len() > MAX_PATH {
        return None;
    }
    let path = if path.contains('%') {
        path.replace("%3A", ":").replace("%3a", ":")
    } else {
        path.into()
    };
    let legal = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b':' | b'=' | b'+')
    };
    path.bytes().all(legal).then_some(path)
}

fn read(method: &Method) -> Option<Read> {
    match *method {
        Method::GET => Some(Read::Get),
        Method::HEAD => Some(Read::Head),
        _ => None,
    }
}

fn page(query: &Query) -> Result<Page, CallError> {
    let n = match query.value("n") {
        None | Some("") => None,
        Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            Some(text.parse().map_or(u32::MAX, |n: u32| n))
        }
        Some(_) => return Err(CallError::Pagination),
    };
    Ok(Page {
        n,
        last: bounded(query, "last")?,
    })
}

fn bounded(query: &Query, name: &'static str) -> Result<Option<String>, CallError> {
    match query.value(name) {
        Some(value) if value.len() > MAX_VALUE => Err(CallError::Parameter(name)),
        value => Ok(value.map(str::to_owned)),
    }
}

fn digest(query: &Query, name: &'static str) -> Result<Option<Digest>, CallError> {
    let Some(text) = query.value(name) else {
        return Ok(None);
    };
    Digest::parse(text).map(Some).ok_or(CallError::Digest(name))
}

fn mount(query: &Query) -> Result<Option<Mount>, CallError> {
    let from = match query.value("from") {
        None => None,
        Some(name) => Some(RepoName::parse(name).ok_or(CallError::Parameter("from"))?),
    };
    Ok(digest(query, "mount")?.map(|digest| Mount { digest, from }))
}

fn algorithm(query: &Query) -> Result<Option<String>, CallError> {
    match query.value("digest-algorithm") {
        None => Ok(None),
        Some(name) if is_algorithm(name) => Ok(Some(name.to_owned())),
        Some(_) => Err(CallError::Parameter("digest-algorithm")),
    }
}

fn tags(query: &Query, reference: &Reference) -> Result<Vec<Tag>, CallError> {
    match reference {
        // Beside a tag in the path the parameter has no meaning, and is not passed on.
        Reference::Tag(_) => Ok(Vec::new()),
        Reference::Digest(_) => query
            .values("tag")
            .map(|tag| Tag::parse(tag).ok_or(CallError::Parameter("tag")))
            .collect(),
    }
}

#[cfg(test)]
mod tests;
