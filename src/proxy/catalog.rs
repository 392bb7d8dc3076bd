//! The catalog as its reader may see it: the registry's pages, filtered by the policy.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::{Deserialize, Serialize};

use super::body::AnswerBody;
use super::instance::Proxy;
use super::listing::{Listings, Names, Reader};
use super::response::json;
use crate::access::Refusal;
use crate::identity::Identity;
use crate::limit::Claimant;
use crate::policy::Decision;
use crate::registry::{Action, MAX_PAGE, Page, RepoName, query};
use crate::request::RequestContext;
use crate::state::Rules;
use crate::upstream::UpstreamError;

/// Entries of a page when the client does not say.
const DEFAULT_PAGE: u32 = 100;
/// Bytes of one page of the registry.
const MAX_BODY: usize = 1 << 20;
/// Pages of the registry that are read for one of ours: a million repositories. One whose pages lead
/// in a circle has no end.
const MAX_PAGES: usize = 1000;

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

/// One page of what the caller may pull.
pub(super) async fn filtered(
    listings: &Arc<Listings>,
    context: &RequestContext,
    who: &Identity,
    page: &Page,
) -> Result<http::Response<AnswerBody>, Refusal> {
    let (rules, now) = (&context.rules, context.now);
    let (wanted, from) = (size(page), context.peer.address);
    if wanted == 0 || !rules.policy.may_pull_something(who, from, now) {
        return Ok(answer(Vec::new(), wanted, None));
    }
    let visible = |name: &str| {
        RepoName::parse(name).is_some_and(|name| {
            let decision = rules.policy.allows(who, from, Action::Pull, &name, now);
            matches!(decision, Decision::Allow(_))
        })
    };
    let reader = Reader {
        listings: Arc::clone(listings),
        whom: claimant(who, from),
        generation: rules.generation,
        asked: Instant::now(),
        goes_on: page.last.is_some(),
        patience: rules.upstream.response_timeout(),
    };
    let mut shown: Vec<String> = Vec::new();
    let mut last = page.last.clone();
    for _ in 0..MAX_PAGES {
        let entries = reader.after(last.as_deref(), || {
            read(
                Arc::clone(rules),
                context.authority.as_str().to_owned(),
                last.clone(),
            )
        });
        let entries = entries.await?;
        let names = entries.names();
        for name in names {
            if visible(name) {
                if shown.len() == wanted {
                    // The next page begins after what was shown; what is hidden has no name here.
                    let next = shown.last().cloned();
                    return Ok(answer(shown, wanted, next.as_deref()));
                }
                shown.push(name.clone());
            }
        }
        let end = names.last().cloned();
        if entries.is_final() || end.is_none() || end == last {
            return Ok(answer(shown, wanted, None));
        }
        last = end;
    }
    Err(UpstreamError::Unusable("the catalog has no end").into())
}

/// Reads the whole catalog on our own behalf, to know which repositories exist.
pub(super) async fn learn(proxy: Arc<Proxy>) {
    let mut last = None;
    for _ in 0..MAX_PAGES {
        let rules = Arc::clone(&proxy.rules());
        let Ok(page) = read(rules, "localhost".to_owned(), last.clone()).await else {
            // Callers who need the registry are told that it fails.
            return;
        };
        for name in &page.names {
            proxy.repositories.note(name);
        }
        let end = page.names.into_iter().next_back();
        if page.is_final || end.is_none() || end == last {
            return;
        }
        last = end;
    }
}

/// For whom the registry is asked.
pub(super) fn claimant(who: &Identity, from: IpAddr) -> Claimant {
    match who.user() {
        Some(_) => Claimant::proven(from),
        None => Claimant::stranger(from),
    }
}

/// One page of the registry.
async fn read(
    rules: Arc<Rules>,
    authority: String,
    last: Option<String>,
) -> Result<Names, UpstreamError> {
    let page = Page {
        n: Some(MAX_PAGE),
        last,
    };
    let answer = rules.upstream.catalog_page(&page, &authority).await?;
    let is_final = !answer.head.headers.contains_key(header::LINK);
    let timeout = rules.upstream.response_timeout();
    let arriving = tokio::time::timeout(timeout, Limited::new(answer.body, MAX_BODY).collect());
    let body = arriving
        .await
        .map_err(|_elapsed| UpstreamError::Timeout)?
        .map_err(|_cause| UpstreamError::Unusable("the catalog broke off"))?;
    let names = names(&body.to_bytes());
    let names = names.ok_or(UpstreamError::Unusable("the catalog is not JSON"))?;
    Ok(Names { names, is_final })
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
