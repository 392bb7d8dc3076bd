//! `Location` and `Link` in the registry's answers. What names the registry or this proxy becomes
//! relative, so that it is right under every name the client may use; what names another host is a
//! redirect to storage and passes untouched. Pure.

use http::header::LINK;
use http::{HeaderMap, HeaderValue};

/// The path and query of a URL on one of our own hosts; `None` when it names another host.
pub(super) fn relative(url: &str, own: impl Fn(&str) -> bool) -> Option<&str> {
    if url.starts_with('/') && !url.starts_with("//") {
        return Some(url);
    }
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let (authority, path) = rest.split_at_checked(rest.find('/')?)?;
    own(authority).then_some(path)
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
    let (url, rest) = value.to_str().ok()?.strip_prefix('<')?.split_once('>')?;
    let path = relative(url, own)?;
    HeaderValue::from_str(&format!("<{path}>{rest}")).ok()
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
        assert_eq!(
            relative("http://registry:5000/v2/a?x=1", own),
            Some("/v2/a?x=1")
        );
        assert_eq!(relative("HTTPS://hub.example.com/v2/", own), Some("/v2/"));
        assert_eq!(relative("/v2/a", own), Some("/v2/a"));
        for other in [
            "https://storage.example.com/blob?sig=x",
            "//evil/v2/",
            "gopher://registry:5000/v2/",
            "http://registry:5000",
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
            ]
        );
    }
}
