//! The host name a request is for (RFC 9112 section 3.2, RFC 9113 section 8.3.1). It ends up in
//! challenges and in what the registry is told, so it is parsed, not passed through.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Version};

/// The longest host name with its port, in bytes.
const MAX_AUTHORITY: usize = 260;

/// A checked `host` or `host:port`, in one spelling: host names have no case, and 443 need not be
/// written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(Box<str>);

impl Authority {
    /// Reads a request's host; `None` when it has none, two, or one outside the grammar.
    pub fn of(head: &Parts) -> Option<Self> {
        let header = single_host(&head.headers).ok()?;
        let named = match (head.version, head.uri.authority()) {
            (Version::HTTP_2, Some(authority)) => {
                if header.is_some_and(|host| host != authority.as_str()) {
                    return None;
                }
                authority.as_str()
            }
            // Over HTTP/1 a target with an authority is for proxies that forward anywhere.
            (_, Some(_)) => return None,
            (_, None) => header?,
        };
        is_authority(named).then(|| Self(canonical(named)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether another spelling is of the same name.
    pub fn is(&self, other: &str) -> bool {
        self.0 == canonical(other)
    }
}

fn canonical(name: &str) -> Box<str> {
    let bare = name.strip_suffix(":443").unwrap_or(name);
    bare.to_ascii_lowercase().into()
}

fn single_host(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    let mut values = headers.get_all(HOST).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => host.to_str().map(Some).map_err(|_not_ascii| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

fn is_authority(text: &str) -> bool {
    if text.len() > MAX_AUTHORITY {
        return false;
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else {
                return false;
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return false;
            }
            ("v6", rest)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_fits = match port.strip_prefix(':') {
        None => port.is_empty(),
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok(),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    port_fits && !host.is_empty() && host.bytes().all(legal)
}

#[cfg(test)]
mod tests {
    use super::{Authority, is_authority};
    use http::Request;

    #[test]
    fn host_names_inside_and_outside_the_grammar() {
        for good in [
            "a",
            "registry.example.com:5000",
            "127.0.0.1:443",
            "[::1]:443",
            "[::1]",
            "a_b",
        ] {
            assert!(is_authority(good), "{good}");
        }
        for bad in [
            "",
            ":443",
            "a:",
            "a:b",
            "a:99999",
            "a b",
            "a\"",
            "a,b",
            "a/b",
            "a@b",
            "[::1",
            "::1",
            "[x]",
            "a:443:443",
            "ä",
            "a?b",
            "[::1]x",
        ] {
            assert!(!is_authority(bad), "{bad}");
        }
    }

    #[test]
    fn a_request_has_one_host_or_none() {
        let of = |builder: http::request::Builder| {
            Authority::of(&builder.body(()).unwrap().into_parts().0).map(|a| a.as_str().to_owned())
        };
        assert_eq!(
            of(Request::get("/").header("host", "a:1")),
            Some("a:1".to_owned())
        );
        assert_eq!(of(Request::get("/")), None);
        assert_eq!(
            of(Request::get("/").header("host", "a").header("host", "a")),
            None
        );
        assert_eq!(of(Request::get("http://b/").header("host", "a")), None);
        let h2 = || Request::get("https://b/").version(http::Version::HTTP_2);
        assert_eq!(of(h2()), Some("b".to_owned()));
        assert_eq!(of(h2().header("host", "a")), None);
        assert_eq!(of(h2().header("host", "b")), Some("b".to_owned()));
    }

    #[test]
    fn a_name_has_no_case_and_a_default_port() {
        let head = Request::get("/").header("host", "Hub.example.com:443");
        let authority = Authority::of(&head.body(()).unwrap().into_parts().0).unwrap();
        assert_eq!(authority.as_str(), "hub.example.com");
        assert!(authority.is("hub.Example.com"));
        assert!(!authority.is("hub.example.com:444"));
        assert!(!authority.is("other.example.com"));
    }
}
