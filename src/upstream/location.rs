//! `Location` and `Link` in the registry's answers, parsed: an answer to a call leads to an upload
//! session, blob or manifest of the call's own repository, which is ours whatever host it names
//! (the registry may have been given another one, `http.host`), or it leads elsewhere. Pure.

use std::fmt;

use http::header::LINK;
use http::{HeaderMap, HeaderValue, Method};

use super::origin::{Origin, Url};
use crate::registry::{Call, RepoName, UploadId};

/// Where an answer leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Location<'a> {
    /// To an upload session of the repository, with the query that the registry wants to see there.
    Session { id: UploadId, query: &'a str },
    /// To a blob or manifest of the repository, by its canonical path.
    Object(String),
    /// Anywhere else.
    Elsewhere(Elsewhere),
}

/// A place that no write leads to. It shows no path or query: they may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// On another host.
    Host(Origin),
    /// On this one.
    Path,
    /// In words that readers understand in several ways, or twice.
    Unclear,
}

impl<'a> Location<'a> {
    /// Reads the `Location` of an answer about a repository; `None` without one.
    pub(super) fn of(headers: &'a HeaderMap, repo: Option<&RepoName>) -> Option<Self> {
        let mut values = headers.get_all(http::header::LOCATION).iter();
        let first = values.next()?;
        Some(match (first.to_str(), values.next()) {
            (Ok(text), None) => Self::parse(text, repo),
            (Ok(_) | Err(_), _) => Self::Elsewhere(Elsewhere::Unclear),
        })
    }

    /// Reads one for answers about a repository.
    pub(super) fn parse(text: &'a str, repo: Option<&RepoName>) -> Self {
        let Some(url) = Url::parse(text) else {
            return Self::Elsewhere(Elsewhere::Unclear);
        };
        let (path, query) = split(url.target());
        if let Ok(call) = Call::parse(&Method::GET, path, None)
            && call.repository() == repo
        {
            match call {
                Call::Upload { id, .. } => return Self::Session { id, query },
                Call::Blob { .. } | Call::Manifest { .. } => return Self::Object(call.target()),
                Call::Catalog(_)
                | Call::Ping
                | Call::Referrers { .. }
                | Call::StartUpload { .. }
                | Call::Tags { .. } => {}
            }
        }
        Self::Elsewhere(match url {
            Url::Path(_) => Elsewhere::Path,
            Url::Whole(origin, _) => Elsewhere::Host(origin),
        })
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(origin) => write!(f, "{origin}"),
            Self::Path => f.write_str("another path or repository"),
            Self::Unclear => f.write_str("what is no plain URL"),
        }
    }
}

/// Makes the targets of `Link` headers relative where they name one of our own hosts, or the same
/// list as the call, and takes out those that name another host (RFC 8288). Returns how many.
pub(super) fn relative_links(
    headers: &mut HeaderMap,
    call: &Call,
    own: impl Fn(&Origin) -> bool,
) -> usize {
    if !headers.contains_key(LINK) {
        return 0;
    }
    let mut dropped: usize = 0;
    let mut kept: Vec<HeaderValue> = Vec::new();
    for value in headers.get_all(LINK) {
        let links = value.to_str().ok().and_then(links);
        let Some(links) = links else {
            dropped = dropped.saturating_add(1);
            continue;
        };
        let relative = |(target, rest): &(&str, &str)| {
            let target = relative(target, call, &own)?;
            Some(format!("<{target}>{rest}"))
        };
        let all = links.len();
        let links: Vec<String> = links.iter().filter_map(relative).collect();
        dropped = dropped.saturating_add(all.saturating_sub(links.len()));
        if !links.is_empty() {
            kept.extend(HeaderValue::from_str(&links.join(", ")).ok());
        }
    }
    headers.remove(LINK);
    for value in kept {
        headers.append(LINK, value);
    }
    dropped
}

/// The links of one line, each its target and its parameters; `None` when it cannot be split in one
/// way only.
fn links(line: &str) -> Option<Vec<(&str, &str)>> {
    let mut found = Vec::new();
    let mut rest = line.trim().strip_prefix('<')?;
    loop {
        let (target, more) = rest.split_once('>')?;
        let (parameters, next) = match more.split_once('<') {
            Some((parameters, next)) => (parameters.trim_end().strip_suffix(',')?, Some(next)),
            None => (more, None),
        };
        let parameters = parameters.trim_end();
        let is_whole = parameters.matches('"').count().is_multiple_of(2);
        let fits = parameters.is_empty() || parameters.trim_start().starts_with(';');
        if !is_whole || !fits || target.contains('<') || parameters.contains(['\\', '>']) {
            return None;
        }
        found.push((target, parameters));
        match next {
            Some(next) => rest = next,
            None => return Some(found),
        }
    }
}

/// A link's target without a host; `None` when it names one that is not ours.
fn relative<'a>(target: &'a str, call: &Call, own: impl Fn(&Origin) -> bool) -> Option<&'a str> {
    match Url::parse(target) {
        Some(Url::Path(path)) => Some(path),
        Some(Url::Whole(origin, path)) => {
            let is_same = || is_same_list(path, call);
            // `//host` would be another one (RFC 3986 section 4.2).
            let is_path = path.starts_with('/') && !path.starts_with("//");
            (is_path && (own(&origin) || is_same())).then_some(path)
        }
        // Relative to the list itself.
        None => (target.starts_with('?') && Url::parse(&format!("/{target}")).is_some())
            .then_some(target),
    }
}

/// Whether a path is that of the list a call asks for, whatever page of it.
fn is_same_list(target: &str, call: &Call) -> bool {
    let of = |call: &Call| call.target().split('?').next().map(str::to_owned);
    let (path, _) = split(target);
    Call::parse(&Method::GET, path, None).is_ok_and(|other| of(&other) == of(call))
}

fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

#[cfg(test)]
mod tests {
    use super::{Elsewhere, Location, links, relative_links};
    use crate::registry::{Call, RepoName};
    use crate::upstream::origin::Origin;
    use http::{HeaderMap, HeaderValue, Method, header::LINK};
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

    fn at(text: &str) -> String {
        let repo = RepoName::parse("team-a/app").unwrap();
        match Location::parse(text, Some(&repo)) {
            Location::Session { id, query } => format!("session {} {query}", id.as_str()),
            Location::Object(path) => path,
            Location::Elsewhere(place) => format!("elsewhere: {place}"),
        }
    }

    #[test]
    fn what_is_of_the_repository_is_ours_whatever_host_it_names() {
        let app = "/v2/team-a/app";
        for host in [
            "",
            "http://127.0.0.1:5000",
            "https://old.example.com:443",
            "HTTP://[::1]",
        ] {
            for (path, expected) in [
                (
                    format!("{app}/blobs/uploads/u-1?_state=x%3D"),
                    "session u-1 _state=x%3D".into(),
                ),
                (format!("{app}/blobs/uploads/u-1"), "session u-1 ".into()),
                (
                    format!("{app}/blobs/{DIGEST}"),
                    format!("{app}/blobs/{DIGEST}"),
                ),
                (
                    format!("{app}/manifests/v1?x=y"),
                    format!("{app}/manifests/v1"),
                ),
                (
                    format!("{app}/manifests/{}", DIGEST.replace(':', "%3A")),
                    format!("{app}/manifests/{DIGEST}"),
                ),
            ] {
                assert_eq!(at(&format!("{host}{path}")), expected, "{host}{path}");
            }
        }
    }

    #[test]
    fn everything_else_leads_elsewhere_and_shows_no_path() {
        for (text, place) in [
            ("http://evil:5000/v2/team-a/app/blobs/x", "http://evil:5000"),
            ("https://evil/v2/team-a/other/blobs/uploads/x", "evil"),
            ("https://evil/secret?token=x", "evil"),
            ("https://evil", "evil"),
            (
                "/v2/team-a/other/blobs/uploads/x",
                "another path or repository",
            ),
            (
                "/v2/team-a/app/blobs/uploads/",
                "another path or repository",
            ),
            (
                "/v2/team-a/app/blobs/uploads/a/b",
                "another path or repository",
            ),
            (
                "/v2/team-a/app/blobs/uploads/%2e%2e",
                "another path or repository",
            ),
            (
                "/v2/team-a/app/../../b/blobs/uploads/x",
                "another path or repository",
            ),
            (
                "/prefix/v2/team-a/app/blobs/uploads/x",
                "another path or repository",
            ),
            (
                "/v2/x/v2/team-a/app/blobs/uploads/x",
                "another path or repository",
            ),
            ("/v2/team-a/app/tags/list", "another path or repository"),
            ("/v2/_catalog", "another path or repository"),
            ("/v2/", "another path or repository"),
            ("/token", "another path or repository"),
            (
                "//evil/v2/team-a/app/blobs/uploads/x",
                "what is no plain URL",
            ),
            (
                "https://u@evil/v2/team-a/app/blobs/uploads/x",
                "what is no plain URL",
            ),
            (
                "https://evil\\/v2/team-a/app/blobs/uploads/x",
                "what is no plain URL",
            ),
            ("/v2/team-a/app/blobs/uploads/x#y", "what is no plain URL"),
            ("v2/team-a/app/blobs/uploads/x", "what is no plain URL"),
            ("?_state=x", "what is no plain URL"),
            ("", "what is no plain URL"),
        ] {
            assert_eq!(at(text), format!("elsewhere: {place}"), "{text}");
        }
        let of_nobody = Location::parse("/v2/team-a/app/manifests/v1", None);
        assert_eq!(of_nobody, Location::Elsewhere(Elsewhere::Path));
    }

    #[test]
    fn two_locations_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Location::of(&headers, None), None);
        let unclear = Some(Location::Elsewhere(Elsewhere::Unclear));
        for value in [&b"/v2/\xff"[..], b"/v2/"] {
            headers.append("location", HeaderValue::from_bytes(value).unwrap());
            assert_eq!(Location::of(&headers, None), unclear);
        }
    }

    fn own(origin: &Origin) -> bool {
        matches!(&*origin.authority(), "registry:5000" | "hub.example.com")
    }

    fn linked(lines: &[&'static str]) -> (Vec<String>, usize) {
        let call = Call::parse(&Method::GET, "/v2/a/tags/list", None).unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(LINK, HeaderValue::from_static(line));
        }
        let dropped = relative_links(&mut headers, &call, own);
        let values = headers.get_all(LINK).iter();
        let values = values.map(|value| value.to_str().unwrap().to_owned());
        (values.collect(), dropped)
    }

    #[test]
    fn links_keep_their_relation_and_lead_nowhere_else() {
        let kept = [
            "<http://registry:5000/v2/_catalog?last=a&n=1>; rel=\"next\"",
            "</v2/a/tags/list?n=1>; rel=\"next\"",
            "<?n=1&last=x>;rel=next",
            "</a>; rel=\"first\" ,<http://registry:5000/b>; rel=\"next\"; title=\"x, y\"",
            "<https://former.example.com/v2/a/tags/list?last=b>; rel=\"next\"",
            "<https://hub.example.com/x>",
        ];
        let expected = [
            "</v2/_catalog?last=a&n=1>; rel=\"next\"",
            "</v2/a/tags/list?n=1>; rel=\"next\"",
            "<?n=1&last=x>;rel=next",
            "</a>; rel=\"first\", </b>; rel=\"next\"; title=\"x, y\"",
            "</v2/a/tags/list?last=b>; rel=\"next\"",
            "</x>",
        ];
        assert_eq!(linked(&kept), (expected.map(str::to_owned).into(), 0));
        for gone in [
            "<https://other/x>; rel=\"next\"",
            "<https://other/v2/b/tags/list>; rel=\"next\"",
            "<//other/x>; rel=\"next\"",
            "<https://registry:5000//other/x>; rel=\"next\"",
            "<https://registry:5000>; rel=\"next\"",
            "<x>; rel=\"next\"",
            "<https:other>",
            "<javascript:x>",
            "<>",
            "<<>",
            "x",
            "</a",
            "</a> <https://other/>",
            "</a>; title=\"<https://other/>\"",
            "</a>; title=\"",
            "",
        ] {
            assert_eq!(linked(&[gone]), (Vec::new(), 1), "{gone}");
        }
        let (some, dropped) = linked(&["<https://other/x>; rel=first, </b>; rel=next"]);
        assert_eq!(
            (&some[..], dropped),
            (&["</b>; rel=next".to_owned()][..], 1)
        );
    }

    proptest! {
        #[test]
        fn a_place_of_ours_is_read_the_same_again(
            host in "(https?://[a-z.@:\\\\]{1,6})?", path in "/[a-z./%]{0,12}",
            end in "(blobs|manifests|blobs/uploads)/[a-z0-9:%]{0,6}(\\?[!-~]{0,6})?"
        ) {
            let repo = RepoName::parse("a").unwrap();
            for text in [format!("{host}/v2/a/{end}"), format!("{host}{path}"), end.clone()] {
                match Location::parse(&text, Some(&repo)) {
                    Location::Session { id, query } => {
                        let path = format!("/v2/a/blobs/uploads/{}", id.as_str());
                        let again = format!("{path}?{query}");
                        let expected = Location::Session { id, query };
                        prop_assert_eq!(Location::parse(&again, Some(&repo)), expected);
                    }
                    Location::Object(path) => {
                        prop_assert!(path.starts_with("/v2/a/"));
                        let expected = Location::Object(path.clone());
                        prop_assert_eq!(Location::parse(&path, Some(&repo)), expected);
                    }
                    Location::Elsewhere(_) => {}
                }
            }
        }

        #[test]
        fn links_are_those_of_the_line(line in "[</a>,; \"=x:\\\\]{0,30}") {
            if let Some(found) = links(&line) {
                prop_assert_eq!(found.len(), line.matches('<').count());
            }
        }
    }
}
