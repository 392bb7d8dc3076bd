//! Which headers cross the proxy. Hop-by-hop headers go first, ours are put on afterwards, so that
//! `Connection: authorization` and its kin can take nothing away that we rely on.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, FORWARDED, HOST, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::registry::Call;
use crate::trace::{self, TRACEPARENT, TRACESTATE};

/// The registry's own demands for credentials, and what it says to those it took for good ones. Who
/// may come in is said here alone.
pub(super) const CHALLENGES: [HeaderName; 3] = [
    WWW_AUTHENTICATE,
    HeaderName::from_static("authentication-info"),
    HeaderName::from_static("proxy-authentication-info"),
];

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

/// Removes the headers of one connection (RFC 9110 section 7.6.1); the others keep their order.
pub fn hop_by_hop(headers: &mut HeaderMap) {
    const HOPS: [&str; 9] = [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let named = named_by_connection(headers);
    let hop = |name: &HeaderName| HOPS.contains(&name.as_str()) || named.contains(name);
    if headers.keys().any(hop) {
        let kept = headers.iter().filter(|(name, _)| !hop(name));
        *headers = kept
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
    }
}

/// Copies a client's headers to a request for the registry: every line in its order, but for those
/// of one connection, those that carry the client's credentials, and those that claim where the
/// request came from. Form content types become `application/octet-stream`: the registry would read
/// `mount`, `from` and `digest` from such a body. A trace is passed on as it is if it is one.
pub fn passed_on(from: &HeaderMap, call: &Call, to: &mut HeaderMap) {
    let named = named_by_connection(from);
    let has_trace = trace::Parent::of(from).is_some();
    let has_state = has_trace && trace::has_state(from);
    let is_nonsense = |name: &HeaderName| {
        (!has_trace && *name == TRACEPARENT) || (!has_state && *name == TRACESTATE)
    };
    for (name, value) in from {
        if !is_ours(name) && !named.contains(name) && !is_nonsense(name) {
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

/// Headers that are never passed on from a client.
fn is_ours(name: &HeaderName) -> bool {
    const ALWAYS: [HeaderName; 11] = [
        AUTHORIZATION,
        CONNECTION,
        CONTENT_LENGTH,
        COOKIE,
        EXPECT,
        FORWARDED,
        HOST,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ];
    let text = name.as_str();
    ALWAYS.contains(name)
        || text.contains('_')
        || text.starts_with("x-forwarded-")
        || text.starts_with("x-remote-")
        || text.starts_with("proxy-")
        || text.starts_with("x-http-method")
        || matches!(
            text,
            "keep-alive"
                | "http2-settings"
                | "remote-user"
                | "x-method-override"
                | "x-original-url"
                | "x-real-ip"
                | "x-rewrite-url"
        )
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
    use super::{hop_by_hop, passed_on};
    use crate::registry::Call;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

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

    fn upload() -> Call {
        Call::parse(&Method::POST, "/v2/a/blobs/uploads/", None).unwrap()
    }

    #[test]
    fn lines_that_mean_nothing_to_us_keep_their_order() {
        let from = map(&[
            ("accept", "a/b"),
            ("accept", "c/d"),
            ("range", "bytes=0-1"),
            ("x-a", "1"),
        ]);
        let mut to = HeaderMap::new();
        passed_on(&from, &upload(), &mut to);
        assert_eq!(lines(&to), lines(&from));
    }

    #[test]
    fn what_is_no_name_in_connection_does_not_save_the_names_beside_it() {
        let mut from = map(&[("x-one", "1"), ("x-two", "2"), ("accept", "a/b")]);
        let named = HeaderValue::from_bytes(b"x-one, \xee,,X-Two ").unwrap();
        from.insert("connection", named);
        let mut to = HeaderMap::new();
        passed_on(&from, &upload(), &mut to);
        assert_eq!(lines(&to), [("accept", "a/b")]);
        hop_by_hop(&mut from);
        assert_eq!(lines(&from), [("accept", "a/b")]);
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
        passed_on(&from, &upload(), &mut to);
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
            passed_on(&map(sent), &upload(), &mut to);
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
            passed_on(&map(&[("content-type", kind)]), &upload(), &mut to);
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
            &mut to,
        );
        assert_eq!(lines(&to), [("content-type", "application/octet-stream")]);
        let mut to = HeaderMap::new();
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        passed_on(&map(&[("content-type", manifest)]), &upload(), &mut to);
        assert_eq!(lines(&to), [("content-type", manifest)]);
    }

    #[test]
    fn answers_lose_the_headers_of_their_connection_only() {
        let mut answer = map(&[
            ("connection", "X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "x"),
            ("transfer-encoding", "chunked"),
            ("etag", "\"x\""),
            ("content-length", "5"),
            ("docker-content-digest", "sha256:x"),
        ]);
        hop_by_hop(&mut answer);
        let left = [
            ("etag", "\"x\""),
            ("content-length", "5"),
            ("docker-content-digest", "sha256:x"),
        ];
        assert_eq!(lines(&answer), left);
    }
}
