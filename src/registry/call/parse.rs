//! From the head of a request to a call: strict, so that nobody reads it otherwise.

use http::Method;

use super::{BlobVerb, Call, MAX_PAGE, ManifestVerb, Mount, Page, Read, UploadId, UploadVerb};
use crate::registry::query::{Query, QueryError};
use crate::registry::reference::is_algorithm;
use crate::registry::{Digest, Reference, RepoName, Tag};

/// No path of the API is longer: a name, a keyword and a digest.
const MAX_PATH: usize = 1024;
/// The longest `last` or `artifactType` passed on, in bytes.
const MAX_VALUE: usize = 256;
/// Tags of one push. The specification wants room for ten (OCI distribution 1.2, end-7b).
const MAX_TAGS: usize = 16;

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
    /// More tags than one push may write.
    #[error("one push may write at most {MAX_TAGS} tags: push the manifest again for more")]
    Tags,
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
            Route::Catalog => Self::Catalog(page(&query)?),
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
            Some(text.parse().map_or(MAX_PAGE, |n: u32| n.min(MAX_PAGE)))
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
        Reference::Digest(_) => {
            let mut tags = Vec::new();
            for text in query.values("tag") {
                let tag = Tag::parse(text).ok_or(CallError::Parameter("tag"))?;
                // Each is a question to the registry and stands in the record.
                if !tags.contains(&tag) {
                    tags.push(tag);
                }
                if tags.len() > MAX_TAGS {
                    return Err(CallError::Tags);
                }
            }
            Ok(tags)
        }
    }
}
