//! The keys in force at the running server, asked on its admin address. Without an answer nothing
//! is claimed.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use portcullis::authn::keys::digest_of_file;
use portcullis::config::Config;
use rustix::process::geteuid;
use serde_json::Value;

use crate::cli::service::Service;
use crate::cli::terminal::print_error;

/// Time for an answer from a server of this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the server to read a changed file: network file systems show it late.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(3);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: u64 = 4 << 20;

/// State of the file at the running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its keys are in force.
    Yes,
    /// Its keys are not in force, and why.
    Not(String),
    /// The server gives no answer, and why.
    Unknown(String),
}

impl Taken {
    /// Asks the server that has this configuration.
    pub(super) fn by_the_server(config: &Config) -> Self {
        let Some(listen) = config.admin.listen else {
            return Self::Unknown("without an [admin] section it cannot be asked".to_owned());
        };
        let expected = match fs::read(&config.auth.keys) {
            Ok(text) => digest_of_file(&text),
            Err(error) => return Self::Unknown(format!("the file cannot be read here: {error}")),
        };
        let address = reachable(listen);
        let begun = Instant::now();
        loop {
            let status = match status(address) {
                Ok(status) => status,
                Err(error) => return Self::Unknown(format!("no answer from {address}: {error}")),
            };
            let found = Self::said(&status, &expected, &config.auth.keys.display().to_string());
            if !matches!(found, Self::Not(_)) || begun.elapsed() >= RELOAD_TIMEOUT {
                return found;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Reads a server's answer.
    fn said(status: &Value, expected: &str, file: &str) -> Self {
        let text = |name: &str| status.get(name).and_then(Value::as_str);
        if let Some(trouble) = text("trouble") {
            return Self::Not(trouble.to_owned());
        }
        match text("sha256") {
            Some(sha256) if sha256 == expected => Self::Yes,
            _ => match text("file") {
                Some(other) if other != file => Self::Not(format!("it reads {other}")),
                _ => Self::Not("it has not read the file again yet".to_owned()),
            },
        }
    }

    /// Text after a key was made.
    pub(super) fn after_making(&self) -> String {
        match self {
            Self::Yes => "It is in force.".to_owned(),
            Self::Not(why) => format!(
                "WARNING: the running server does not know the key: {why}\n{}",
                remedy(why)
            ),
            Self::Unknown(why) => format!(
                "A running server takes it at the key's next use, if it can read the file; whether \
                 it has is not known: {why}"
            ),
        }
    }

    /// Text after a key was revoked.
    pub(super) fn after_revoking(&self) -> String {
        match self {
            Self::Yes => {
                "It and its tokens have ended: the running server has taken it.".to_owned()
            }
            Self::Not(why) => format!(
                "WARNING: the running server still accepts the key: {why}\n{}",
                remedy(why)
            ),
            Self::Unknown(why) => format!(
                "It and its tokens end at their next use at a running server that can read the \
                 file; whether it has is not known: {why}"
            ),
        }
    }
}

/// Warns if the server's user cannot read the file. Only root can find that out.
pub(super) fn warn_if_unreadable(config: &Config) {
    if !geteuid().is_root() {
        return;
    }
    let service = Service::found(&config.file).ok().flatten();
    let cannot = service.and_then(|service| service.cannot_read(&config.auth.keys));
    if let Some((message, help)) = cannot {
        print_error(&format!("WARNING: {message}; {help}"));
    }
}

fn remedy(why: &str) -> &'static str {
    if why.contains("ermission denied") {
        "Let the server read it; `sudo portcullis check` says what it cannot read."
    } else {
        "See the server's log, or its /status page."
    }
}

/// A server that listens on all addresses is asked on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

fn status(address: SocketAddr) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    // HTTP/1.0: the answer ends with the connection, and has no chunks.
    write!(stream, "GET /keys.json HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let other = || io::Error::other("it does not say which keys it has, as older ones do not");
    let answer = String::from_utf8(answer).map_err(|_not_text| other())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(other)?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(other());
    }
    serde_json::from_str(body).map_err(|_not_json| other())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Taken, reachable};

    #[test]
    fn only_a_server_that_has_read_this_text_has_taken_it() {
        let said = |status| Taken::said(&status, "aa", "/etc/keys.toml");
        let keys = |sha256, trouble| json!({ "file": "/etc/keys.toml", "keys": 1, "sha256": sha256, "trouble": trouble });
        assert_eq!(said(keys(json!("aa"), json!(null))), Taken::Yes);
        for (status, why) in [
            (keys(json!("bb"), json!(null)), "not read the file again"),
            (keys(json!(null), json!(null)), "not read the file again"),
            (
                keys(json!("aa"), json!("Permission denied")),
                "Permission denied",
            ),
            (
                json!({ "file": "/srv/k", "sha256": "bb" }),
                "it reads /srv/k",
            ),
        ] {
            let Taken::Not(said) = said(status) else {
                panic!("{why}")
            };
            assert!(said.contains(why), "{said}");
        }
        for taken in [Taken::Not("x".to_owned()), Taken::Unknown("x".to_owned())] {
            for text in [taken.after_making(), taken.after_revoking()] {
                assert!(!text.contains("in force"), "{text}");
            }
        }
    }

    #[test]
    fn a_server_on_all_addresses_is_asked_on_this_machine() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("10.1.2.3:9090", "10.1.2.3:9090"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()).to_string(), asked);
        }
    }
}
