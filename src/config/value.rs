//! Values that are written as text: durations, addresses, URLs. Pure; the caller knows the place.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::audit::SyslogAddress;
use crate::document::{Wrong, duration};
use crate::store::StoreUrl;
use crate::telemetry::Collector;
use crate::upstream::{PassHeader, RedirectHost, UpstreamUrl};

/// A number of bytes: `100MiB`. Files that are too small are too many.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shape = "write a whole number and one of KiB, MiB, GiB, for example \"100MiB\"";
    let bytes: u64 = match unit {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(Wrong::new(format!("{text:?} is not a size")).help(shape)),
    };
    let number: Option<u64> = number.parse().ok();
    match number.and_then(|number| number.checked_mul(bytes)) {
        Some(size) if size >= 1 << 16 => Ok(size),
        Some(_) => Err(Wrong::new("the size is under 64KiB").help(shape)),
        None => Err(Wrong::new(format!("{text:?} is not a size")).help(shape)),
    }
}

/// A duration of at least a second.
pub(super) fn interval(text: &str) -> Result<Duration, Wrong> {
    let length = duration(text)?;
    if length < Duration::from_secs(1) {
        return Err(Wrong::new("the time is under a second").help("leave the key out for never"));
    }
    Ok(length)
}

/// Where a collector listens.
pub(super) fn collector(text: &str) -> Result<Collector, Wrong> {
    match upstream(text)? {
        UpstreamUrl::Http { host, port } => Ok(Collector { host, port }),
        UpstreamUrl::Https { .. } | UpstreamUrl::Unix(_) => {
            let help = "run the collector beside Portcullis: \"http://127.0.0.1:4318\"";
            Err(Wrong::new("spans are sent over plain HTTP only").help(help))
        }
    }
}

/// Where a syslog receiver is.
pub(super) fn syslog(text: &str, folder: &Path) -> Result<SyslogAddress, Wrong> {
    let known = "write unix:/PATH, tcp://HOST:PORT or tls://HOST:PORT";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err(Wrong::new("the path of the socket is missing").help(known))
        } else {
            Ok(SyslogAddress::Unix(folder.join(path)))
        };
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Wrong::new("this is not a URL").help(known));
    };
    let (host, port) = host_and_port(rest)?;
    match scheme {
        "tcp" => Ok(SyslogAddress::Tcp {
            host,
            port: port.unwrap_or(601),
        }),
        "tls" => Ok(SyslogAddress::Tls {
            host,
            port: port.unwrap_or(6514),
        }),
        other => Err(Wrong::new(format!("unknown scheme {other:?}")).help(known)),
    }
}

/// Where the registry is.
pub(super) fn upstream(text: &str) -> Result<UpstreamUrl, Wrong> {
    let known = "write http://HOST:PORT, https://HOST:PORT or unix:/PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err(Wrong::new("the path of the socket is missing").help(known))
        } else {
            Ok(UpstreamUrl::Unix(PathBuf::from(path)))
        };
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Wrong::new("this is not a URL").help(known));
    };
    let (host, port) = host_and_port(rest)?;
    match scheme {
        "http" => Ok(UpstreamUrl::Http {
            host,
            port: port.unwrap_or(80),
        }),
        "https" => Ok(UpstreamUrl::Https {
            host,
            port: port.unwrap_or(443),
        }),
        other => Err(Wrong::new(format!("unknown scheme {other:?}")).help(known)),
    }
}

/// Where a read of a blob may be redirected to.
pub(super) fn redirect_host(text: &str) -> Result<RedirectHost, Wrong> {
    let wrong = |help| Wrong::new("blobs cannot be redirected there").help(help);
    RedirectHost::parse(text).map_err(wrong)
}

/// A header that is passed on besides those of the API.
pub(super) fn pass_header(text: &str) -> Result<PassHeader, Wrong> {
    PassHeader::parse(text).map_err(|(why, help)| Wrong::new(why).help(help))
}

/// Where replicas count together.
pub(super) fn store(text: &str) -> Result<StoreUrl, Wrong> {
    let known = "write redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:/PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() {
            Err(Wrong::new("the path of the socket is missing").help(known))
        } else {
            Ok(StoreUrl::Unix(PathBuf::from(path)))
        };
    }
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| Wrong::new("this is not a URL").help(known))?;
    let tls = match scheme {
        "redis" => false,
        "rediss" => true,
        other => return Err(Wrong::new(format!("unknown scheme {other:?}")).help(known)),
    };
    // Looked at first, so that a password with a slash is not quoted.
    if rest.contains('@') {
        return Err(Wrong::new("credentials do not stand in the URL")
            .help("use `password_file`, and `username` where the store has several users"));
    }
    let (rest, database) = match rest.split_once('/') {
        Some((rest, number)) if !number.is_empty() => {
            let wrong = "the database is not a number from 0 to 65535";
            let number = number.parse().ok();
            (rest, number.ok_or_else(|| Wrong::new(wrong).help(known))?)
        }
        Some((rest, _)) => (rest, 0),
        None => (rest, 0),
    };
    let (host, port) = host_and_port(rest)?;
    Ok(StoreUrl::Tcp {
        tls,
        host,
        port: port.unwrap_or(6379),
        database,
    })
}

/// A time to live, as the command line has it: a duration of the configuration, or `never`.
pub fn time_to_live(text: &str) -> Result<Option<Duration>, String> {
    match text {
        "never" => Ok(None),
        _ => duration(text).map(Some).map_err(|wrong| {
            let help = wrong.help.map(|help| format!(", {help}"));
            format!("{}{}", wrong.message, help.unwrap_or_default())
        }),
    }
}

/// The authority of our own URL, which is https: `host` or `host:port`, in lower case, without
/// the default port.
pub(super) fn public_authority(text: &str) -> Result<Box<str>, Wrong> {
    let help = "write https://HOST or https://HOST:PORT";
    let origin = text.starts_with("https://").then(|| page_origin(text));
    let origin =
        origin.ok_or_else(|| Wrong::new("clients reach this server by https").help(help))??;
    Ok(origin.trim_start_matches("https://").into())
}

/// The origin of a page as browsers write it (RFC 6454 section 6.2): in lower case, without the default
/// port.
pub(super) fn page_origin(text: &str) -> Result<Box<str>, Wrong> {
    let help = "write each origin as https://HOST or https://HOST:PORT";
    let wrong = |message: &str| Wrong::new(message).help(help);
    if text == "*" || text == "null" {
        return Err(wrong(
            "browsers send no password for all pages or for unnamed ones",
        ));
    }
    let lower = text.to_ascii_lowercase();
    let (scheme, rest, usual) = match lower.split_once("://") {
        Some(("https", rest)) => ("https", rest, 443),
        Some(("http", rest)) => ("http", rest, 80),
        Some(_) | None => return Err(wrong("an origin begins with https:// or http://")),
    };
    let (host, port) = host_and_port(rest)?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.into()
    };
    Ok(match port {
        Some(port) if port != usual => format!("{scheme}://{host}:{port}").into(),
        Some(_) | None => format!("{scheme}://{host}").into(),
    })
}

/// Returns true if an authority is an IP address that only its own network or machine can reach.
pub(super) fn is_private_address(authority: &str) -> bool {
    let host = match host_and_port(authority) {
        Ok((host, _)) => host,
        Err(_wrong) => return false,
    };
    match host.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(ip)) => {
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()
        }
        Ok(IpAddr::V6(ip)) => {
            let is_local = ip.is_unique_local() || ip.is_unicast_link_local();
            is_local || ip.is_loopback() || ip.is_unspecified()
        }
        Err(_a_name) => false,
    }
}

/// A host name as requests name it, without a port, in lower case.
pub(super) fn host_name(text: &str) -> Result<Box<str>, Wrong> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if bare.is_empty() || !bare.chars().all(legal) {
        let wrong = Wrong::new(format!("{text:?} is not a host name"));
        return Err(wrong.help("write it without scheme, port and `*`: any port is meant"));
    }
    Ok(bare.to_ascii_lowercase().into())
}

/// `host[:port][/]`; IPv6 addresses lose their brackets. Never quotes what it was given, which may
/// hold a password.
pub(super) fn host_and_port(text: &str) -> Result<(Box<str>, Option<u16>), Wrong> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.contains('@') {
        return Err(Wrong::new("credentials do not stand in the URL")
            .help("use `username` and `password_file`"));
    }
    if text.contains(['/', '?', '#']) {
        return Err(Wrong::new("the URL has a path").help("end it after host and port"));
    }
    let bad_host = || Wrong::new("the URL has no valid host");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(bad_host)?;
            let address: std::net::Ipv6Addr = host.parse().ok().ok_or_else(bad_host)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or_else(bad_host)?),
            };
            (address.to_string(), port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        },
    };
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(legal) {
        return Err(bad_host());
    }
    let bad_port = || Wrong::new("the port is not a number from 1 to 65535");
    let port = match port {
        None => None,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err(bad_port()),
            Ok(port) => Some(port),
        },
    };
    Ok((host.into(), port))
}

#[cfg(test)]
mod tests {
    use super::{
        StoreUrl, UpstreamUrl, host_name, interval, is_private_address, public_authority, size,
        store, syslog, time_to_live, upstream,
    };
    use crate::audit::SyslogAddress;
    use proptest::prelude::*;
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn sizes_have_a_unit_and_intervals_take_a_while() {
        for (text, bytes) in [("64KiB", 1 << 16), ("100MiB", 100 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "5",
            "MiB",
            "5MB",
            "63KiB",
            "99999999999999999999GiB",
            "-1MiB",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(interval("1d"), Ok(Duration::from_hours(24)));
        assert!(interval("0s").is_err());
    }

    #[test]
    fn syslog_receivers_are_a_socket_or_a_host() {
        let read = |text| syslog(text, Path::new("/etc/portcullis"));
        let host = || Box::from("logs");
        for (text, address) in [
            ("unix:/dev/log", SyslogAddress::Unix("/dev/log".into())),
            (
                "unix:log",
                SyslogAddress::Unix("/etc/portcullis/log".into()),
            ),
            (
                "tcp://logs:514",
                SyslogAddress::Tcp {
                    host: host(),
                    port: 514,
                },
            ),
            (
                "tls://logs",
                SyslogAddress::Tls {
                    host: host(),
                    port: 6514,
                },
            ),
        ] {
            assert_eq!(read(text), Ok(address), "{text}");
        }
        for text in ["unix:", "logs:514", "udp://logs:514", "tls://"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_to_live_may_never_end() {
        assert_eq!(time_to_live("90d"), Ok(Some(Duration::from_hours(2160))));
        assert_eq!(time_to_live("never"), Ok(None));
        assert!(time_to_live("90").unwrap_err().contains("90s"));
    }

    #[test]
    fn upstreams_are_a_host_or_a_socket() {
        let http = |host: &str, port| UpstreamUrl::Http {
            host: host.into(),
            port,
        };
        let https = |host: &str, port| UpstreamUrl::Https {
            host: host.into(),
            port,
        };
        for (text, url) in [
            ("http://127.0.0.1:5000", http("127.0.0.1", 5000)),
            ("http://registry/", http("registry", 80)),
            ("https://r.example.com", https("r.example.com", 443)),
            ("https://[2001:db8::1]:5000", https("2001:db8::1", 5000)),
            ("unix:/run/r.sock", UpstreamUrl::Unix("/run/r.sock".into())),
            (
                "unix:///run/r.sock",
                UpstreamUrl::Unix("/run/r.sock".into()),
            ),
            ("unix:r.sock", UpstreamUrl::Unix("r.sock".into())),
        ] {
            assert_eq!(upstream(text), Ok(url), "{text}");
        }
        for text in [
            "",
            "registry:5000",
            "ftp://x",
            "http://",
            "http://:5000",
            "http://a:0",
            "http://a:b",
            "http://a:99999",
            "http://a/v2/",
            "http://a?x",
            "http://[::1",
            "http://[x]:1",
            "http://a b",
            "unix:",
            "http://ä",
            "http://[::1]x",
        ] {
            assert!(upstream(text).is_err(), "{text}");
        }
        let wrong = upstream("http://bob:hunter2@r:5000").unwrap_err();
        assert!(!format!("{wrong:?}").contains("hunter2"));
        assert!(wrong.help.unwrap().contains("password_file"));
    }

    #[test]
    fn stores_are_a_host_or_a_socket() {
        let tcp = |tls, host: &str, port, database| StoreUrl::Tcp {
            tls,
            host: host.into(),
            port,
            database,
        };
        for (text, url) in [
            ("redis://redis", tcp(false, "redis", 6379, 0)),
            ("redis://redis/", tcp(false, "redis", 6379, 0)),
            ("redis://10.0.0.1:6380/3", tcp(false, "10.0.0.1", 6380, 3)),
            (
                "rediss://[2001:db8::1]/1",
                tcp(true, "2001:db8::1", 6379, 1),
            ),
            (
                "unix:/run/redis.sock",
                StoreUrl::Unix("/run/redis.sock".into()),
            ),
        ] {
            assert_eq!(store(text), Ok(url), "{text}");
        }
        for text in [
            "",
            "redis:6379",
            "http://redis",
            "redis://",
            "redis://a:0",
            "redis://a/b",
            "redis://a/0/1",
            "redis://a/70000",
            "redis://a?db=1",
            "unix:",
        ] {
            assert!(store(text).is_err(), "{text}");
        }
        for text in [
            "redis://:hunter2@a",
            "redis://u:hun/ter2@a",
            "redis://a/hunter2@b",
        ] {
            let wrong = store(text).unwrap_err();
            assert!(!format!("{wrong:?}").contains("ter2"), "{text}");
            assert!(wrong.help.unwrap().contains("password_file"), "{text}");
        }
    }

    #[test]
    fn the_public_authority_is_as_clients_send_it() {
        for (text, authority) in [
            ("https://R.Example.com", "r.example.com"),
            ("https://r.example.com/", "r.example.com"),
            ("https://r.example.com:443", "r.example.com"),
            ("https://r.example.com:8443", "r.example.com:8443"),
            ("https://[::1]:8443", "[::1]:8443"),
        ] {
            assert_eq!(public_authority(text).as_deref(), Ok(authority), "{text}");
        }
        for text in ["http://r", "r.example.com", "https://r/x", "https://u@r"] {
            assert!(public_authority(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_of_a_network_of_ones_own_are_private() {
        for text in [
            "https://10.0.0.5",
            "https://172.31.0.1:8443",
            "https://192.168.1.10",
            "https://127.0.0.1:5000",
            "https://169.254.0.1",
            "https://[::1]:8443",
            "https://[fd00::1]",
            "https://[fe80::1]",
            "https://[::ffff:10.0.0.5]",
        ] {
            let authority = public_authority(text).unwrap();
            assert!(is_private_address(&authority), "{text}");
        }
        for text in [
            "https://registry.example.com",
            "https://localhost:8443",
            "https://172.32.0.1",
            "https://203.0.113.7",
            "https://[2001:db8::1]",
        ] {
            let authority = public_authority(text).unwrap();
            assert!(!is_private_address(&authority), "{text}");
        }
    }

    #[test]
    fn host_names_have_no_port() {
        assert_eq!(host_name("Mon.example.com."), Ok("mon.example.com".into()));
        for text in [
            "",
            ".",
            "a:9090",
            "http://a",
            "*.example.com",
            "a b",
            "[::1]",
            "*",
        ] {
            assert!(host_name(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,30}") {
            let _: [bool; 3] = [
                store(&text).is_ok(),
                upstream(&text).is_ok(),
                public_authority(&text).is_ok(),
            ];
        }
    }
}
