//! A real Redis (or Valkey), and a false one that answers whatever a test wants.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::folder::Folder;
use super::pki::Pki;
use super::process::{Service, on_path};

pub(crate) struct Redis {
    pub(crate) service: Service,
    folder: Folder,
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
            service: Service::on_free_ports(),
            folder,
            password,
        };
        loop {
            // Somebody else may have been faster on these ports.
            if redis.try_run().await {
                return redis;
            }
            redis.service = Service::on_free_ports();
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
            self.service.plain,
            self.service.tls,
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
        let log = self.folder.join("redis.log");
        self.service.run(&mut command, &log).await
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.service.plain)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://localhost:{}/0", self.service.tls)
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
            |password| format!("redis://:{password}@127.0.0.1:{}/0", self.service.plain),
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
