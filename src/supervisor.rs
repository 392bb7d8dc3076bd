//! The service manager: sockets that it hands over at the start, and notices to it from then on.
//!
//! It is systemd, or another that speaks its two protocols (`sd_listen_fds(3)`, `sd_notify(3)`).
//! Without `$LISTEN_FDS` nothing is handed over; without `$NOTIFY_SOCKET` no notice is sent.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::SockRef;

/// Name of the socket for `[admin]` (`FileDescriptorName=` of its unit).
const ADMIN: &str = "admin";

/// Shortest time between two signs of life.
const MIN_WATCHDOG_INTERVAL: Duration = Duration::from_millis(10);

/// A socket that was handed over and cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HandedError {
    /// It is named `admin`, but `admin.listen` is another address.
    #[error(
        "the socket `admin` handed over is on {address}, but `admin.listen` is {}; \
         let ListenStream= and the configuration say the same", shown(*.wanted)
    )]
    Admin {
        /// Where the socket is.
        address: SocketAddr,
        /// The configured address.
        wanted: Option<SocketAddr>,
    },
    /// It takes no connections: `Accept=yes`, or no listener at all.
    #[error("socket {number} handed over (`{name}`) does not listen; its unit needs Accept=no")]
    NotListening {
        /// Counted from 1.
        number: usize,
        /// Its name.
        name: String,
    },
    /// It is on an address that is not configured.
    #[error(
        "a socket handed over is on {0}, which `server.listen` does not name; let ListenStream= and \
         `server.listen` say the same, and call the socket of `admin.listen` FileDescriptorName=admin"
    )]
    Unlisted(SocketAddr),
    /// It is no TCP socket.
    #[error("socket {number} handed over (`{name}`) cannot be used: {source}")]
    Unusable {
        /// Counted from 1.
        number: usize,
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

fn shown(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "not set".to_owned(), |address| address.to_string())
}

/// Sockets handed over, with their names and addresses.
#[derive(Debug)]
pub struct HandedSockets<S = TcpListener>(Vec<(String, SocketAddr, S)>);

/// Sockets by the section that uses them.
#[derive(Debug, PartialEq, Eq)]
pub struct AssignedSockets<S = TcpListener> {
    /// For `server.listen`.
    pub server: Vec<S>,
    /// For `admin.listen`.
    pub admin: Option<S>,
    /// The addresses of `server.listen` for which there was none.
    pub missing: Vec<SocketAddr>,
}

impl HandedSockets {
    /// Takes them out of the environment; a second time there are none. To be called before there
    /// are threads, because the environment is changed.
    pub fn take() -> Result<Self, HandedError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut all = ListenFd::from_env();
        let mut handed = Vec::new();
        for at in 0..all.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let number = at.saturating_add(1);
            let listener = match all.take_tcp_listener(at) {
                Ok(Some(listener)) => listener,
                Ok(None) => continue,
                Err(source) => {
                    return Err(HandedError::Unusable {
                        number,
                        name,
                        source,
                    });
                }
            };
            if !matches!(SockRef::from(&listener).is_listener(), Ok(true)) {
                return Err(HandedError::NotListening { number, name });
            }
            match listener.local_addr() {
                Ok(address) => handed.push((name, address, listener)),
                Err(source) => {
                    return Err(HandedError::Unusable {
                        number,
                        name,
                        source,
                    });
                }
            }
        }
        Ok(Self(handed))
    }
}

impl<S> HandedSockets<S> {
    /// Assigns each by its address. One at an unknown address is an error: clients would connect to it
    /// and wait for ever.
    pub fn share(
        self,
        listen: &[SocketAddr],
        admin: Option<SocketAddr>,
    ) -> Result<AssignedSockets<S>, HandedError> {
        let mut shared = AssignedSockets {
            server: Vec::new(),
            admin: None,
            missing: listen.to_vec(),
        };
        for (name, address, socket) in self.0 {
            if name == ADMIN {
                if admin != Some(address) {
                    let wanted = admin;
                    return Err(HandedError::Admin { address, wanted });
                }
                shared.admin = Some(socket);
            } else if listen.contains(&address) {
                shared.missing.retain(|missing| *missing != address);
                shared.server.push(socket);
            } else {
                return Err(HandedError::Unlisted(address));
            }
        }
        Ok(shared)
    }
}

/// Reports that everything listens, and the configuration in force: at the start and after each
/// reload, also a refused one.
pub fn ready(generation: u64, refused: Option<&str>) {
    let status = status(generation, refused);
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Reports that the configuration is being read again. [`ready`] has to follow.
pub fn reloading() {
    let Ok(now) = NotifyState::monotonic_usec_now() else {
        return;
    };
    notify(&[NotifyState::Reloading, now]);
}

/// Reports that shutdown has begun.
pub fn stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("requests in flight may finish"),
    ]);
}

/// Sends signs of life, if they are asked for, as long as the runtime schedules tasks.
pub async fn watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beat = tokio::time::interval(patience.div_f32(2.0).max(MIN_WATCHDOG_INTERVAL));
    loop {
        beat.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

/// One line: a second one would be read as another message.
fn status(generation: u64, refused: Option<&str>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("version {version}, configuration {generation} in force");
    if let Some(reason) = refused {
        text.push_str("; the last reload was refused: ");
        let words = |c: char| if c.is_control() { ' ' } else { c };
        text.extend(reason.chars().map(words));
    }
    text
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager at $NOTIFY_SOCKET cannot be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::{AssignedSockets, HandedError, HandedSockets, status};
    use std::net::SocketAddr;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn handed(sockets: &[(&str, u16)]) -> HandedSockets<u16> {
        let socket = |(name, port): &(&str, u16)| ((*name).to_owned(), at(*port), *port);
        HandedSockets(sockets.iter().map(socket).collect())
    }

    #[test]
    fn each_socket_goes_to_its_address() {
        let listen = [at(1), at(2), at(3)];
        let sockets = handed(&[("portcullis.socket", 3), ("admin", 9), ("", 1)]);
        let shared = sockets.share(&listen, Some(at(9))).unwrap();
        let expected = AssignedSockets {
            server: vec![3, 1],
            admin: Some(9),
            missing: vec![at(2)],
        };
        assert_eq!(shared, expected);
        let none = handed(&[]).share(&listen, None).unwrap();
        assert_eq!((none.server, none.missing), (vec![], listen.to_vec()));
    }

    #[test]
    fn a_socket_that_nobody_wants_is_told_with_its_address() {
        let unlisted = handed(&[("a", 4)]).share(&[at(1)], None).unwrap_err();
        assert!(matches!(unlisted, HandedError::Unlisted(address) if address == at(4)));
        assert!(unlisted.to_string().contains("127.0.0.1:4"));
        let elsewhere = handed(&[("admin", 4)]).share(&[at(4)], Some(at(5)));
        let text = elsewhere.unwrap_err().to_string();
        assert!(text.contains("127.0.0.1:4") && text.contains("127.0.0.1:5"));
        let nowhere = handed(&[("admin", 4)]).share(&[at(4)], None);
        assert!(nowhere.unwrap_err().to_string().contains("not set"));
    }

    #[test]
    fn the_status_is_one_line() {
        let text = status(3, Some("a.toml:1:1: no\nREADY=1\r"));
        assert!(text.starts_with("version ") && text.contains("configuration 3"));
        assert!(text.ends_with("a.toml:1:1: no READY=1 ") && !text.contains('\n'));
    }
}
