//! The real registry, unmodified, on loopback.

use std::net::SocketAddr;
use std::process::Command;

use super::folder::Folder;
use super::http::Client;
use super::process::{Process, free_port};

pub(crate) struct Registry {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Registry {
    pub(crate) async fn start(folder: &Folder) -> Self {
        loop {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Some(registry) = Self::try_start(folder, address).await {
                return registry;
            }
        }
    }

    /// `None` when somebody else was faster on this address.
    pub(crate) async fn try_start(folder: &Folder, address: SocketAddr) -> Option<Self> {
        Self::try_start_with(folder, address, "").await
    }

    /// With TLS; `pair` are the names of two files in the folder.
    pub(crate) async fn start_tls(folder: &Folder, pair: [&str; 2]) -> Self {
        let [certificate, key] = pair.map(|name| folder.join(name).display().to_string());
        let tls = format!(", tls: {{certificate: '{certificate}', key: '{key}'}}");
        Self::start_with(folder, &tls).await
    }

    /// With more settings of `http`, each after a comma.
    pub(crate) async fn start_with(folder: &Folder, more: &str) -> Self {
        loop {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            if let Some(registry) = Self::try_start_with(folder, address, more).await {
                return registry;
            }
        }
    }

    async fn try_start_with(folder: &Folder, address: SocketAddr, more: &str) -> Option<Self> {
        let mut process = spawn(folder, &format!("addr: '{address}'{more}"));
        let ready = process.listens(address).await;
        if ready.is_ok() {
            return Some(Self { process, address });
        }
        let log = process.log();
        assert!(
            log.contains("address already in use"),
            "the registry ended:\n{log}"
        );
        None
    }

    /// On a unix socket in the folder.
    pub(crate) async fn start_unix(folder: &Folder, name: &str) -> Process {
        let path = folder.join(name);
        let mut process = spawn(folder, &format!("net: unix, addr: '{}'", path.display()));
        super::eventually("the registry's socket", || {
            assert!(
                process.exited().is_none(),
                "the registry ended:\n{}",
                process.log()
            );
            std::os::unix::net::UnixStream::connect(&path).ok()
        })
        .await;
        process
    }

    /// A client that goes past the proxy.
    pub(crate) fn client(&self) -> Client {
        Client::plain(self.address)
    }
}

/// Starts it with these settings of `http`.
fn spawn(folder: &Folder, http: &str) -> Process {
    let storage = folder.join("storage");
    let config = folder.write(
        "registry.yml",
        format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage:\n  filesystem: {{rootdirectory: '{}'}}\n  delete: {{enabled: true}}\n\
             http: {{{http}, secret: of-this-test}}\n",
            storage.display()
        ),
    );
    let mut command = Command::new(program());
    command.arg("serve").arg(config);
    command.env("OTEL_TRACES_EXPORTER", "none");
    Process::start(&mut command, &folder.join("registry.log"))
}

fn program() -> &'static str {
    let names = ["docker-registry", "registry"];
    let found = names.into_iter().find(|name| super::process::on_path(name));
    found.expect("no docker-registry on PATH; tests/install-deps installs it")
}
