use super::{Action, Call, CallError, RepoName};
use crate::registry::query::QueryError;
use http::Method;
use proptest::prelude::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn parse(method: &str, target: &str) -> Result<Call, CallError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Call::parse(&Method::from_bytes(method.as_bytes()).unwrap(), path, query)
}

/// Every end point: method, target, action, repository, canonical target.
#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn every_end_point_is_parsed_and_written_anew() {
    let digest = format!("sha256:{HEX}");
    let cases = [
        ("GET", "/v2/".to_owned(), None, None, "/v2/".to_owned()),
        ("HEAD", "/v2".to_owned(), None, None, "/v2/".to_owned()),
        (
            "GET",
            "/v2/_catalog?n=5&last=a%2Fb&x=1".into(),
            Some(Action::Catalog),
            None,
            "/v2/_catalog?n=5&last=a%2Fb".into(),
        ),
        (
            "GET",
            "/v2/a/tags/list?n=3".into(),
            Some(Action::Pull),
            Some("a"),
            "/v2/a/tags/list?n=3".into(),
        ),
        (
            "GET",
            "/v2/a/b/manifests/v1?ns=docker.io".into(),
            Some(Action::Pull),
            Some("a/b"),
            "/v2/a/b/manifests/v1".into(),
        ),
        (
            "HEAD",
            format!("/v2/a/manifests/sha256%3A{HEX}"),
            Some(Action::Pull),
            Some("a"),
            format!("/v2/a/manifests/{digest}"),
        ),
        (
            "PUT",
            "/v2/a/manifests/v1?tag=x".into(),
            Some(Action::Push),
            Some("a"),
            "/v2/a/manifests/v1".into(),
        ),
        (
            "PUT",
            format!("/v2/a/manifests/{digest}?tag=x&tag=y"),
            Some(Action::Push),
            Some("a"),
            format!("/v2/a/manifests/{digest}?tag=x&tag=y"),
        ),
        (
            "DELETE",
            "/v2/a/manifests/v1".into(),
            Some(Action::Delete),
            Some("a"),
            "/v2/a/manifests/v1".into(),
        ),
        (
            "GET",
            format!("/v2/a/blobs/{digest}"),
            Some(Action::Pull),
            Some("a"),
            format!("/v2/a/blobs/{digest}"),
        ),
        (
            "DELETE",
            format!("/v2/a/blobs/{digest}"),
            Some(Action::Delete),
            Some("a"),
            format!("/v2/a/blobs/{digest}"),
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/".into(),
            Some(Action::Push),
            Some("a"),
            "/v2/a/blobs/uploads/".into(),
        ),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?mount={digest}&%66rom=b%2Fc"),
            Some(Action::Push),
            Some("a"),
            format!("/v2/a/blobs/uploads/?mount={digest}&from=b%2Fc"),
        ),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?digest={digest}"),
            Some(Action::Push),
            Some("a"),
            format!("/v2/a/blobs/uploads/?digest={digest}"),
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?digest-algorithm=sha512".into(),
            Some(Action::Push),
            Some("a"),
            "/v2/a/blobs/uploads/?digest-algorithm=sha512".into(),
        ),
        (
            "PATCH",
            "/v2/a/blobs/uploads/u-1?_state=s".into(),
            Some(Action::Push),
            Some("a"),
            "/v2/a/blobs/uploads/u-1".into(),
        ),
        (
            "PUT",
            format!("/v2/a/blobs/uploads/u?_state=s&digest=sha256%3a{HEX}"),
            Some(Action::Push),
            Some("a"),
            format!("/v2/a/blobs/uploads/u?digest={digest}"),
        ),
        (
            "GET",
            "/v2/a/blobs/uploads/u".into(),
            Some(Action::Push),
            Some("a"),
            "/v2/a/blobs/uploads/u".into(),
        ),
        (
            "DELETE",
            "/v2/a/blobs/uploads/u".into(),
            Some(Action::Push),
            Some("a"),
            "/v2/a/blobs/uploads/u".into(),
        ),
        (
            "GET",
            format!("/v2/a/referrers/{digest}?artifactType=a/b%2Bc"),
            Some(Action::Pull),
            Some("a"),
            format!("/v2/a/referrers/{digest}?artifactType=a%2Fb%2Bc"),
        ),
        (
            "GET",
            "/v2/a/manifests/b/manifests/v1".into(),
            Some(Action::Pull),
            Some("a/manifests/b"),
            "/v2/a/manifests/b/manifests/v1".into(),
        ),
        (
            "GET",
            "/v2/a/blobs/uploads/manifests/v1".into(),
            Some(Action::Pull),
            Some("a/blobs/uploads"),
            "/v2/a/blobs/uploads/manifests/v1".into(),
        ),
    ];
    for (method, target, action, repository, canonical) in cases {
        let call = parse(method, &target).unwrap_or_else(|e| panic!("{method} {target}: {e}"));
        assert_eq!(call.action(), action, "{method} {target}");
        assert_eq!(
            call.repository().map(RepoName::as_str),
            repository,
            "{method} {target}"
        );
        assert_eq!(call.target(), canonical, "{method} {target}");
    }
}

#[test]
fn what_is_not_a_path_of_the_api_is_refused() {
    for target in [
        "/",
        "",
        "/v1/",
        "/v2x",
        "/v2//",
        "/v2/a",
        "/v2/a/",
        "/token",
        "/v2/A/manifests/v1",
        "/v2/a//manifests/v1",
        "/v2/a/./manifests/v1",
        "/v2/a/../b/manifests/v1",
        "/v2/secret%2Frepo/manifests/v1",
        "/v2%2Fsecret/manifests/v1",
        "/v2/%73ecret/manifests/v1",
        "/v2/a/manifests/%2e%2e",
        "/v2/a/manifests/v1/",
        "/v2/a/manifests/..",
        "/v2/a/manifests/",
        "/v2/a\\b/manifests/v1",
        "/v2/a/manifests/v1%00",
        "/v2/a/manifests/v1;x",
        "/v2/a/manifests/ä",
        "/v2/a/manifests/v1%253A",
        "/v2/a/blobs/latest",
        "/v2/a/blobs/sha256:beef",
        "/v2/a/blobs/uploads",
        "/v2/a/blobs/uploads/..",
        "/v2/a/blobs/uploads/u/v",
        "/v2/_catalog/",
        "/v2/a/tags/list/",
        "/v2/tags/list",
        "/v2/manifests/v1",
        "/V2/",
        "http://x/v2/",
        "/v2/a/tags",
        "/v2/_health",
        "/debug/vars",
        "/metrics",
        "/v2/a/_manifests/tags",
    ] {
        assert_eq!(parse("GET", target), Err(CallError::Path), "{target}");
    }
    assert_eq!(
        parse("GET", &format!("/v2/{}/manifests/v1", "a".repeat(1100))),
        Err(CallError::Path)
    );
}

#[test]
fn each_end_point_has_its_methods_only() {
    for (method, target, allow) in [
        ("POST", "/v2/", "GET, HEAD"),
        ("OPTIONS", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("PATCH", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("PROPFIND", "/v2/_catalog", "GET"),
        ("get", "/v2/", "GET, HEAD"),
    ] {
        assert_eq!(
            parse(method, target),
            Err(CallError::Method { allow }),
            "{method} {target}"
        );
    }
}

#[test]
fn parameters_outside_their_grammar_are_refused() {
    let digest = format!("sha256:{HEX}");
    for (method, target, error) in [
        (
            "POST",
            format!("/v2/a/blobs/uploads/?mount={digest}&from=b&from=c"),
            QueryError::Repeated.into(),
        ),
        (
            "POST",
            format!("/v2/a/blobs/uploads/?mount={digest}&from=../b"),
            CallError::Parameter("from"),
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?from=B".into(),
            CallError::Parameter("from"),
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?mount=x".into(),
            CallError::Digest("mount"),
        ),
        (
            "POST",
            "/v2/a/blobs/uploads/?digest=x".into(),
            CallError::Digest("digest"),
        ),
        (
            "PUT",
            "/v2/a/blobs/uploads/u".into(),
            CallError::Digest("digest"),
        ),
        (
            "PUT",
            format!("/v2/a/manifests/{digest}?tag=.x"),
            CallError::Parameter("tag"),
        ),
        ("GET", "/v2/_catalog?n=-1".into(), CallError::Pagination),
        ("GET", "/v2/_catalog?n=x".into(), CallError::Pagination),
        (
            "GET",
            "/v2/a/tags/list?n=1;m=2".into(),
            QueryError::Semicolon.into(),
        ),
    ] {
        assert_eq!(parse(method, &target), Err(error), "{method} {target}");
    }
}

#[test]
fn a_mount_needs_its_source_and_can_be_taken_out() {
    let call = parse(
        "POST",
        &format!("/v2/a/blobs/uploads/?mount=sha256:{HEX}&from=b"),
    )
    .unwrap();
    assert_eq!(call.mount_source().map(RepoName::as_str), Some("b"));
    let plain = call.without_mount();
    assert_eq!(plain.mount_source(), None);
    assert_eq!(plain.target(), "/v2/a/blobs/uploads/");
}

#[test]
fn tags_written_are_those_of_path_and_query() {
    let names = |call: &Call| {
        call.tags_written()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&parse("PUT", "/v2/a/manifests/v1").unwrap()), ["v1"]);
    let put = parse("PUT", &format!("/v2/a/manifests/sha256:{HEX}?tag=x&tag=y")).unwrap();
    assert_eq!(names(&put), ["x", "y"]);
    assert!(names(&parse("GET", "/v2/a/manifests/v1").unwrap()).is_empty());
}

proptest! {
    /// What is forwarded means the same as what was judged: writing and parsing again is identity.
    #[test]
    fn the_canonical_target_parses_to_the_same_call(
        method in "GET|HEAD|PUT|POST|PATCH|DELETE",
        name in "[a-z]{1,3}(/(manifests|blobs|uploads|tags|[a-z]{1,3})){0,3}",
        tail in "manifests/[a-z.%]{1,4}|tags/list|blobs/uploads/|blobs/uploads/[a-z=.-]{1,5}|manifests/sha256(:|%3A)[0-9a-f]{64}|blobs/sha256:[0-9a-f]{64}",
        query in "((n|last|tag|from|mount|digest|_state|ns|x)=[a-z0-9%/:+]{0,6}&?){0,3}",
    ) {
        let target = format!("/v2/{name}/{tail}?{query}");
        if let Ok(call) = parse(&method, &target) {
            let written = call.target();
            let path = written.split('?').next().unwrap();
            prop_assert!(path.strip_suffix("/uploads/").unwrap_or(path).split('/').skip(1).all(|part| !matches!(part, "" | "." | "..")));
            let mut again = parse(&method, &written).unwrap();
            if let (Call::Upload { state: new, .. }, Call::Upload { state: old, .. }) = (&mut again, &call) {
                new.clone_from(old);
            }
            prop_assert_eq!(again, call);
        }
    }

    #[test]
    fn no_bytes_panic(target in "\\PC{0,80}") {
        drop(parse("GET", &target));
        drop(parse("POST", &format!("/v2/a/blobs/uploads/?{target}")));
    }
}

#[test]
fn tags_of_one_push_are_told_apart_and_few() {
    let path = format!("/v2/a/manifests/sha256:{}", "a".repeat(64));
    let tags = |query: &str| {
        let call = Call::parse(&Method::PUT, &path, Some(query));
        call.map(|call| call.tags_written().len())
    };
    assert_eq!(tags(&["tag=a"; 1000].join("&")), Ok(1));
    let many = |count: u32| {
        let tags: Vec<_> = (0..count).map(|number| format!("tag=t{number}")).collect();
        tags.join("&")
    };
    assert_eq!(tags(&many(16)), Ok(16));
    assert_eq!(tags(&many(17)), Err(CallError::Tags));
}

#[test]
fn a_mount_that_is_an_upload_as_well_names_no_content_of_its_own() {
    let (a, b) = (
        format!("sha256:{}", "a".repeat(64)),
        format!("sha256:{}", "b".repeat(64)),
    );
    for (query, named) in [
        (format!("mount={a}&from=b"), Some(&a)),
        (format!("digest={b}"), Some(&b)),
        (format!("mount={a}&from=b&digest={a}"), Some(&a)),
        (format!("mount={a}&from=b&digest={b}"), None),
    ] {
        let call = Call::parse(&Method::POST, "/v2/a/blobs/uploads/", Some(&query)).unwrap();
        let digest = call.digest().map(ToString::to_string);
        assert_eq!(digest.as_ref(), named, "{query}");
    }
}
