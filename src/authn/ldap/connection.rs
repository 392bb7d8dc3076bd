//! One connection to one directory server.
//!
//! The socket and its TLS are ours, and so is what passes through it: a relay hands the LDAP library
//! only messages that [`message`] finds sound. The library itself speaks through a pair of local
//! sockets. It never sets `TCP_NODELAY` (which costs 44 ms for each connection), reads messages of
//! any size, and panics over odd ones: that ends its own task or the caller's, never the process.
//!
//! Nothing here has a time-out of its own: callers give each use of a server a deadline, and throw
//! a connection away that did not keep it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, StdStream,
};
use rustls::ClientConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use super::LdapServer;
use super::message;
use crate::tls::secure;

/// A result code: there were more entries.
pub(super) const SIZE_LIMIT_EXCEEDED: u32 = 4;
/// After how long an idle connection is asked whether its other end still exists.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The request to begin TLS (RFC 4511 section 4.14.1), number 1.
const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";

/// How a connection is protected.
#[derive(Clone, Debug)]
pub(super) enum Security {
    /// Not at all; the configuration says so.
    None,
    /// By TLS, asked for in the clear.
    StartTls(Arc<ClientConfig>),
    /// By TLS from the first byte.
    Tls(Arc<ClientConfig>),
}

/// Why a server gave no answer that can be used. The words are for the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// It cannot be reached, or does not prove who it is.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// The connection ended.
    #[error("the connection was lost: {0}")]
    Lost(#[from] LdapError),
    /// It refuses the service account.
    #[error("the service account is refused (result {0})")]
    ServiceAccount(u32),
    /// It did not answer in time.
    #[error("no answer in time")]
    Slow,
    /// It answered, but did not verify a password in time.
    #[error("a password was not verified in time")]
    SlowPassword,
    /// It says no to a question that others may still ask.
    #[error("result {code} for {what}")]
    Result {
        /// RFC 4511 appendix A.
        code: u32,
        /// What was asked.
        what: &'static str,
    },
    /// More than anybody's answer.
    #[error("too many entries for {0}")]
    TooMuch(&'static str),
    /// It said something that cannot be understood.
    #[error("its answer cannot be understood")]
    Unreadable,
    /// An entry that does not say what it must.
    #[error("{0}")]
    Odd(&'static str),
}

impl Trouble {
    /// Whether the server itself is in trouble, whoever asks.
    pub(super) fn is_the_servers(&self) -> bool {
        match self {
            Self::Connect(_)
            | Self::Lost(_)
            | Self::ServiceAccount(_)
            | Self::Slow
            | Self::Unreadable => true,
            // operationsError, busy, unavailable, other
            Self::Result { code, .. } => matches!(code, 1 | 51 | 52 | 80),
            // Some take their time to say that a password is wrong, so anybody could bring this about.
            Self::SlowPassword | Self::TooMuch(_) | Self::Odd(_) => false,
        }
    }
}

/// What a search found.
pub(super) struct Found {
    pub(super) entries: Vec<SearchEntry>,
    pub(super) code: u32,
}

/// A connection. Its clones share it; it closes with the last of them.
#[derive(Clone)]
pub(super) struct Connection {
    ldap: Ldap,
    tasks: Arc<Tasks>,
}

struct Tasks([AbortHandle; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Connection {
    /// Connects and secures the connection. It is nobody's until [`Self::bind`].
    pub(super) async fn open(to: &LdapServer, security: &Security) -> Result<Self, Trouble> {
        let stream = connect(to).await.map_err(Trouble::Connect)?;
        let (config, stream) = match security {
            Security::None => return Self::over(stream).await,
            Security::Tls(config) => (config, stream),
            Security::StartTls(config) => {
                (config, start_tls(stream).await.map_err(Trouble::Connect)?)
            }
        };
        let stream = secure(config, &to.host, stream).await;
        Self::over(stream.map_err(Trouble::Connect)?).await
    }

    async fn over(
        remote: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, Trouble> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(Trouble::Connect)?;
        ours.set_nonblocking(true).map_err(Trouble::Connect)?;
        let ours = UnixStream::from_std(ours).map_err(Trouble::Connect)?;
        let settings = LdapConnSettings::new().set_std_stream(StdStream::Unix(theirs));
        let (driver, ldap) = LdapConnAsync::with_settings(settings, "ldapi:///").await?;
        let driver = tokio::spawn(async move {
            if let Err(error) = driver.drive().await {
                tracing::debug!(%error, "LDAP connection ended");
            }
        });
        let relay = tokio::spawn(async move {
            if let Err(error) = relay(remote, ours).await {
                tracing::debug!(%error, "LDAP connection ended");
            }
        });
        Ok(Self {
            ldap,
            tasks: Arc::new(Tasks([driver.abort_handle(), relay.abort_handle()])),
        })
    }

    /// Whether both are the same one.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tasks, &other.tasks)
    }

    /// Whether it has ended already.
    pub(super) fn is_closed(&mut self) -> bool {
        self.ldap.is_closed()
    }

    /// Proves to be whom `dn` names; the result code. Neither may be empty: an empty password
    /// makes a bind that succeeds and proves nothing (RFC 4513 section 5.1.2).
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<u32, Trouble> {
        if dn.is_empty() || password.is_empty() {
            return Err(Trouble::Odd("a bind without a name or password"));
        }
        Ok(self.ldap.simple_bind(dn, password).await?.rc)
    }

    /// Searches below `base`, for at most `most` entries. Referrals are not followed: they would
    /// lead elsewhere, with our credentials. More than `most` entries are reported as
    /// [`SIZE_LIMIT_EXCEEDED`].
    pub(super) async fn search(
        &mut self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: usize,
    ) -> Result<Found, Trouble> {
        let limit = i32::try_from(most).unwrap_or(i32::MAX);
        let options = SearchOptions::new().sizelimit(limit);
        let mut stream = self
            .ldap
            .with_search_options(options)
            .streaming_search(base, Scope::Subtree, filter, attributes)
            .await?;
        let (mut entries, mut others) = (Vec::new(), 0_usize);
        while let Some(item) = stream.next().await? {
            let too_many = if item.is_ref() || item.is_intermediate() {
                others = others.saturating_add(1);
                others > MOST_REFERENCES
            } else if entries.len() < most {
                entries.push(SearchEntry::construct(item));
                false
            } else {
                true
            };
            if too_many {
                stream.finish().await;
                let code = SIZE_LIMIT_EXCEEDED;
                return Ok(Found { entries, code });
            }
        }
        let code = stream.finish().await.rc;
        Ok(Found { entries, code })
    }
}

/// A server that goes on after so many references is not answering.
const MOST_REFERENCES: usize = 1_000;

async fn connect(to: &LdapServer) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((&*to.host, to.port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

/// Asks for TLS. Not a byte beyond the answer is read: what somebody slips in behind it in the clear
/// is taken for TLS, and is none.
async fn start_tls(mut stream: TcpStream) -> io::Result<TcpStream> {
    stream.write_all(START_TLS).await?;
    let answer = message::read(&mut stream).await?;
    match answer.as_deref().map(message::extended_result) {
        Some(Some(0)) => Ok(stream),
        Some(_) => Err(io::Error::other("the server refuses StartTLS")),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Carries requests out and sound answers in, until either side ends.
async fn relay(remote: impl AsyncRead + AsyncWrite + Unpin, local: UnixStream) -> io::Result<()> {
    let (mut answers, mut requests) = tokio::io::split(remote);
    let (mut inward, mut outward) = local.into_split();
    let answers = async {
        // Whole messages are written at once, so what was read in pieces costs no wake-ups.
        let mut answers = tokio::io::BufReader::with_capacity(16 * 1024, &mut answers);
        while let Some(message) = message::read(&mut answers).await? {
            outward.write_all(&message).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = answers => ended,
        ended = tokio::io::copy(&mut inward, &mut requests) => ended.map(drop),
    }
}
