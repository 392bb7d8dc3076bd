//! The PROXY protocol, versions 1 and 2: a load balancer says before TLS for whom it connects
//! (haproxy.org, "The PROXY protocol", section 2). Read where the configuration says that trusted
//! proxies write it, and never guessed: behind a balancer that passes bytes on as they are, what
//! looks like a header may be the client's own.
//!
//! Written here and not taken from a crate, because the reader has to know where the header ends
//! anyway, byte by byte: what follows is TLS and must not be touched.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first byte of each version.
const FIRST_OF_V1: u8 = b'P';
const FIRST_OF_V2: u8 = b'\r';

/// The longest line of version 1, with its end.
const LONGEST_LINE: usize = 107;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest rest of a version 2 header: addresses, and extensions that are skipped.
const LONGEST_REST: usize = 4096;

/// What a header said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// For whom the connection is.
    Client(IpAddr),
    /// For no client: a health check, or a protocol without addresses.
    Own,
    /// It is no header, or a bad one.
    None,
}

/// Reads a header of either version, and not a byte more.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    match stream.read_u8().await? {
        FIRST_OF_V1 => read_v1(stream).await,
        FIRST_OF_V2 => read_v2(stream).await,
        _ => Ok(Header::None),
    }
}

async fn read_v1<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    const BEGIN: &[u8] = b"PROXY ";
    let mut line = Vec::with_capacity(LONGEST_LINE);
    line.push(FIRST_OF_V1);
    while line.len() < LONGEST_LINE {
        line.push(stream.read_u8().await?);
        let seen = line.len().min(BEGIN.len());
        if line.get(..seen) != BEGIN.get(..seen) {
            return Ok(Header::None);
        }
        if let Some(line) = line.strip_suffix(b"\r\n") {
            return Ok(parse_v1(line).unwrap_or(Header::None));
        }
    }
    Ok(Header::None)
}

async fn read_v2<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Header> {
    let mut rest_of_signature = [0; 11];
    stream.read_exact(&mut rest_of_signature).await?;
    let mut fixed = [0; 4];
    if SIGNATURE.strip_prefix(&[FIRST_OF_V2]) != Some(&rest_of_signature[..]) {
        return Ok(Header::None);
    }
    stream.read_exact(&mut fixed).await?;
    let [command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_REST {
        return Ok(Header::None);
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    Ok(parse_v2(command, family, &rest).unwrap_or(Header::None))
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443`, without its end. `None` for what is not well formed.
fn parse_v1(line: &[u8]) -> Option<Header> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let is_v4 = match words.next()? {
        // What else stands in the line is to be ignored.
        "UNKNOWN" => return Some(Header::Own),
        "TCP4" => true,
        "TCP6" => false,
        _ => return None,
    };
    let mut address = || {
        let address: IpAddr = words.next()?.parse().ok()?;
        (address.is_ipv4() == is_v4).then_some(address)
    };
    let (from, _to) = (address()?, address()?);
    let mut is_port = || {
        let digits = words.next().unwrap_or_default();
        digits.bytes().all(|b| b.is_ascii_digit()) && digits.parse::<u16>().is_ok()
    };
    (is_port() && is_port() && words.next().is_none()).then(|| client(from))
}

/// What follows the signature and the length.
fn parse_v2(command: u8, family: u8, rest: &[u8]) -> Option<Header> {
    match command {
        0x20 => return Some(Header::Own),
        0x21 => {}
        _ => return None,
    }
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let from: [u8; 4] = *rest.get(..12)?.first_chunk()?;
            Some(client(Ipv4Addr::from(from).into()))
        }
        // TCP over IPv6.
        0x21 => {
            let from: [u8; 16] = *rest.get(..36)?.first_chunk()?;
            Some(client(Ipv6Addr::from(from).into()))
        }
        // Unspecified, or a unix socket.
        0x00 | 0x31 => Some(Header::Own),
        _ => None,
    }
}

fn client(address: IpAddr) -> Header {
    Header::Client(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::{Header, SIGNATURE, read};
    use proptest::prelude::*;
    use std::net::{IpAddr, SocketAddr};

    /// What is read of some bytes, and what is left of them.
    fn of(bytes: &[u8]) -> (Option<Header>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let mut rest = bytes;
        let header = runtime.unwrap().block_on(read(&mut rest)).ok();
        (header, rest.to_vec())
    }

    fn client(text: &str) -> Header {
        Header::Client(text.parse().unwrap())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length[..], rest].concat()
    }

    #[test]
    fn lines_of_version_1() {
        let (own, none) = (Header::Own, Header::None);
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
                client("192.0.2.1"),
            ),
            (
                "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
                client("2001:db8::1"),
            ),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
                client("192.0.2.1"),
            ),
            ("PROXY UNKNOWN\r\n", own),
            ("PROXY UNKNOWN ffff:: ffff:: 1 2\r\n", own),
            ("PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n", none),
            ("PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", none),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", none),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", none),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", none),
            ("PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", none),
            ("PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", none),
            ("PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", none),
            ("PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n", none),
            ("PROXY\r\n", none),
            ("PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", none),
            ("POST /v2/ HTTP/1.1\r\n", none),
        ] {
            assert_eq!(of(line.as_bytes()).0, Some(expected), "{line:?}");
        }
        // Without an end it is none, and no more is read than the longest line.
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(of(&long).0, Some(none));
        assert_eq!(of(&long).1.len(), long.len() - 107);
        assert_eq!(of(b"PROXY TCP4 192.0.2.1").0, None, "cut off");
    }

    #[test]
    fn headers_of_version_2() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0, 1, 1, 187];
        let six = [&[0x20, 1, 0xd, 0xb8], [0; 32].as_slice()].concat();
        let longer = [&four[..], &[0x20, 0, 3, 1, 2, 3]].concat();
        let none = Header::None;
        for (header, expected) in [
            (v2(0x21, 0x11, &four), client("192.0.2.1")),
            (v2(0x21, 0x11, &longer), client("192.0.2.1")),
            (v2(0x21, 0x21, &six), client("2001:db8::")),
            (v2(0x20, 0x00, &[]), Header::Own),
            (v2(0x20, 0x11, &four), Header::Own),
            (v2(0x21, 0x00, &[]), Header::Own),
            (v2(0x21, 0x31, &[0; 216]), Header::Own),
            (v2(0x21, 0x11, &four[..11]), none),
            (v2(0x21, 0x21, &four), none),
            (v2(0x21, 0x12, &four), none),
            (v2(0x22, 0x11, &four), none),
            (v2(0x11, 0x11, &four), none),
            (v2(0x21, 0x11, &[0; 5000]), none),
            (b"\r\n\r\n\0\r\nQUIT\r and more than sixteen".to_vec(), none),
        ] {
            assert_eq!(of(&header).0, Some(expected), "{header:?}");
        }
        assert_eq!(of(&v2(0x21, 0x11, &four)[..20]).0, None, "cut off");
    }

    proptest! {
        #[test]
        fn what_a_proxy_writes_is_read_to_its_end(from: SocketAddr, to: SocketAddr, tail: Vec<u8>) {
            let (from, to) = match (from, to) {
                (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => (from, to),
                (one, _) => (one, one),
            };
            let kind = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let (a, b) = (from.ip(), to.ip());
            let line = format!("PROXY {kind} {a} {b} {} {}\r\n", from.port(), to.port());
            let octets = |address: IpAddr| match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let rest = [octets(a), octets(b), vec![0; 4]].concat();
            let binary = v2(0x21, if from.is_ipv4() { 0x11 } else { 0x21 }, &rest);
            for header in [line.into_bytes(), binary] {
                let (read, left) = of(&[&header[..], &tail].concat());
                prop_assert_eq!(read, Some(Header::Client(a.to_canonical())));
                prop_assert_eq!(&left, &tail);
            }
        }

        #[test]
        fn no_bytes_panic(
            begin in prop_oneof![Just(b"PROXY ".to_vec()), Just(SIGNATURE.to_vec()), Just(vec![])],
            bytes: Vec<u8>,
        ) {
            of(&[begin, bytes].concat());
        }
    }
}
