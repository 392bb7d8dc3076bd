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
        let storage = folder.join("storage");
        let config = folder.write(
            "registry.yml",
            format!(
                "version: 0.1\n\
                 log: {{level: info, accesslog: {{disabled: true}}}}\n\
                 storage:\n  filesystem: {{rootdirectory: '{}'}}\n  delete: {{enabled: true}}\n\
                 http: {{addr: '{address}', secret: of-this-test}}\n",
                storage.display()
            ),
        );
        let mut command = Command::new(program());
        command
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let mut process = Process::start(&mut command, &folder.join("registry.log"));
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

    /// A client that goes past the proxy.
    pub(crate) fn client(&self) -> Client {
        Client::plain(self.address)
    }
}

fn program() -> &'static str {
    let names = ["docker-registry", "registry"];
    let found = names.into_iter().find(|name| super::process::on_path(name));
    found.expect("no docker-registry on PATH; tests/install-deps installs it")
}
