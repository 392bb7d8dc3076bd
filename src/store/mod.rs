//! What replicas share, in a Redis or Valkey that they all ask: counts of pulls and of wrong passwords,
//! and claims on tags.
//!
//! Each question is one script, which the server runs as a whole and by its own clock, so that
//! replicas agree whatever their clocks say. Every question has a time-out, and a server that is
//! down, slow or talks nonsense is not asked again until it has answered a trial: it then costs
//! nobody time, and the caller goes by what this process has counted itself. A count never refuses by
//! failing, and a claim never allows by failing. Nothing in it is secret: names stand there as hashes, and passwords as hashes
//! under a key that the store does not know. Everything in it ends by itself.

mod address;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod guesses;
mod pulls;
mod settings;
mod tags;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, Script};
use rustls::ClientConfig;
use tokio::sync::watch as channel;
use tokio::task::AbortHandle;

pub use guesses::{Guess, Judgement, Locks, Trial};
pub use pulls::{Lease, Settled, Verdict};
pub use settings::{Settings, StoreUrl};
pub use tags::{TagClaim, TagUse};

/// Why the store is not asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The connection ended.
    #[error("the connection was closed")]
    Closed,
    /// It forgets what it has no memory for: a claim on a tag must not be forgotten.
    #[error("its maxmemory-policy is {0}, which forgets claims on tags: make it noeviction")]
    Forgets(String),
    /// There is no connection.
    #[error("no connection: {0}")]
    Connect(String),
    /// An answer that is none.
    #[error("the answer makes no sense")]
    Nonsense,
    /// The password is wrong, or missing.
    #[error("the store refuses the password")]
    Password,
    /// An answer that is an error, by its code.
    #[error("the store answers {0}")]
    Refused(String),
    /// No answer.
    #[error("no answer within {0:?}")]
    TimeOut(Duration),
}

/// How often the store was asked since the process started; survives a reload.
#[derive(Debug, Default)]
pub struct Counts {
    asked: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// Questions.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Those without a good answer.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// One store, and whether it is asked at present.
pub struct Store {
    config: Settings,
    fingerprint: [u8; 32],
    tls: Option<Arc<ClientConfig>>,
    scripts: Scripts,
    counts: Arc<Counts>,
    /// None while the store is not asked.
    live: Mutex<Option<Arc<Live>>>,
    /// Why not.
    trouble: channel::Sender<Option<StoreError>>,
    watched: AtomicBool,
}

struct Scripts {
    pull: Script,
    settle: Script,
    begin: Script,
    end: Script,
    claim: Script,
    release: Script,
}

/// A connection and the task that moves its bytes.
struct Live {
    connection: MultiplexedConnection,
    driver: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A script, its keys and its arguments.
struct Question<'a> {
    script: &'a Script,
    keys: Vec<String>,
    arguments: Vec<String>,
}

impl Store {
    /// Gives the store that is configured: `known` if nothing about it has changed. `ca` is what
    /// stands in the file of that name.
    pub fn new(
        config: &Settings,
        tls: Option<Arc<ClientConfig>>,
        ca: &[u8],
        known: Option<&Arc<Self>>,
        counts: &Arc<Counts>,
    ) -> Arc<Self> {
        let fingerprint = fingerprint(config, ca);
        if let Some(known) = known.filter(|known| known.fingerprint == fingerprint) {
            return Arc::clone(known);
        }
        Arc::new(Self {
            config: config.clone(),
            fingerprint,
            tls,
            scripts: Scripts {
                pull: Script::new(include_str!("pull.lua")),
                settle: Script::new(include_str!("settle.lua")),
                begin: Script::new(include_str!("begin.lua")),
                end: Script::new(include_str!("end.lua")),
                claim: Script::new(include_str!("claim.lua")),
                release: Script::new(include_str!("release.lua")),
            },
            counts: Arc::clone(counts),
            live: Mutex::default(),
            trouble: channel::Sender::new(None),
            watched: AtomicBool::new(false),
        })
    }

    /// Why limits are not shared at present; `None` while they are.
    pub fn trouble(&self) -> Option<StoreError> {
        self.trouble.borrow().clone()
    }

    /// Asks once, on a connection of its own, whether the store is good for its purpose.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let (live, _driver) = self.open().await?;
        let (mut connection, limit) = (live.connection.clone(), self.config.timeout);
        let mut question = redis::cmd("INFO");
        question.arg("memory");
        let asked = question.query_async(&mut connection);
        let answer: String = match tokio::time::timeout(limit, asked).await {
            Ok(answer) => answer.map_err(|error| StoreError::from(&error))?,
            Err(_elapsed) => return Err(StoreError::TimeOut(limit)),
        };
        match policy(&answer) {
            Some("noeviction") => Ok(()),
            Some(policy) => Err(StoreError::Forgets(policy.to_owned())),
            None => Err(StoreError::Nonsense),
        }
    }

    /// `None` means that nobody knows, and that what this process has counted decides.
    async fn ask<T>(
        &self,
        question: &Question<'_>,
        read: impl FnOnce(&[i64]) -> Option<T>,
    ) -> Option<T> {
        let live = self.live.lock().clone()?;
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let answer = question.put(&live.connection, self.config.timeout).await;
        let error = match answer.map(|answer| read(&answer)) {
            Ok(Some(read)) => return Some(read),
            Ok(None) => StoreError::Nonsense,
            Err(error) => error,
        };
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        self.lose(&live, error);
        None
    }

    /// Asks no more, unless somebody has noticed before and there is a new connection already.
    fn lose(&self, lost: &Arc<Live>, error: StoreError) {
        let mut live = self.live.lock();
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(live, lost)) {
            *live = None;
            self.trouble.send_replace(Some(error));
        }
    }

    /// A key in the store. Names of users become hashes, of which nobody can make another's.
    fn key(&self, kind: &str, parts: &[&str]) -> String {
        let mut hash = blake3::Hasher::new();
        for part in parts {
            hash.update(&part.len().to_le_bytes());
            hash.update(part.as_bytes());
        }
        let mut name = [0; 16];
        hash.finalize_xof().fill(&mut name);
        let name = u128::from_be_bytes(name);
        format!("{}:{kind}:{name:032x}", self.config.prefix)
    }
}

impl Question<'_> {
    async fn put(
        &self,
        connection: &MultiplexedConnection,
        limit: Duration,
    ) -> Result<Vec<i64>, StoreError> {
        let mut invocation = self.script.prepare_invoke();
        for key in &self.keys {
            invocation.key(key);
        }
        for argument in &self.arguments {
            invocation.arg(argument);
        }
        let mut connection = connection.clone();
        let answer = invocation.invoke_async(&mut connection);
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer.map_err(|error| StoreError::from(&error)),
            Err(_elapsed) => Err(StoreError::TimeOut(limit)),
        }
    }
}

/// What a server writes is not repeated, but for the code of an error.
impl From<&RedisError> for StoreError {
    fn from(error: &RedisError) -> Self {
        if error.is_connection_dropped() || error.is_io_error() {
            return Self::Closed;
        }
        let code = error.code().unwrap_or_default();
        if matches!(error.kind(), ErrorKind::AuthenticationFailed)
            || ["NOAUTH", "WRONGPASS"].contains(&code)
        {
            return Self::Password;
        }
        if !code.is_empty() && code.len() <= 20 && code.chars().all(is_of_a_code) {
            Self::Refused(code.to_owned())
        } else {
            Self::Nonsense
        }
    }
}

/// What a server does that has no memory left, as its `INFO` says.
fn policy(info: &str) -> Option<&str> {
    let mut lines = info.lines();
    let policy = lines.find_map(|line| line.strip_prefix("maxmemory_policy:"))?;
    let is_word = policy.len() <= 20 && policy.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    is_word.then_some(policy)
}

fn is_of_a_code(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit()
}

/// All that a connection depends on.
fn fingerprint(config: &Settings, ca: &[u8]) -> [u8; 32] {
    let Settings {
        url,
        login,
        ca: path,
        timeout,
        prefix,
    } = config;
    let (user, password) = match login {
        Some((user, password)) => (
            user.as_deref().unwrap_or_default(),
            password.expose().as_str(),
        ),
        None => ("", ""),
    };
    let url = format!("{url:?} {path:?} {}", login.is_some());
    let time = timeout.as_millis().to_string();
    let mut hash = blake3::Hasher::new();
    for part in [
        url.as_bytes(),
        user.as_bytes(),
        password.as_bytes(),
        ca,
        time.as_bytes(),
        prefix.as_bytes(),
    ] {
        hash.update(&part.len().to_le_bytes()).update(part);
    }
    hash.finalize().into()
}

/// A time for a script. None is longer than ten years.
fn micros(time: Duration) -> String {
    time.as_micros().to_string()
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

#[cfg(test)]
mod tests;
