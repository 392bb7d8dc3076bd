//! Which headers cross the proxy: those of the registry API, by one table for each direction, and
//! what the configuration adds. Hop-by-hop headers go first, ours are put on afterwards, so that
//! `Connection: authorization` and its kin can take nothing away that we rely on.

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::registry::Call;
use crate::trace::{self, TRACEPARENT, TRACESTATE};

/// Headers of requests that cross, in order; those that begin with `oci-` do as well.
const REQUEST: [&str; 21] = [
    "accept",
    "accept-encoding",
    "cache-control",
    "content-digest",
    "content-range",
    "content-type",
    "digest",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-upload-uuid",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "range",
    "repr-digest",
    "traceparent",
    "tracestate",
    "user-agent",
];

/// Headers of answers that cross, in order; those that begin with `oci-` or `ratelimit-` do as well.
const ANSWER: [&str; 24] = [
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "docker-content-digest",
    "docker-distribution-api-version",
    "docker-ratelimit-source",
    "docker-upload-uuid",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "range",
    "retry-after",
    "vary",
    "warning",
    "x-content-type-options",
];

/// Headers that cross in neither direction, whatever the configuration says; a `*` at the end stands
/// for any rest. Those of one connection, framing, credentials, claims of where a request is from,
/// who somebody is or what is asked, and orders to the client or to another proxy.
const NEVER: [&str; 44] = [
    "alt-svc",
    "authentication-info",
    "authorization",
    "clear-site-data",
    "client-ip",
    "connection",
    "content-length",
    "cookie*",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-*",
    "refresh",
    "remote-*",
    "set-cookie*",
    "ssl-client-*",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "www-authenticate",
    "x-accel-*",
    "x-auth-request-*",
    "x-authenticated-*",
    "x-client-*",
    "x-cluster-client-ip",
    "x-forwarded*",
    "x-goog-authenticated-user-*",
    "x-host",
    "x-http-method*",
    "x-method-override",
    "x-original-*",
    "x-real-ip",
    "x-remote-*",
    "x-rewrite-url",
    "x-sendfile*",
    "x-ssl-*",
    "x-user*",
    "x-webauth-*",
    "x-amzn-oidc-*",
    "x-ms-client-principal*",
];

/// Headers that cross besides those of the table, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassHeaders(Box<[PassHeader]>);

/// One of them: a name, or all that begin with one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassHeader {
    text: Box<str>,
    is_prefix: bool,
}

impl PassHeader {
    /// Reads a header's name, or the beginning of names followed by `*`.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what to write instead.
    pub fn parse(written: &str) -> Result<Self, (&'static str, &'static str)> {
        let lower = written.to_ascii_lowercase();
        let (text, is_prefix) = match lower.strip_suffix('*') {
            Some(text) => (text, true),
            None => (&*lower, false),
        };
        let help = "write a name such as \"X-Request-Id\", or \"X-Meta-*\" for all that begin so";
        if HeaderName::from_bytes(text.as_bytes()).is_err() || text.contains('*') {
            return Err(("this is no header's name", help));
        }
        if text.contains('_') {
            let why = "names with `_` never cross: many servers take it for `-`";
            return Err((why, "use a name with `-`"));
        }
        let is_barred = NEVER.iter().any(|never| match never.strip_suffix('*') {
            Some(never) => text.starts_with(never) || (is_prefix && never.starts_with(text)),
            None => text == *never || (is_prefix && never.starts_with(text)),
        });
        if is_barred && is_prefix {
            let why = "some header that begins so never crosses";
            return Err((why, "write more of the name, or each header by itself"));
        }
        if is_barred {
            let why = "this header never crosses: it is about one connection, or says who somebody \
                       is or where to go";
            return Err((why, "leave it out"));
        }
        Ok(Self {
            text: text.into(),
            is_prefix,
        })
    }

    fn names(&self, name: &str) -> bool {
        match name.strip_prefix(&*self.text) {
            Some("") => true,
            Some(rest) => self.is_prefix && !rest.contains('_'),
            None => false,
        }
    }
}

impl PassHeaders {
    fn name(&self, name: &str) -> bool {
        self.0.iter().any(|header| header.names(name))
    }
}

impl FromIterator<PassHeader> for PassHeaders {
    fn from_iter<T: IntoIterator<Item = PassHeader>>(headers: T) -> Self {
        Self(headers.into_iter().collect())
    }
}

fn is_of_request(name: &str) -> bool {
    REQUEST.binary_search(&name).is_ok() || (name.starts_with("oci-") && !name.contains('_'))
}

fn is_of_answer(name: &str) -> bool {
    ANSWER.binary_search(&name).is_ok()
        || name.starts_with("ratelimit-")
        || name.starts_with("oci-")
}

/// Whether an answer's length is told in one way: by one `Content-Length` that is one number, by
/// `chunked` alone, or by the end of the connection (RFC 9112 section 6.3). Of the two that another
/// would be cut by, one is a lie.
pub(super) fn is_framed_once(headers: &HeaderMap) -> bool {
    let is_number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() || !length.is_none_or(is_number) {
        return false;
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => length.is_none() && only.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Removes from an answer what does not cross, and the headers that `Connection` names; the others
/// keep their lines and order.
pub(super) fn passed_back(headers: &mut HeaderMap, more: &PassHeaders) {
    let named = named_by_connection(headers);
    let crosses = |name: &HeaderName| {
        (is_of_answer(name.as_str()) || more.name(name.as_str())) && !named.contains(name)
    };
    if !headers.keys().all(crosses) {
        let kept = headers.iter().filter(|(name, _)| crosses(name));
        *headers = kept
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
    }
}

/// Copies a client's headers to a request for the registry: of those that cross every line in its
/// order. Form content types become `application/octet-stream`: the registry would read `mount`,
/// `from` and `digest` from such a body. A trace is passed on as it is if it is one.
pub(super) fn passed_on(
    from: &HeaderMap,
    has_trace: bool,
    call: &Call,
    more: &PassHeaders,
    to: &mut HeaderMap,
) {
    let named = named_by_connection(from);
    let has_state = has_trace && trace::has_state(from);
    let is_nonsense = |name: &HeaderName| {
        (!has_trace && *name == TRACEPARENT) || (!has_state && *name == TRACESTATE)
    };
    for (name, value) in from {
        let crosses = is_of_request(name.as_str()) || more.name(name.as_str());
        if crosses && !named.contains(name) && !is_nonsense(name) {
            to.append(name, value.clone());
        }
    }
    if !call.is_read() && has_form_type(from) {
        to.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    values
        // One that is no name does not save the others.
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect()
}

/// Whether the registry could take the body for a form, under any reading.
fn has_form_type(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = values.next() else {
        return false;
    };
    let Ok(text) = first.to_str() else {
        return true;
    };
    let kind = text
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/.+-_".contains(&b);
    values.next().is_some()
        || kind == "application/x-www-form-urlencoded"
        || kind.starts_with("multipart/")
        || !kind.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::{ANSWER, NEVER, PassHeader, PassHeaders, REQUEST, passed_back};
    use crate::registry::Call;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};
    use std::collections::BTreeSet;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        map
    }

    fn lines(map: &HeaderMap) -> Vec<(&str, &str)> {
        map.iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    fn passed_on(from: &HeaderMap, call: &Call, more: &PassHeaders, to: &mut HeaderMap) {
        let has_trace = crate::trace::Parent::of(from).is_some();
        super::passed_on(from, has_trace, call, more, to);
    }

    fn upload() -> Call {
        Call::parse(&Method::POST, "/v2/a/blobs/uploads/", None).unwrap()
    }

    #[test]
    fn headers_of_the_api_cross_with_their_lines_and_order() {
        let of_api = [
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("range", "bytes=0-1"),
            ("accept-encoding", "zstd, gzip"),
            ("oci-something-new", "1"),
        ];
        let others = [
            ("x-a", "1"),
            ("x-webauth-user", "admin"),
            ("ssl-client-s-dn", "CN=admin"),
            ("x-auth-request-user", "admin"),
            ("origin", "https://evil"),
            ("baggage", "a=1"),
            ("content-encoding", "gzip"),
            ("oci-some_thing", "1"),
            ("ratelimit-limit", "1"),
        ];
        let from = map(&[&others[..], &of_api, &others].concat());
        let mut to = HeaderMap::new();
        passed_on(&from, &upload(), &PassHeaders::default(), &mut to);
        assert_eq!(lines(&to), of_api);
    }

    fn more(names: &[&str]) -> PassHeaders {
        let names = names.iter().map(|name| PassHeader::parse(name).unwrap());
        names.collect()
    }

    #[test]
    fn configured_headers_cross_as_well() {
        let from = map(&[
            ("x-meta-team", "a"),
            ("accept", "a/b"),
            ("x-meta-", "b"),
            ("x-meta-te_am", "c"),
            ("x-metadata", "d"),
            ("x-request-id", "1"),
            ("x-request-id", "2"),
            ("x-request-id-2", "3"),
            ("x-gone", "4"),
            ("connection", "x-gone"),
        ]);
        let more = more(&["X-Meta-*", "x-Request-ID", "x-gone"]);
        let expected = [
            ("x-meta-team", "a"),
            ("accept", "a/b"),
            ("x-meta-", "b"),
            ("x-request-id", "1"),
            ("x-request-id", "2"),
        ];
        let mut to = HeaderMap::new();
        passed_on(&from, &upload(), &more, &mut to);
        assert_eq!(lines(&to), expected);
        let mut answer = from;
        answer.remove("accept");
        passed_back(&mut answer, &more);
        let expected: Vec<_> = expected
            .into_iter()
            .filter(|(name, _)| *name != "accept")
            .collect();
        assert_eq!(lines(&answer), expected);
    }

    #[test]
    fn what_never_crosses_cannot_be_configured() {
        for name in NEVER {
            let name = name.trim_end_matches('*');
            assert!(PassHeader::parse(name).is_err(), "{name}");
            assert!(PassHeader::parse(&name.to_uppercase()).is_err(), "{name}");
            for (end, last) in name.char_indices() {
                let glob = format!("{}{last}*", name.split_at(end).0);
                assert!(PassHeader::parse(&glob).is_err(), "{glob}");
            }
        }
        for name in [
            "",
            "*",
            "**",
            "X-*",
            "X-*-Y",
            "x y",
            "x:",
            "X_Meta",
            "X_Meta-*",
            "Set-Cookie2",
            "Proxy-Status",
            "X-Forwarded-User",
            "X-Remote-User",
            "SSL-Client-S-DN",
            "X-WebAuth-User",
            "X-Auth-Request-Email",
        ] {
            assert!(PassHeader::parse(name).is_err(), "{name}");
        }
        for name in [
            "Strict-Transport-Security",
            "X-Request-Id",
            "X-Meta-*",
            "Access-Control-*",
            "Origin",
            "baggage",
            "b3",
        ] {
            assert!(PassHeader::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme = include_str!("../../README.md");
        let row = |direction: &str| -> BTreeSet<String> {
            let start = format!("| {direction} | `");
            let row = readme.lines().find(|line| line.starts_with(&start));
            let names = row.unwrap().split('`').skip(1).step_by(2);
            names.map(str::to_ascii_lowercase).collect()
        };
        let table = |names: &[&str], groups: &[&str]| -> BTreeSet<String> {
            let all = names.iter().chain(groups);
            all.map(|name| (*name).to_owned()).collect()
        };
        assert_eq!(row("requests"), table(&REQUEST, &["oci-*"]));
        assert_eq!(row("answers"), table(&ANSWER, &["oci-*", "ratelimit-*"]));
    }

    #[test]
    fn the_tables_are_in_order_and_name_nothing_that_never_crosses() {
        assert!(REQUEST.is_sorted() && ANSWER.is_sorted());
        for name in REQUEST.iter().chain(&ANSWER) {
            let is_framing = *name == "content-length";
            assert_eq!(PassHeader::parse(name).is_err(), is_framing, "{name}");
        }
    }

    #[test]
    fn what_is_no_name_in_connection_does_not_save_the_names_beside_it() {
        let mut from = map(&[("range", "1"), ("etag", "2"), ("cache-control", "a")]);
        let named = HeaderValue::from_bytes(b"range, \xee,,ETag ").unwrap();
        from.insert("connection", named);
        let mut to = HeaderMap::new();
        passed_on(&from, &upload(), &PassHeaders::default(), &mut to);
        assert_eq!(lines(&to), [("cache-control", "a")]);
        passed_back(&mut from, &PassHeaders::default());
        assert_eq!(lines(&from), [("cache-control", "a")]);
    }

    #[test]
    fn credentials_and_claims_of_origin_stay_here() {
        let from = map(&[
            ("authorization", "Basic x"),
            ("cookie", "a=b"),
            ("proxy-authorization", "x"),
            ("forwarded", "host=evil"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "gopher"),
            ("x-real-ip", "1.1.1.1"),
            ("x_real_ip", "1.1.1.1"),
            ("x-remote-user", "admin"),
            ("remote-user", "admin"),
            ("x-original-url", "/"),
            ("x-http-method-override", "DELETE"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("expect", "100-continue"),
            ("host", "evil"),
            ("content-length", "5"),
            ("keep-alive", "1"),
        ]);
        let mut to = HeaderMap::new();
        passed_on(&from, &upload(), &PassHeaders::default(), &mut to);
        assert_eq!(lines(&to), []);
    }

    #[test]
    fn a_trace_goes_up_as_it_is_and_nonsense_does_not() {
        const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let good = [
            ("accept", "a/b"),
            ("tracestate", "a=1"),
            ("traceparent", PARENT),
        ];
        let passed = |sent: &[(&str, &str)]| {
            let mut to = HeaderMap::new();
            passed_on(&map(sent), &upload(), &PassHeaders::default(), &mut to);
            let lines = lines(&to);
            let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            lines.into_iter().map(owned).collect::<Vec<_>>()
        };
        let names = |lines: Vec<(String, String)>| -> Vec<String> {
            lines.into_iter().map(|(name, _)| name).collect()
        };
        let sent = good.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(passed(&good), sent);
        let twice = [good[0], good[1], good[2], good[2]];
        assert_eq!(names(passed(&twice)), ["accept"]);
        assert_eq!(names(passed(&good[..2])), ["accept"]);
        let odd_state = [good[0], ("tracestate", "A"), good[2]];
        assert_eq!(names(passed(&odd_state)), ["accept", "traceparent"]);
    }

    #[test]
    fn nothing_that_could_be_a_form_goes_up_as_one() {
        for kind in [
            "application/x-www-form-urlencoded",
            "Application/X-WWW-Form-Urlencoded ; charset=x",
            " multipart/form-data; boundary=x",
            "multipart/mixed",
            "application/\"x-www-form-urlencoded\"",
        ] {
            let mut to = HeaderMap::new();
            passed_on(
                &map(&[("content-type", kind)]),
                &upload(),
                &PassHeaders::default(),
                &mut to,
            );
            assert_eq!(
                lines(&to),
                [("content-type", "application/octet-stream")],
                "{kind}"
            );
        }
        let mut to = HeaderMap::new();
        passed_on(
            &map(&[("content-type", "a/b"), ("content-type", "multipart/x")]),
            &upload(),
            &PassHeaders::default(),
            &mut to,
        );
        assert_eq!(lines(&to), [("content-type", "application/octet-stream")]);
        let mut to = HeaderMap::new();
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        passed_on(
            &map(&[("content-type", manifest)]),
            &upload(),
            &PassHeaders::default(),
            &mut to,
        );
        assert_eq!(lines(&to), [("content-type", manifest)]);
    }

    #[test]
    fn answers_keep_the_headers_of_the_api() {
        let mut answer = map(&[
            ("connection", "Age"),
            ("age", "1"),
            ("set-cookie", "a=b"),
            ("alt-svc", "h3=\":443\""),
            ("refresh", "0; url=https://evil"),
            ("clear-site-data", "\"*\""),
            ("www-authenticate", "Basic"),
            ("proxy-authenticate", "Basic"),
            ("authentication-info", "x"),
            ("strict-transport-security", "max-age=1"),
            ("access-control-allow-origin", "*"),
            ("server", "x"),
            ("warning", "299 - \"a\""),
            ("warning", "299 - \"b\""),
            ("content-encoding", "gzip"),
            ("oci-subject", "sha256:x"),
            ("ratelimit-limit", "1"),
            ("keep-alive", "x"),
            ("transfer-encoding", "chunked"),
            ("etag", "\"x\""),
            ("content-length", "5"),
            ("docker-content-digest", "sha256:x"),
        ]);
        passed_back(&mut answer, &PassHeaders::default());
        let left = [
            ("warning", "299 - \"a\""),
            ("warning", "299 - \"b\""),
            ("content-encoding", "gzip"),
            ("oci-subject", "sha256:x"),
            ("ratelimit-limit", "1"),
            ("etag", "\"x\""),
            ("content-length", "5"),
            ("docker-content-digest", "sha256:x"),
        ];
        assert_eq!(lines(&answer), left);
    }
}
