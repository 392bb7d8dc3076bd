//! Records as syslog messages (RFC 5424): over a unix socket, TCP with octet counting (RFC 6587) or
//! TLS (RFC 5425).
//!
//! Syslog does not acknowledge: lines that the system has taken and the receiver loses are not noticed
//! here. The numbers of the records show the gap there.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde::Deserialize;
use socket2::SockRef;

use super::batch::{Batch, Target};
use crate::audit::SyslogAddress;

/// Facility "security/authorization messages, private" (RFC 5424 section 6.2.1).
const AUTHPRIV: u8 = 10;
const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;

/// A syslog receiver as a sink.
pub(in crate::audit) struct Syslog {
    address: SyslogAddress,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    host: String,
    connection: Option<Connection>,
}

enum Connection {
    Datagram(UnixDatagram),
    Local(UnixStream),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Syslog {
    /// Connects at the first record.
    pub(in crate::audit) fn new(
        address: SyslogAddress,
        tls: Option<Arc<ClientConfig>>,
        timeout: Duration,
    ) -> Self {
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let is_fit = !host.is_empty() && host.bytes().all(is_graphic);
        Self {
            address,
            tls,
            timeout,
            host: if is_fit {
                host.into_owned()
            } else {
                "-".to_owned()
            },
            connection: None,
        }
    }

    fn connect(&self) -> io::Result<Connection> {
        match &self.address {
            SyslogAddress::Unix(path) => {
                let socket = UnixDatagram::unbound()?;
                match socket.connect(path) {
                    Ok(()) => {
                        socket.set_nonblocking(true)?;
                        Ok(Connection::Datagram(socket))
                    }
                    // A stream socket (EPROTOTYPE), as some receivers have it.
                    Err(error) if error.raw_os_error() == Some(EPROTOTYPE) => {
                        let stream = UnixStream::connect(path)?;
                        stream.set_write_timeout(Some(self.timeout))?;
                        Ok(Connection::Local(stream))
                    }
                    Err(error) => Err(error),
                }
            }
            SyslogAddress::Tcp { host, port } => Ok(Connection::Tcp(self.dial(host, *port)?)),
            SyslogAddress::Tls { host, port } => {
                let config = self.tls.clone().ok_or(io::ErrorKind::Unsupported)?;
                let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
                let tls = ClientConnection::new(config, name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(tls, self.dial(host, *port)?);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Ok(Connection::Tls(Box::new(stream)))
            }
        }
    }

    fn dial(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    SockRef::from(&stream).set_keepalive(true)?;
                    SockRef::from(&stream).set_tcp_user_timeout(Some(self.timeout))?;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn send(&mut self, batch: &mut Batch) -> io::Result<()> {
        let mut open = self.connection.take();
        let is_open = open.as_mut().is_some_and(Connection::is_open);
        let mut connection = match open {
            Some(connection) if is_open => connection,
            Some(_) | None => self.connect()?,
        };
        while let Some(line) = batch.rest().split_inclusive('\n').next() {
            let message = message(line.trim_end(), &self.host);
            match connection.send(&message) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.connection = Some(connection);
                    return Err(error);
                }
                // A connection in the middle of a message is of no use any more.
                Err(error) => return Err(error),
            }
            let sent = line.len();
            batch.advance(sent);
        }
        self.connection = Some(connection);
        Ok(())
    }
}

/// "Protocol wrong type for socket", on Linux.
const EPROTOTYPE: i32 = 91;

impl Target for Syslog {
    fn write(&mut self, batch: &mut Batch) -> io::Result<()> {
        self.send(batch).map_err(crate::tls::explained)
    }
}

impl Connection {
    /// Returns false if the receiver has closed the connection. Without this check the first record after
    /// its restart would be lost.
    fn is_open(&mut self) -> bool {
        match self {
            Self::Datagram(_) | Self::Local(_) => true,
            Self::Tcp(stream) => {
                let mut byte = [0];
                looked(stream, |stream| stream.peek(&mut byte))
            }
            Self::Tls(stream) => {
                let StreamOwned { conn, sock } = &mut **stream;
                looked(sock, |sock| conn.read_tls(sock))
                    && conn
                        .process_new_packets()
                        .is_ok_and(|state| !state.peer_has_closed())
            }
        }
    }

    fn send(&mut self, message: &str) -> io::Result<()> {
        match self {
            Self::Datagram(socket) => socket.send(message.as_bytes()).map(drop),
            Self::Local(stream) => all(stream, format!("{message}\n").as_bytes()),
            Self::Tcp(stream) => all(stream, counted(message).as_bytes()),
            Self::Tls(stream) => {
                all(stream, counted(message).as_bytes())?;
                stream.flush().map_err(timed_out)
            }
        }
    }
}

/// Returns true if a read that does not block finds no end.
fn looked(stream: &mut TcpStream, look: impl FnOnce(&mut TcpStream) -> io::Result<usize>) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return false;
    }
    let seen = look(stream);
    let is_open = match seen {
        Ok(bytes) => bytes > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_ok() && is_open
}

fn all(stream: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).map_err(timed_out)
}

/// A time-out of a stream comes as `WouldBlock`; but part of the message may be gone.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::Error::new(io::ErrorKind::TimedOut, "the receiver takes nothing")
    } else {
        error
    }
}

fn is_graphic(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// A message on a stream of messages (RFC 6587 section 3.4.1).
pub(in crate::audit) fn counted(message: &str) -> String {
    format!("{} {message}", message.len())
}

/// The message of a record.
pub(in crate::audit) fn message(line: &str, host: &str) -> String {
    #[derive(Default, Deserialize)]
    struct Parts<'a> {
        time: &'a str,
        event: &'a str,
        outcome: &'a str,
    }
    let parts: Parts<'_> = serde_json::from_str(line).unwrap_or_default();
    let severity = match parts.outcome {
        "aborted" | "allowed" | "challenged" => INFORMATIONAL,
        "error" => WARNING,
        _ => NOTICE,
    };
    let priority = AUTHPRIV.saturating_mul(8).saturating_add(severity);
    // Header fields are words, also for a record that is not ours.
    let is_word = |text: &str| (1..=32).contains(&text.len()) && text.bytes().all(is_graphic);
    let or_nil = |text| if is_word(text) { text } else { "-" };
    let (time, event) = (or_nil(parts.time), or_nil(parts.event));
    let process = std::process::id();
    format!("<{priority}>1 {time} {host} portcullis {process} {event} - {line}")
}

#[cfg(test)]
mod tests {
    use super::{Syslog, message};
    use crate::audit::SyslogAddress;
    use crate::audit::journal::batch::{Batch, Target as _};
    use std::io::{ErrorKind, Read as _};
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};
    use std::time::Duration;

    const LINE: &str = "{\"seq\":1,\"time\":\"2026-11-22T03:04:05.678901Z\",\"ref\":\"\",\
                        \"event\":\"login\",\"outcome\":\"failed\"}";

    fn batch() -> Batch {
        Batch::new(format!("{LINE}\n{LINE}\n"), 1)
    }

    fn sink(address: SyslogAddress) -> Syslog {
        let mut sink = Syslog::new(address, None, Duration::from_secs(5));
        sink.host = "host".to_owned();
        sink
    }

    fn expected() -> String {
        let process = std::process::id();
        format!("<85>1 2026-11-22T03:04:05.678901Z host portcullis {process} login - {LINE}")
    }

    #[test]
    fn a_message_is_as_rfc_5424_has_it() {
        assert_eq!(message(LINE, "host"), expected());
        assert!(message("junk", "-").starts_with("<85>1 - - portcullis "));
        let process = std::process::id();
        let odd = "{\"time\":\"a b\",\"event\":\"c d\",\"outcome\":\"error\"}";
        let head = format!("<84>1 - host portcullis {process} - - ");
        assert_eq!(message(odd, "host"), head + odd);
    }

    #[test]
    fn each_kind_of_socket_has_its_framing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("datagram");
        let receiver = UnixDatagram::bind(&path).unwrap();
        sink(SyslogAddress::Unix(path)).write(&mut batch()).unwrap();
        let mut buffer = [0; 2000];
        for _ in 0..2 {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected().as_bytes());
        }
        let path = folder.path().join("stream");
        let listener = UnixListener::bind(&path).unwrap();
        sink(SyslogAddress::Unix(path)).write(&mut batch()).unwrap();
        let mut text = String::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, format!("{0}\n{0}\n", expected()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = "127.0.0.1".into();
        sink(SyslogAddress::Tcp { host, port })
            .write(&mut batch())
            .unwrap();
        text.clear();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(
            text,
            format!("{0} {1}{0} {1}", expected().len(), expected())
        );
    }

    #[test]
    fn a_receiver_behind_tls_is_verified() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = rustls::ServerConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let server = std::sync::Arc::new(server);
        let listener = TcpListener::bind("localhost:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let receiver = std::thread::spawn(move || {
            let stream = listener.accept().unwrap().0;
            let connection = rustls::ServerConnection::new(server).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream);
            let mut bytes = vec![0; 2 * (expected().len() + 4)];
            stream.read_exact(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        });
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = "localhost".into();
        let mut sink = sink(SyslogAddress::Tls { host, port });
        assert!(sink.write(&mut batch()).is_err());
        sink.tls = Some(std::sync::Arc::new(client));
        sink.write(&mut batch()).unwrap();
        let text = receiver.join().unwrap();
        assert_eq!(
            text,
            format!("{0} {1}{0} {1}", expected().len(), expected())
        );
    }

    #[test]
    fn a_receiver_that_restarts_gets_every_record_and_one_that_stops_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = "127.0.0.1".into();
        let mut sink = sink(SyslogAddress::Tcp { host, port });
        sink.write(&mut batch()).unwrap();
        drop(listener.accept().unwrap());
        sink.write(&mut batch()).unwrap();
        let mut second = listener.accept().unwrap().0;
        drop(sink);
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        assert_eq!(text.matches(LINE).count(), 2);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("full");
        let _receiver = UnixDatagram::bind(&path).unwrap();
        let mut sink = super::tests::sink(SyslogAddress::Unix(path));
        let mut many = Batch::new(format!("{LINE}\n").repeat(10_000), 1);
        let error = sink.write(&mut many).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
}
