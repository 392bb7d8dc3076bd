//! Fuzz targets: calls, queries, patterns.

use http::{Method, Uri};

use super::query::{Query, decode, encode};
use super::{Call, Pattern, References, RepoName};
use crate::fuzz::lines;

/// `METHOD TARGET`: what is accepted goes upstream in one spelling, and means the same there.
pub(crate) fn call(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        return;
    };
    // As hyper hands it on, where that takes it at all.
    let uri: Option<Uri> = target.parse().ok();
    let (path, query) = match &uri {
        Some(uri) => (uri.path(), uri.query()),
        None => halves(target),
    };
    let Ok(mut call) = Call::parse(&method, path, query) else {
        return;
    };
    let written = call.target();
    let (path, query) = halves(&written);
    assert!(is_canonical(path, query), "{written:?}");
    // The registry's proof of a session is put on later, and is not the client's to choose.
    if let Call::Upload { state, .. } = &mut call {
        *state = None;
    }
    assert_eq!(Call::parse(&method, path, query).as_ref(), Ok(&call));
    assert_eq!(
        written.parse::<Uri>().ok().map(|uri| uri.to_string()),
        Some(written.clone())
    );
    let repo = call.repository().map(RepoName::as_str);
    assert!(repo.is_none_or(|repo| path.starts_with(&format!("/v2/{repo}/"))));
    assert_eq!(
        repo.is_none(),
        call.action().is_none() || path == "/v2/_catalog"
    );
    assert_eq!(
        call.is_read(),
        method == Method::GET || method == Method::HEAD
    );
    let without = call.clone().without_mount();
    assert_eq!(without.mount_source(), None);
    assert_eq!(without.repository(), call.repository());
}

/// A manifest: what it names is of the grammar, each once, and no more than it counts.
pub(crate) fn manifest(bytes: &[u8]) {
    let References { digests, count } = References::of(bytes);
    assert!(u64::try_from(digests.len()).is_ok_and(|kept| kept <= count));
    for (number, digest) in digests.iter().enumerate() {
        assert_eq!(super::Digest::parse(digest.as_str()).as_ref(), Some(digest));
        assert!(!digests.iter().take(number).any(|before| before == digest));
    }
}

fn halves(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

/// Nothing that two readers could take for two things.
fn is_canonical(path: &str, query: Option<&str>) -> bool {
    let of_path = |b: u8| b.is_ascii_alphanumeric() || b"/._-:=+".contains(&b);
    let of_query = |b: u8| b.is_ascii_alphanumeric() || b"-._~:%&=".contains(&b);
    let query = query.unwrap_or("x");
    path.starts_with("/v2/")
        && path.bytes().all(of_path)
        && !path.contains("//")
        && path.split('/').all(|part| part != "." && part != "..")
        && !query.is_empty()
        && query.bytes().all(of_query)
}

/// A query or form: each parameter is read as what it decodes to, or nothing is.
pub(crate) fn query(bytes: &[u8]) {
    let Ok(raw) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(query) = Query::parse(Some(raw), &["scope"]) else {
        return;
    };
    let mut scopes = query.values("scope");
    let mut again = String::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name), decode(value));
        let (Some(name), Some(value)) = (name, value) else {
            panic_at(raw);
        };
        let read = if name == "scope" {
            scopes.next()
        } else {
            query.value(&name)
        };
        assert_eq!(read, Some(value.as_str()), "{raw:?}");
        assert!(!value.chars().any(char::is_control));
        for (before, text) in [("&", &name), ("=", &value)] {
            again.push_str(before);
            encode(text, &mut again);
        }
    }
    assert_eq!(scopes.next(), None);
    // In our own spelling, nothing is left that could be read otherwise.
    let of_ours = |b: u8| b.is_ascii_alphanumeric() || b"-._~:%&=".contains(&b);
    assert!(again.bytes().all(of_ours), "{again:?}");
    if again.len() <= 8 * 1024 {
        let again = Query::parse(Some(&again), &["scope"]);
        assert_eq!(format!("{again:?}"), format!("Ok({query:?})"));
    }
}

#[expect(
    clippy::panic,
    reason = "a target panics where something does not hold"
)]
fn panic_at(raw: &str) -> ! {
    panic!("read although it cannot be decoded: {raw:?}")
}

/// `PATTERN\nNAME\nUSER`: the same as a matcher that just tries everything.
pub(crate) fn pattern(bytes: &[u8]) {
    let mut parts = lines(bytes).map(|line| std::str::from_utf8(line).unwrap_or("ä"));
    let (text, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let user = parts.next();
    let Ok(pattern) = Pattern::parse(text) else {
        return;
    };
    assert_eq!(pattern.as_str(), text);
    if let Some(example) = pattern.example(user) {
        assert!(pattern.matches(&example, user));
    }
    let Some(name) = RepoName::parse(name) else {
        return;
    };
    let matches = pattern.matches(&name, user);
    if matches && let Some(parts) = pattern.fixed_parts() {
        assert!(format!("{name}/").starts_with(&format!("{parts}/")));
    }
    if matches && let Some(last) = pattern.fixed_end() {
        assert!(format!("/{name}").ends_with(&format!("/{last}")));
    }
    if text.len() <= 24 && name.as_str().len() <= 24 {
        let user = user.filter(|user| !user.contains('/') && RepoName::parse(user).is_some());
        assert_eq!(
            matches,
            tries(text, name.as_str(), user, true),
            "{text} {name} {user:?}"
        );
    }
}

/// Whether a pattern matches, by trying everything. `begins`: a part of the pattern begins here.
fn tries(pattern: &str, name: &str, user: Option<&str>, begins: bool) -> bool {
    let ends = || name.char_indices().map(|(at, _)| at).chain([name.len()]);
    let after = |at: usize| name.get(at..).unwrap_or_default();
    let run = |at: &usize| !name.get(..*at).unwrap_or_default().contains('/');
    if let Some(rest) = pattern.strip_prefix("**/").filter(|_| begins) {
        let whole_parts =
            |at: &usize| *at == 0 || name.get(..*at).is_some_and(|t| t.ends_with('/'));
        return ends()
            .filter(whole_parts)
            .any(|at| tries(rest, after(at), user, true));
    }
    if let Some(rest) = pattern.strip_prefix("**") {
        return ends().any(|at| tries(rest, after(at), user, false));
    }
    if let Some(rest) = pattern.strip_prefix('*') {
        return ends()
            .filter(run)
            .any(|at| tries(rest, after(at), user, false));
    }
    if let Some(rest) = pattern.strip_prefix("${user}") {
        let tail = user.and_then(|user| name.strip_prefix(user));
        return tail.is_some_and(|tail| tries(rest, tail, user, false));
    }
    let (Some(one), Some(other)) = (pattern.chars().next(), name.chars().next()) else {
        return pattern.is_empty() && name.is_empty();
    };
    one == other
        && tries(
            pattern.get(one.len_utf8()..).unwrap_or_default(),
            after(other.len_utf8()),
            user,
            one == '/',
        )
}
