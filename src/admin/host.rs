//! Checks the host that a request of the operator names. A page in the operator's browser can have its
//! own name lead to an address of ours (DNS rebinding) and then read the answers; its requests still
//! carry that name. Addresses and `localhost` cannot be pointed elsewhere, so they always pass.

use std::net::{IpAddr, Ipv6Addr};

use http::header::HOST;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, Version};

/// A host that the request may not name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongHost {
    /// HTTP/1.1 without a host, or one that cannot be read (RFC 9112 section 3.2).
    #[error("the request names no host, or none that can be read")]
    Unreadable,
    /// A name that is not configured.
    #[error(
        "{0:?} is not a name of this address: add it to `admin.hosts`, or ask by IP address or as localhost"
    )]
    Unknown(Box<str>),
}

impl WrongHost {
    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unreadable => StatusCode::BAD_REQUEST,
            Self::Unknown(_) => StatusCode::MISDIRECTED_REQUEST,
        }
    }
}

/// Accepts IP addresses, `localhost` and the configured names (in lower case), with any port. Without a
/// host a request passes in HTTP/1.0 alone, which no browser speaks.
pub(super) fn check(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    names: &[Box<str>],
) -> Result<(), WrongHost> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, None) if version < Version::HTTP_11 => {}
        (Some(host), None) => {
            let host = Authority::try_from(host.as_bytes());
            check_one(&host.map_err(|_cause| WrongHost::Unreadable)?, names)?;
        }
        (None | Some(_), _) => return Err(WrongHost::Unreadable),
    }
    uri.authority()
        .map_or(Ok(()), |asked| check_one(asked, names))
}

fn check_one(asked: &Authority, names: &[Box<str>]) -> Result<(), WrongHost> {
    if asked.as_str().contains('@') {
        return Err(WrongHost::Unreadable);
    }
    let host = asked.host().to_ascii_lowercase();
    let bare = host.strip_suffix('.').unwrap_or(&host);
    let is_known =
        bare == "localhost" || is_address(bare) || names.iter().any(|one| **one == *bare);
    is_known
        .then_some(())
        .ok_or_else(|| WrongHost::Unknown(host.into()))
}

fn is_address(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{StatusCode, WrongHost, check};
    use http::{HeaderMap, HeaderValue, Uri, Version};

    fn checked(version: Version, target: &str, hosts: &[&str]) -> Result<(), StatusCode> {
        let hosts = hosts
            .iter()
            .map(|host| HeaderValue::from_str(host).unwrap());
        let headers: HeaderMap = hosts.map(|host| (http::header::HOST, host)).collect();
        let names = ["mon.example.com".into()];
        let target: Uri = target.parse().unwrap();
        check(version, &target, &headers, &names).map_err(|wrong| wrong.status())
    }

    #[test]
    fn addresses_and_configured_names_pass_with_any_port() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9090",
            "10.1.2.3:1",
            "[::1]:9090",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:8080",
            "localhost.",
            "mon.example.com",
            "Mon.Example.com:9090",
            "mon.example.com.",
        ] {
            assert_eq!(
                checked(Version::HTTP_11, "/status", &[host]),
                Ok(()),
                "{host}"
            );
        }
    }

    #[test]
    fn other_names_are_misdirected_wherever_they_stand() {
        let misdirected = Err(StatusCode::MISDIRECTED_REQUEST);
        for host in [
            "evil.example",
            "evil.example:9090",
            "example.com",
            "a.mon.example.com",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.localhost",
            "0x7f000001",
            "127.1",
        ] {
            for version in [Version::HTTP_10, Version::HTTP_11] {
                assert_eq!(checked(version, "/status", &[host]), misdirected, "{host}");
            }
        }
        let absolute = "http://evil.example/status";
        assert_eq!(
            checked(Version::HTTP_11, absolute, &["127.0.0.1"]),
            misdirected
        );
        let message = WrongHost::Unknown("evil.example".into()).to_string();
        assert!(message.contains("`admin.hosts`"), "{message}");
    }

    #[test]
    fn only_http_1_0_may_name_no_host() {
        let bad = Err(StatusCode::BAD_REQUEST);
        assert_eq!(checked(Version::HTTP_10, "/status", &[]), Ok(()));
        assert_eq!(checked(Version::HTTP_11, "/status", &[]), bad);
        let two = ["127.0.0.1", "127.0.0.1"];
        for hosts in [&two[..], &[""], &["a b"], &["x@127.0.0.1"], &["[::1"]] {
            assert_eq!(
                checked(Version::HTTP_11, "/status", hosts),
                bad,
                "{hosts:?}"
            );
        }
    }
}
