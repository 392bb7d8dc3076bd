//! The catalog as its reader may see it: the registry's pages, filtered by the policy.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::json;
use super::body::AnswerBody;
use crate::gate::{Authority, Refusal, Rules};
use crate::identity::{Identity, Peer};
use crate::policy::Decision;
use crate::registry::{Action, MAX_PAGE, Page, RepoName, query};
use crate::upstream::UpstreamError;

/// Entries of a page when the client does not say.
const DEFAULT_PAGE: u32 = 100;
/// Bytes of one page of the registry.
const MAX_BODY: usize = 1 << 20;
/// Pages of the registry that are read for one of ours: a million repositories. One whose pages lead
/// in a circle has no end.
const MAX_PAGES: usize = 1000;
/// Readers at a time. One cheap request may have the registry list all that it has, and each holds a
/// page of it in memory.
const READERS: usize = 32;

#[derive(Debug, Default, Deserialize, Serialize)]
struct Repositories {
    repositories: Vec<String>,
}

/// How many entries a page has. None are an empty page, as for tags (OCI distribution 1.1, "Listing
/// Tags").
fn size(page: &Page) -> usize {
    let n = page.n.unwrap_or(DEFAULT_PAGE);
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Whose turn it is to have the registry list what it has.
pub(super) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(READERS))
    }
}

impl Turns {
    /// Waits for a turn, no longer than for the registry.
    async fn next(&self, limit: Duration) -> Result<SemaphorePermit<'_>, UpstreamError> {
        match tokio::time::timeout(limit, self.0.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::Timeout),
        }
    }
}

/// One page of what the caller may pull.
pub(super) async fn filtered(
    turns: &Turns,
    rules: &Rules,
    who: &Identity,
    peer: &Peer,
    authority: &Authority,
    page: &Page,
    now: Timestamp,
) -> Result<http::Response<AnswerBody>, Refusal> {
    let wanted = size(page);
    if wanted == 0 {
        return Ok(answer(Vec::new(), 0, None));
    }
    let visible = |name: &str| {
        RepoName::parse(name).is_some_and(|name| {
            let decision = rules
                .policy
                .allows(who, peer.address, Action::Pull, &name, now);
            matches!(decision, Decision::Allow(_))
        })
    };
    let _turn = turns.next(rules.upstream.response_timeout()).await?;
    let mut shown: Vec<String> = Vec::new();
    let mut last = page.last.clone();
    for _ in 0..MAX_PAGES {
        let (names, is_final) = read(rules, authority, last.clone()).await?;
        for name in &names {
            if visible(name) {
                if shown.len() == wanted {
                    // The next page begins after what was shown; what is hidden has no name here.
                    let next = shown.last().cloned();
                    return Ok(answer(shown, wanted, next.as_deref()));
                }
                shown.push(name.clone());
            }
        }
        let end = names.into_iter().next_back();
        if is_final || end.is_none() || end == last {
            return Ok(answer(shown, wanted, None));
        }
        last = end;
    }
    Err(UpstreamError::Unusable("the catalog has no end").into())
}

/// One page of the registry, and whether it is the last one.
async fn read(
    rules: &Rules,
    authority: &Authority,
    last: Option<String>,
) -> Result<(Vec<String>, bool), Refusal> {
    let page = Page {
        n: Some(MAX_PAGE),
        last,
    };
    let answer = rules
        .upstream
        .catalog_page(&page, authority.as_str())
        .await?;
    let is_final = !answer.head.headers.contains_key(header::LINK);
    let timeout = rules.upstream.response_timeout();
    let arriving = tokio::time::timeout(timeout, Limited::new(answer.body, MAX_BODY).collect());
    let body = arriving
        .await
        .map_err(|_elapsed| UpstreamError::Timeout)?
        .map_err(|_cause| UpstreamError::Unusable("the catalog broke off"))?;
    let names = names(&body.to_bytes());
    let names = names.ok_or(UpstreamError::Unusable("the catalog is not JSON"))?;
    Ok((names, is_final))
}

/// What the registry's page names; `None` if it is none.
pub(super) fn names(body: &[u8]) -> Option<Vec<String>> {
    let page: Repositories = serde_json::from_slice(body).ok()?;
    Some(page.repositories)
}

/// `next` is the entry after which there is more to see.
pub(super) fn answer(
    shown: Vec<String>,
    n: usize,
    next: Option<&str>,
) -> http::Response<AnswerBody> {
    // A struct of strings always serialises.
    let body = serde_json::to_string(&Repositories {
        repositories: shown,
    })
    .unwrap_or_default();
    let mut response = json(StatusCode::OK, body);
    if let Some(next) = next {
        let mut link = "</v2/_catalog?last=".to_owned();
        query::encode(next, &mut link);
        link.extend(["&n=", &n.to_string(), ">; rel=\"next\""]);
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}
