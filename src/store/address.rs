//! The way to a store: connecting, TLS, the password, and a trial question.

use std::pin::Pin;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::pulls::TAKEN;
use super::{Live, Question, Store, StoreError, StoreUrl};

/// Time to connect, besides the time for an answer. Nobody but the watch waits for it.
const CONNECT_GRACE: Duration = Duration::from_secs(1);

/// In µs since 1970; no server's clock says less.
const LONG_AGO: i64 = 1_500_000_000_000_000;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

impl Store {
    /// A connection on which the store has answered a question as it should. One that changes
    /// something, or else a store that cannot be written to would pass.
    pub(super) async fn open(&self) -> Result<(Live, JoinHandle<()>), StoreError> {
        const COUNT: i64 = 9;
        let limit = self.config.timeout.saturating_add(CONNECT_GRACE);
        let opened = tokio::time::timeout(limit, self.connect()).await;
        let (live, driver) = opened.unwrap_or(Err(StoreError::TimeOut(limit)))?;
        let trial = Question {
            script: &self.scripts.pull,
            keys: vec![self.key("trial", &[])],
            arguments: vec!["take".into(), "1".into(), COUNT.to_string(), "0".into()],
        };
        match trial.put(&live.connection, self.config.timeout).await?[..] {
            [TAKEN, 0..COUNT, taken] if taken > LONG_AGO => Ok((live, driver)),
            _ => Err(StoreError::Nonsense),
        }
    }

    async fn connect(&self) -> Result<(Live, JoinHandle<()>), StoreError> {
        let stream = self.stream().await.map_err(StoreError::Connect)?;
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let StoreUrl::Tcp { database, .. } = self.config.url {
            info = info.set_db(database.into());
        }
        if let Some((user, password)) = &self.config.login {
            info = info.set_password(password.expose());
            if let Some(user) = user {
                info = info.set_username(user);
            }
        }
        // Each question has a time-out of its own.
        let without = AsyncConnectionConfig::new().set_response_timeout(None);
        let opened = MultiplexedConnection::new_with_config(&info, stream, without).await;
        let (connection, driver) = opened.map_err(|error| StoreError::from(&error))?;
        let task = tokio::spawn(driver);
        let driver = task.abort_handle();
        Ok((Live { connection, driver }, task))
    }

    async fn stream(&self) -> Result<Pin<Box<dyn Stream>>, String> {
        let told = |error: std::io::Error| error.to_string();
        match &self.config.url {
            StoreUrl::Unix(path) => Ok(Box::pin(UnixStream::connect(path).await.map_err(told)?)),
            StoreUrl::Tcp { host, port, .. } => {
                let stream = TcpStream::connect((&**host, *port)).await.map_err(told)?;
                stream.set_nodelay(true).map_err(told)?;
                let Some(tls) = &self.tls else {
                    return Ok(Box::pin(stream));
                };
                let secured = crate::tls::secure(tls, host, stream).await;
                Ok(Box::pin(secured.map_err(told)?))
            }
        }
    }
}
