//! A real Redis (or Valkey), and a false one that answers whatever a test wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::folder::Folder;
use super::pki::Pki;
use super::process::{Process, free_port, on_path};

pub(crate) struct Redis {
    process: Option<Process>,
    folder: Folder,
    plain: u16,
    tls: u16,
    password: Option<&'static str>,
}

impl Redis {
    pub(crate) async fn start() -> Self {
        Self::started(None).await
    }

    pub(crate) async fn with_password(password: &'static str) -> Self {
        Self::started(Some(password)).await
    }

    async fn started(password: Option<&'static str>) -> Self {
        let folder = Folder::new();
        let pki = Pki::new();
        let server = pki.server();
        folder.write("ca.pem", &pki.ca);
        folder.write("server.pem", &server.certificate);
        folder.write("server.key", &server.key);
        let mut redis = Self {
            process: None,
            folder,
            plain: 0,
            tls: 0,
            password,
        };
        loop {
            (redis.plain, redis.tls) = (free_port(), free_port());
            // Somebody else may have been faster on these ports.
            if redis.try_run().await {
                return redis;
            }
        }
    }

    /// Starts it again on its own ports, with nothing in it.
    pub(crate) async fn restart(&mut self) {
        assert!(self.try_run().await, "redis did not start again");
    }

    async fn try_run(&mut self) -> bool {
        let config = format!(
            "bind 127.0.0.1\nport {}\ntls-port {}\nunixsocket redis.sock\n\
             tls-cert-file server.pem\ntls-key-file server.key\ntls-ca-cert-file ca.pem\n\
             tls-auth-clients no\nsave \"\"\nappendonly no\ndir {}\n{}",
            self.plain,
            self.tls,
            self.folder.path().display(),
            self.password
                .map_or_else(String::new, |password| format!("requirepass {password}\n")),
        );
        self.folder.write("redis.conf", config);
        let program = ["redis-server", "valkey-server"]
            .into_iter()
            .find(|program| on_path(program))
            .expect("no redis-server; tests/install-deps installs it");
        let mut command = Command::new(program);
        command
            .arg(self.folder.join("redis.conf"))
            .current_dir(self.folder.path());
        let mut process = Process::start(&mut command, &self.folder.join("redis.log"));
        for port in [self.plain, self.tls] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            if process.listens(address).await.is_err() {
                return false;
            }
        }
        self.process = Some(process);
        true
    }

    /// Ends it at once, as a power cut would.
    pub(crate) fn kill(&mut self) {
        drop(self.process.take());
    }

    /// Lets it hang: connections are accepted by the system, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.plain)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://localhost:{}/0", self.tls)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    /// A client of its own.
    pub(crate) fn connect(&self) -> redis::Connection {
        let url = self.password.map_or_else(
            || self.url(),
            |password| format!("redis://:{password}@127.0.0.1:{}/0", self.plain),
        );
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    /// Every key, with the milliseconds after which it ends; -1 for never.
    pub(crate) fn keys(&self) -> Vec<(String, i64)> {
        let mut connection = self.connect();
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
        let mut found: Vec<_> = keys
            .into_iter()
            .map(|key| {
                let left = redis::cmd("PTTL").arg(&key).query(&mut connection).unwrap();
                (key, left)
            })
            .collect();
        // Without what has ended meanwhile.
        found.retain(|(_, left)| *left != -2);
        found.sort();
        found
    }
}

/// A server that answers whatever it is sent with the same bytes.
pub(crate) struct FalseStore {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl FalseStore {
    pub(crate) async fn saying(junk: &'static [u8]) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut question = [0; 4096];
                    while let Ok(1..) = stream.read(&mut question).await {
                        if stream.write_all(junk).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }
}

impl Drop for FalseStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}
