//! Fuzz target: the catalog.

use http::{HeaderValue, Method};
use http_body_util::{BodyExt, Collected};

use super::catalog;
use crate::fuzz::now;
use crate::registry::{Call, RepoName};

/// The registry's page of its catalog: what is shown of it are names, and the next page begins where
/// the link says.
pub(crate) fn catalog(bytes: &[u8]) {
    let (n, body) = bytes.split_first().unwrap_or((&0, &[]));
    let Some(names) = catalog::names(body) else {
        return;
    };
    let shown: Vec<_> = names
        .into_iter()
        .filter(|name| RepoName::parse(name).is_some())
        .collect();
    let next = shown.last().cloned();
    let n = usize::from(*n);
    let answer = catalog::answer(shown.clone(), n, next.as_deref());
    let link = answer.headers().get("link").cloned();
    let link = link.as_ref().map(HeaderValue::to_str);
    let body = now(answer.into_body().collect()).map(Collected::to_bytes);
    assert_eq!(
        body.ok().and_then(|body| catalog::names(&body)),
        Some(shown)
    );
    let Some(Ok(link)) = link else {
        assert!(next.is_none());
        return;
    };
    let target = link.strip_prefix('<').and_then(|link| link.split_once('>'));
    let (path, query) = target
        .and_then(|(target, _)| target.split_once('?'))
        .unwrap_or_default();
    let Ok(Call::Catalog(page)) = Call::parse(&Method::GET, path, Some(query)) else {
        panic_at(link);
    };
    assert_eq!(page.last, next);
    assert_eq!(page.n.map(u64::from), u64::try_from(n).ok());
}

#[expect(
    clippy::panic,
    reason = "a target panics where something does not hold"
)]
fn panic_at(link: &str) -> ! {
    panic!("the link leads nowhere: {link:?}")
}
