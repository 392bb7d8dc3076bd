//! `Location` and `Link` in the registry's answers. What names the registry or this proxy becomes
//! relative, so that it is right under every name the client may use; what names another host is a
//! redirect to storage and passes untouched. Pure.

use std::borrow::Cow;

use http::header::LINK;
use http::{HeaderMap, HeaderValue};

/// The path and query of a URL on one of our own hosts; `None` when it names another host.
pub(super) fn relative(url: &str, own: impl Fn(&str) -> bool) -> Option<Cow<'_, str>> {
    if url.starts_with('/') && !url.starts_with("//") {
        return Some(url.into());
    }
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end)?;
    own(authority).then(|| {
        if path.starts_with("//") {
            // By itself it would name another host (RFC 3986 section 4.2).
            format!("/.{path}").into()
        } else if path.starts_with('/') {
            path.into()
        } else {
            // A URL without a path names the root.
            format!("/{path}").into()
        }
    })
}

/// Makes the targets of `Link` headers relative where they name one of our own hosts (RFC 8288).
pub(super) fn relative_links(headers: &mut HeaderMap, own: impl Fn(&str) -> bool) {
    let rewritten: Vec<HeaderValue> = headers
        .get_all(LINK)
        .iter()
        .map(|value| link(value, &own).unwrap_or_else(|| value.clone()))
        .collect();
    headers.remove(LINK);
    for value in rewritten {
        headers.append(LINK, value);
    }
}

fn link(value: &HeaderValue, own: impl Fn(&str) -> bool) -> Option<HeaderValue> {
    let mut rest = value.to_str().ok()?;
    let mut rewritten = String::with_capacity(rest.len());
    while let Some((before, (url, after))) = rest
        .split_once('<')
        .and_then(|(before, target)| Some((before, target.split_once('>')?)))
    {
        let target = relative(url, &own).unwrap_or(url.into());
        rewritten.extend([before, "<", &target, ">"]);
        rest = after;
    }
    rewritten.push_str(rest);
    HeaderValue::from_str(&rewritten).ok()
}

#[cfg(test)]
mod tests {
    use super::{relative, relative_links};
    use http::{HeaderMap, HeaderValue, header::LINK};

    fn own(authority: &str) -> bool {
        matches!(authority, "registry:5000" | "hub.example.com")
    }

    #[test]
    fn our_own_hosts_become_relative_and_others_stay() {
        for (url, expected) in [
            ("http://registry:5000/v2/a?x=1", "/v2/a?x=1"),
            ("HTTPS://hub.example.com/v2/", "/v2/"),
            ("/v2/a", "/v2/a"),
            ("http://registry:5000", "/"),
            ("http://registry:5000?x=1", "/?x=1"),
            ("http://registry:5000//evil/v2/", "/.//evil/v2/"),
        ] {
            assert_eq!(relative(url, own).as_deref(), Some(expected), "{url}");
        }
        for other in [
            "https://storage.example.com/blob?sig=x",
            "//evil/v2/",
            "gopher://registry:5000/v2/",
            "http://registry:5000@evil/v2/",
            "v2/a",
            "",
        ] {
            assert_eq!(relative(other, own), None, "{other}");
        }
    }

    #[test]
    fn links_keep_their_relation() {
        let mut headers = HeaderMap::new();
        for value in [
            "<http://registry:5000/v2/_catalog?last=a&n=1>; rel=\"next\"",
            "</v2/a/tags/list?n=1>; rel=\"next\"",
            "<https://other/x>; rel=\"next\"",
            "</a>; rel=\"first\", <http://registry:5000/b>; rel=\"next\"",
        ] {
            headers.append(LINK, HeaderValue::from_static(value));
        }
        relative_links(&mut headers, own);
        let values: Vec<_> = headers
            .get_all(LINK)
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect();
        assert_eq!(
            values,
            [
                "</v2/_catalog?last=a&n=1>; rel=\"next\"",
                "</v2/a/tags/list?n=1>; rel=\"next\"",
                "<https://other/x>; rel=\"next\"",
                "</a>; rel=\"first\", </b>; rel=\"next\"",
            ]
        );
    }
}
