//! URLs of others, read strictly: whoever reads one here and whoever follows it must mean the same
//! host. Pure.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest host name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// Its longest part.
const MAX_LABEL: usize = 63;

/// Protocol of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Protocol, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: Scheme,
    /// A name in lower case, an IPv4 address, or an IPv6 address in brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// A URL, or the part of one that names no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Url<'a> {
    /// Path and query, for the host that was asked.
    Path(&'a str),
    /// A whole URL, and its path and query; these are empty where it has none.
    Whole(Origin, &'a str),
}

impl Scheme {
    fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case("http") => Some(Self::Http),
            _ if text.eq_ignore_ascii_case("https") => Some(Self::Https),
            _ => None,
        }
    }

    /// The port that is not written.
    pub(super) fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl Origin {
    /// Host, and the port where it is not the usual one.
    pub(super) fn authority(&self) -> String {
        let Self { scheme, host, port } = self;
        if *port == scheme.default_port() {
            host.to_string()
        } else {
            format!("{host}:{port}")
        }
    }
}

/// As it is written in `upstream.redirect_hosts`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme == Scheme::Http {
            f.write_str("http://")?;
        }
        f.write_str(&self.authority())
    }
}

impl<'a> Url<'a> {
    /// Reads an absolute path or an http or https URL. `None` for anything that some reader could
    /// take for another host: user names, backslashes, white space, `//host`, a fragment, odd
    /// numbers for addresses, and for what is none of both.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"\"#<>\\".contains(&byte);
        if !text.bytes().all(legal) || text.starts_with("//") {
            return None;
        }
        if text.starts_with('/') {
            return Some(Self::Path(text));
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme = Scheme::parse(scheme)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end)?;
        let (host, port) = parse_authority(authority)?;
        let port = port.unwrap_or(scheme.default_port());
        let origin = Origin { scheme, host, port };
        Some(Self::Whole(origin, target))
    }

    /// Path and query.
    pub(super) fn target(&self) -> &'a str {
        match self {
            Self::Path(target) | Self::Whole(_, target) => target,
        }
    }
}

/// `host` or `host:port`.
pub(super) fn parse_authority(text: &str) -> Option<(Box<str>, Option<u16>)> {
    let end = match text.strip_prefix('[') {
        Some(_) => text.find(']')?.checked_add(1)?,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(end)?;
    let port = match rest {
        "" => None,
        _ => Some(parse_port(rest.strip_prefix(':')?)?),
    };
    Some((parse_host(host)?, port))
}

/// A host in its one spelling.
fn parse_host(text: &str) -> Option<Box<str>> {
    if let Some(rest) = text.strip_prefix('[') {
        let address: Ipv6Addr = rest.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]").into());
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(legal);
    if text.len() > MAX_NAME || !text.split('.').all(is_label) {
        return None;
    }
    // What ends in a number browsers read as an address, however it is written.
    let is_name = !text.rsplit('.').next().is_some_and(is_number);
    (is_name || text.parse::<Ipv4Addr>().is_ok()).then(|| text.to_ascii_lowercase().into())
}

/// Whether a reader of addresses would take it for a number (WHATWG URL, "ends in a number").
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    label.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// From 1 to 65535, in its one spelling.
fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::{Scheme, Url};
    use proptest::prelude::*;

    fn whole(text: &str) -> Option<(String, &str)> {
        match Url::parse(text)? {
            Url::Whole(origin, target) => Some((origin.to_string(), target)),
            Url::Path(_) => None,
        }
    }

    #[test]
    fn urls_have_one_reading() {
        for (text, origin, target) in [
            ("https://S3.Example.com/a?b=c", "s3.example.com", "/a?b=c"),
            ("HTTPS://s3.example.com:443", "s3.example.com", ""),
            ("https://s3.example.com:8443?x", "s3.example.com:8443", "?x"),
            ("http://minio:9000//x", "http://minio:9000", "//x"),
            ("http://minio:80/", "http://minio", "/"),
            ("https://minio:80/", "minio:80", "/"),
            ("http://127.0.0.1:443/", "http://127.0.0.1:443", "/"),
            ("https://[2001:DB8::0:1]/", "[2001:db8::1]", "/"),
            ("https://[::1]:9000/x", "[::1]:9000", "/x"),
            ("https://xn--mnchen-3ya.de/", "xn--mnchen-3ya.de", "/"),
            ("https://my_bucket.s3/a|b{c}", "my_bucket.s3", "/a|b{c}"),
            ("https://a/b@c:d//e", "a", "/b@c:d//e"),
        ] {
            assert_eq!(whole(text), Some((origin.to_owned(), target)), "{text}");
        }
        assert_eq!(
            Url::parse("/v2/?x=http://y"),
            Some(Url::Path("/v2/?x=http://y"))
        );
        for text in [
            "",
            "x",
            "v2/",
            "?x",
            "//evil/x",
            "///evil",
            "/\\evil",
            "\\\\evil\\x",
            "https:/evil",
            "https:evil",
            "https:\\\\evil",
            "https://",
            "https:///x",
            "https://?x",
            "https://a\\.evil.com/",
            "https://a\\@evil/",
            "https://user@a/",
            "https://user:pw@a/",
            "https://a@b@c/",
            "https://a b/",
            " https://a/",
            "https://a/ ",
            "https://a/\t",
            "https://a/\r\nSet-Cookie: x",
            "https://a/#evil",
            "https://a#@evil/",
            "https://a/\"",
            "https://a/<x>",
            "https://a./",
            "https://a..b/",
            "https://.a/",
            "https://a%2eb/",
            "https://%61/",
            "https://münchen.de/",
            "https://a:/",
            "https://a:0/",
            "https://a:00443/",
            "https://a:+443/",
            "https://a:65536/",
            "https://a:443:443/",
            "https://a:x/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://127.0.0.0x1/",
            "https://127.0.0.01/",
            "https://1.2.3.4.5/",
            "https://a.1/",
            "https://[::1/",
            "https://[::1]x/",
            "https://[fe80::1%25eth0]/",
            "https://[127.0.0.1]/",
            "https://[]/",
            "https://::1/",
            "https://*/",
            "https://*.example.com/",
            "ftp://a/",
            "s3://bucket/x",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "https ://a/",
            "https//a/",
        ] {
            assert_eq!(Url::parse(text), None, "{text}");
        }
        let label = "a".repeat(64);
        assert_eq!(Url::parse(&format!("https://{label}/")), None);
        let name = vec!["abc"; 70].join(".");
        assert_eq!(Url::parse(&format!("https://{name}/")), None);
    }

    proptest! {
        #[test]
        fn what_is_read_can_be_written_and_read_again(
            text in "(https?|HTTP)://([a-zA-Z0-9._:@\\[\\]\\\\-]{0,12}|[a-z]{1,5}(\\.[a-z]{1,3}){0,2}(:[0-9]{1,5})?)[/?#]?[!-~]{0,6}"
        ) {
            if let Some(Url::Whole(origin, target)) = Url::parse(&text) {
                let scheme = match origin.scheme {
                    Scheme::Http => "http",
                    Scheme::Https => "https",
                };
                let again = format!("{scheme}://{}:{}{target}", origin.host, origin.port);
                prop_assert_eq!(Url::parse(&again), Some(Url::Whole(origin.clone(), target)));
                // Another reader agrees on who is asked.
                if let Ok(uri) = text.parse::<http::Uri>() {
                    let port = uri.port_u16().unwrap_or(origin.scheme.default_port());
                    prop_assert_eq!(uri.host().unwrap().to_ascii_lowercase(), &*origin.host);
                    prop_assert_eq!(port, origin.port);
                }
            }
        }
    }
}
