//! Who a request is from, where proxies stand between.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

/// Whether what comes from this address may say for whom it comes.
pub(super) fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// The client's address, from that of the other end of the connection: as long as an address is a
/// trusted proxy's, it is believed about the one before it, which it has written last into
/// `X-Forwarded-For`. So what a client itself writes there is never reached. What is not an address
/// ends the search.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut address = peer;
    let lines = headers.get_all("x-forwarded-for").iter().rev();
    for line in lines {
        // A line that is not ASCII has no address that could be believed.
        for hop in line.to_str().unwrap_or("?").rsplit(',') {
            if !is_trusted(address, trusted) {
                return address;
            }
            match parse(hop.trim_matches([' ', '\t'])) {
                Some(before) => address = before.to_canonical(),
                None => return address,
            }
        }
    }
    address
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || hop.parse::<SocketAddr>().ok().map(|address| address.ip());
    hop.parse().ok().or_else(bracketed).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::client;
    use http::{HeaderMap, HeaderValue};
    use ipnet::IpNet;
    use proptest::prelude::*;
    use std::net::IpAddr;

    fn from(peer: &str, lines: &[&[u8]]) -> String {
        let trusted: Vec<IpNet> = ["10.0.0.0/8", "2001:db8::/32"]
            .map(|network| network.parse().unwrap())
            .to_vec();
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", HeaderValue::from_bytes(line).unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxy_counts() {
        for (peer, lines, expected) in [
            ("10.0.0.1", &[b"192.0.2.1".as_slice()][..], "192.0.2.1"),
            ("10.0.0.1", &[b"1.1.1.1, 192.0.2.1"], "192.0.2.1"),
            ("10.0.0.1", &[b"1.1.1.1,192.0.2.1 , 10.0.0.2"], "192.0.2.1"),
            ("10.0.0.1", &[b"1.1.1.1", b"192.0.2.1"], "192.0.2.1"),
            (
                "10.0.0.1",
                &[b"192.0.2.1", b"10.0.0.2, 10.0.0.3"],
                "192.0.2.1",
            ),
            ("2001:db8::1", &[b"2a00::7"], "2a00::7"),
            ("10.0.0.1", &[b"[2a00::7]"], "2a00::7"),
            ("10.0.0.1", &[b"[2a00::7]:4711"], "2a00::7"),
            ("10.0.0.1", &[b"192.0.2.1:4711"], "192.0.2.1"),
            ("10.0.0.1", &[b"::ffff:192.0.2.1"], "192.0.2.1"),
            // All of them proxies: the first of them has no other name.
            ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            assert_eq!(from(peer, lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn strangers_and_junk_are_not_believed() {
        for (peer, lines, expected) in [
            ("192.0.2.9", &[b"1.1.1.1".as_slice()][..], "192.0.2.9"),
            ("192.0.2.9", &[b"10.0.0.1"], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b""], "10.0.0.1"),
            ("10.0.0.1", &[b"unknown"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.1.1.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.1.1.1,"], "10.0.0.1"),
            (
                "10.0.0.1",
                &[b"1.1.1.1, 10.0.0.2, junk, 10.0.0.3"],
                "10.0.0.3",
            ),
            ("10.0.0.1", &[b"1.1.1.1", b"\xff"], "10.0.0.1"),
            ("10.0.0.1", &[b"1.1.1.1/24"], "10.0.0.1"),
            ("10.0.0.1", &[b"127.1"], "10.0.0.1"),
        ] {
            assert_eq!(from(peer, lines), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_writes_changes_what_its_proxy_wrote(
            junk in "[ -~]{0,40}",
            client: IpAddr,
        ) {
            let written = format!("{junk}, {client}");
            let expected = client.to_canonical();
            prop_assume!(!matches!(expected.to_string().as_str(), text if text.starts_with("10.") || text.starts_with("2001:db8:")));
            prop_assert_eq!(from("10.0.0.1", &[written.as_bytes()]), expected.to_string());
        }
    }
}
