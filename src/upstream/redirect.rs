//! Where a read of a blob may be redirected to: `upstream.redirect_hosts`. Pure.

use std::net::Ipv4Addr;

use super::origin::{Origin, Scheme, Url, parse_authority};

/// The hosts, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectHosts(Box<[RedirectHost]>);

/// One of the hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedirectHost(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// `*`: any https host at any port.
    AnyHttps,
    /// One host.
    One(Origin),
    /// `*.suffix`: every name below that of the origin.
    Below(Origin),
}

impl RedirectHost {
    /// Reads `host`, `host:port`, `*.suffix` or `*`, after `http://` where it is not https.
    ///
    /// # Errors
    ///
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text == "*" {
            return Ok(Self(Kind::AnyHttps));
        }
        if !text.is_ascii() {
            return Err("write the name as the DNS has it: \"xn--...\"");
        }
        if text.contains('@') {
            return Err("leave user name and password out: only the host is compared");
        }
        let (scheme, rest) = match text.split_once("://") {
            None => (Scheme::Https, text),
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            Some(_) => return Err("clients are redirected to https and http only"),
        };
        if rest.contains(['/', '?', '#']) {
            return Err("end it after host and port: paths are not compared");
        }
        let (is_below, rest) = match rest.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, rest),
        };
        if rest.contains('*') {
            return Err(
                "write \"*.example.com\" for all names below a domain, or \"*\" for every \
                        https host at any port",
            );
        }
        let (host, port) = parse_authority(rest).ok_or(
            "write \"HOST\", \"HOST:PORT\", \"*.DOMAIN\", or \"http://HOST:PORT\" for plain HTTP; \
             IPv6 addresses in brackets",
        )?;
        let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
        if is_below && is_address {
            return Err("nothing is below an address");
        }
        let port = port.unwrap_or(scheme.default_port());
        let origin = Origin { scheme, host, port };
        Ok(Self(if is_below {
            Kind::Below(origin)
        } else {
            Kind::One(origin)
        }))
    }

    fn allows(&self, to: &Origin) -> bool {
        let is_below = |domain: &str| {
            let name = to.host.strip_suffix(domain);
            name.is_some_and(|name| name.len() > 1 && name.ends_with('.'))
        };
        match &self.0 {
            Kind::AnyHttps => to.scheme == Scheme::Https,
            Kind::One(origin) => origin == to,
            Kind::Below(origin) => {
                (origin.scheme, origin.port) == (to.scheme, to.port) && is_below(&origin.host)
            }
        }
    }

    /// Whether it is every https host.
    pub fn is_any(&self) -> bool {
        self.0 == Kind::AnyHttps
    }

    /// Whether `*` says as much.
    pub fn is_https(&self) -> bool {
        match &self.0 {
            Kind::AnyHttps => true,
            Kind::One(origin) | Kind::Below(origin) => origin.scheme == Scheme::Https,
        }
    }
}

impl RedirectHosts {
    /// Whether a client may be led to a URL, which nobody can take for another: nothing, or where it
    /// leads, as `upstream.redirect_hosts` would name it.
    pub(super) fn check(&self, url: &str) -> Result<(), String> {
        match Url::parse(url) {
            Some(Url::Whole(to, _)) if self.0.iter().any(|host| host.allows(&to)) => Ok(()),
            Some(Url::Whole(to, _)) => Err(to.to_string()),
            Some(Url::Path(_)) => Err("a path of its own".to_owned()),
            None => Err("what is no plain URL".to_owned()),
        }
    }
}

impl FromIterator<RedirectHost> for RedirectHosts {
    fn from_iter<T: IntoIterator<Item = RedirectHost>>(hosts: T) -> Self {
        Self(hosts.into_iter().collect())
    }
}

/// Every https host: object stores have many names, and clients take no credentials there.
impl Default for RedirectHosts {
    fn default() -> Self {
        [RedirectHost(Kind::AnyHttps)].into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{RedirectHost, RedirectHosts};
    use proptest::prelude::*;

    fn hosts(text: &str) -> RedirectHosts {
        text.split(' ')
            .filter(|one| !one.is_empty())
            .map(|one| RedirectHost::parse(one).unwrap())
            .collect()
    }

    #[test]
    fn blobs_are_redirected_to_the_hosts_that_are_named() {
        for (named, url) in [
            ("*", "https://any.example.com/x?sig=1"),
            ("*", "https://any.example.com:8443/x"),
            ("*", "https://[2001:db8::1]/x"),
            ("*", "https://10.0.0.1:9000/x"),
            ("s3.example.com", "https://s3.example.com/x"),
            ("s3.example.com", "https://S3.EXAMPLE.com:443/x"),
            ("S3.example.com:443", "https://s3.example.com/x"),
            ("https://s3.example.com", "https://s3.example.com/x"),
            ("s3.example.com:9000", "https://s3.example.com:9000/x"),
            ("*.example.com", "https://bucket.s3.example.com/x"),
            ("*.example.com", "https://a.example.com?x"),
            ("*.s3", "https://bucket.s3/x"),
            ("*.example.com:9000", "https://a.example.com:9000/"),
            ("http://minio:9000", "http://minio:9000/bucket/x"),
            ("http://minio", "http://minio:80/bucket/x"),
            ("http://*.minio:9000", "http://bucket.minio:9000/x"),
            ("[2001:db8::1]:9000", "https://[2001:DB8:0::1]:9000/x"),
            ("a b.example.com", "https://b.example.com/"),
        ] {
            assert_eq!(hosts(named).check(url), Ok(()), "{named}: {url}");
        }
        for (named, url, told) in [
            ("*", "http://any.example.com/x", "http://any.example.com"),
            ("*", "http://any:9000/x", "http://any:9000"),
            ("", "https://a/x", "a"),
            (
                "s3.example.com",
                "https://s3.example.com:8443/x",
                "s3.example.com:8443",
            ),
            (
                "s3.example.com",
                "http://s3.example.com/x",
                "http://s3.example.com",
            ),
            (
                "s3.example.com",
                "http://s3.example.com:443/x",
                "http://s3.example.com:443",
            ),
            (
                "s3.example.com",
                "https://a.s3.example.com/x",
                "a.s3.example.com",
            ),
            (
                "s3.example.com",
                "https://s3.example.com.evil/x",
                "s3.example.com.evil",
            ),
            ("*.example.com", "https://example.com/x", "example.com"),
            (
                "*.example.com",
                "https://evilexample.com/x",
                "evilexample.com",
            ),
            (
                "*.example.com",
                "https://a.example.com:8443/x",
                "a.example.com:8443",
            ),
            (
                "*.example.com",
                "https://a.example.com.evil/x",
                "a.example.com.evil",
            ),
            ("http://minio:9000", "https://minio:9000/x", "minio:9000"),
            (
                "http://minio:9000",
                "http://minio:9001/x",
                "http://minio:9001",
            ),
            ("http://minio:9000", "http://minio/x", "http://minio"),
            ("*", "/v2/a/blobs/x", "a path of its own"),
            ("*", "//evil/x", "what is no plain URL"),
            ("*", "https://user@evil/x", "what is no plain URL"),
            (
                "s3.example.com",
                "https://s3.example.com@evil/x",
                "what is no plain URL",
            ),
            (
                "*",
                "https://evil\\.s3.example.com/x",
                "what is no plain URL",
            ),
            ("*", "ftp://evil/x", "what is no plain URL"),
            ("*", "", "what is no plain URL"),
        ] {
            assert_eq!(
                hosts(named).check(url),
                Err(told.to_owned()),
                "{named}: {url}"
            );
        }
        assert_eq!(RedirectHosts::default(), hosts("*"));
    }

    #[test]
    fn hosts_are_written_strictly() {
        for text in [
            "",
            "**",
            "*:9000",
            "a.*",
            "*a.example.com",
            "*.*.example.com",
            "http://*",
            "*.",
            "*.0.0.1",
            "*.127.0.0.1",
            "*.[::1]",
            "::1",
            "[::1",
            "127.1",
            "a b",
            "a/",
            "https://a/bucket",
            "a?x",
            "a#x",
            "user@a",
            "https://u:p@a",
            "ftp://a",
            "HTTP://a",
            "//a",
            "a:",
            "a:0",
            "a:x",
            "a:70000",
            "a.",
            ".a",
            "münchen.de",
            "a\\b",
        ] {
            assert!(RedirectHost::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_but_the_named_host_is_allowed(
            host in "[a-z]{1,3}(\\.[a-z]{1,3}){0,2}", port in 1..=u16::MAX,
            other in "(https?)://[a-z@.:\\\\]{0,8}[a-z]{1,3}(\\.[a-z]{1,3}){0,2}(:[0-9]{1,5})?/x"
        ) {
            let named = hosts(&format!("{host}:{port}"));
            let own = format!("https://{host}:{port}/x");
            prop_assert_eq!(named.check(&own), Ok(()));
            let allowed = named.check(&other).is_ok();
            let bare = other.replace(":443/", "/");
            prop_assert_eq!(allowed, other == own || bare == format!("https://{host}/x") && port == 443);
        }
    }
}
