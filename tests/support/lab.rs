//! Our built binary, configured, running, before a registry.

use std::ffi::OsString;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::Command;

use rustix::process::Signal;

use super::audit::Audit;
use super::folder::Folder;
use super::http::Client;
use super::pki::{Pair, Pki};
use super::process::{Process, free_port};
use super::registry::Registry;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// The rules of most tests. Who is who follows from the names.
pub(crate) const POLICY: &str = r#"
[groups]
team-a = ["alice"]
team-b = ["bob"]

[roles]
ci = ["pull", "push"]

[[access]]
repositories = ["public/**"]
who = ["anonymous"]
role = "guest"

[[access]]
repositories = ["team-a/**"]
who = ["group:team-a"]
role = "developer"

[[access]]
repositories = ["team-b/**"]
who = ["group:team-b"]
role = "developer"

[[access]]
repositories = ["team-a/**"]
who = ["user:gina"]
role = "guest"

[[access]]
repositories = ["team-a/**"]
who = ["user:mona"]
role = "maintainer"

[[access]]
repositories = ["team-a/**"]
who = ["user:robo"]
role = "ci"

[[access]]
repositories = ["home/${user}/**"]
who = ["authenticated"]
role = "maintainer"

[[access]]
repositories = ["**"]
who = ["user:ada"]
role = "admin"

[[deny]]
repositories = ["**/prod"]
who = ["user:alice"]
actions = ["push", "delete"]
"#;

/// Everybody in the htpasswd file. `stranger` has no rule of his own.
pub(crate) const USERS: [&str; 7] = ["ada", "alice", "bob", "gina", "mona", "robo", "stranger"];

/// A user's password.
pub(crate) fn password(user: &str) -> String {
    format!("pw-of-{user}-Xy7")
}

/// Lines of an htpasswd file; cost 4 is the cheapest bcrypt there is.
pub(crate) fn htpasswd(users: &[(&str, &str)]) -> String {
    let line = |(user, password): &(&str, &str)| {
        format!("{user}:{}\n", bcrypt::hash(password, 4).unwrap())
    };
    users.iter().map(line).collect()
}

fn everybody() -> String {
    let passwords = USERS.map(password);
    let users: Vec<_> = USERS
        .into_iter()
        .zip(passwords.iter().map(String::as_str))
        .collect();
    htpasswd(&users)
}

/// What differs from the usual set-up.
pub(crate) struct Builder {
    upstream: Option<String>,
    challenge: &'static str,
    anonymous: &'static str,
    policy: String,
    server: String,
    upstream_keys: String,
    token: String,
    audit: String,
    more: String,
    listen: Vec<&'static str>,
    order: &'static str,
    environment: Vec<(&'static str, OsString)>,
    files: Vec<(&'static str, String)>,
    pub(crate) pki: Pki,
}

impl Builder {
    /// Before this instead of a real registry.
    pub(crate) fn upstream(mut self, url: impl Into<String>) -> Self {
        self.upstream = Some(url.into());
        self
    }

    pub(crate) fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = challenge;
        self
    }

    /// Anonymous callers need no token.
    pub(crate) fn direct(mut self) -> Self {
        self.anonymous = "anonymous = \"direct\"";
        self
    }

    /// The back ends, as a list of TOML.
    pub(crate) fn order(mut self, order: &'static str) -> Self {
        self.order = order;
        self
    }

    pub(crate) fn policy(mut self, policy: &str) -> Self {
        policy.clone_into(&mut self.policy);
        self
    }

    /// Lines for `[server]`.
    pub(crate) fn server(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.server);
        self
    }

    /// Lines for `[upstream]`.
    pub(crate) fn upstream_keys(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.upstream_keys);
        self
    }

    /// Lines for `[token]`.
    pub(crate) fn token(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.token);
        self
    }

    /// Lines for `[audit]`.
    pub(crate) fn audit(mut self, lines: &str) -> Self {
        lines.clone_into(&mut self.audit);
        self
    }

    /// Whole sections.
    pub(crate) fn more(mut self, sections: &str) -> Self {
        sections.clone_into(&mut self.more);
        self
    }

    /// Listens on `::1` besides.
    pub(crate) fn dual_stack(mut self) -> Self {
        self.listen.push("[::1]");
        self
    }

    /// A `[tls.client_certificates]` that trusts the lab's own authority.
    pub(crate) fn client_certificates(mut self, lines: &str) -> Self {
        self.more += "[tls.client_certificates]\nca = \"ca.pem\"\n";
        self.more += lines;
        self
    }

    /// One more file beside the configuration.
    pub(crate) fn file(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.files.push((name, text.into()));
        self
    }

    /// What `RUST_LOG` says.
    pub(crate) fn log(self, filter: &'static str) -> Self {
        self.environment("RUST_LOG", filter)
    }

    /// One more variable of the environment.
    pub(crate) fn environment(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    pub(crate) async fn start(self) -> Lab {
        let folder = Folder::new();
        let (upstream, registry) = match &self.upstream {
            Some(url) => (url.clone(), None),
            None => {
                let registry = Registry::start(&folder).await;
                (format!("http://{}", registry.address), Some(registry))
            }
        };
        let server = self.pki.server();
        folder.write("ca.pem", &self.pki.ca);
        folder.write("server.pem", &server.certificate);
        folder.write("server.key", &server.key);
        folder.write("htpasswd", everybody());
        for (name, text) in &self.files {
            folder.write(name, text);
        }
        loop {
            let port = free_port();
            folder.write("portcullis.toml", self.config(port, &upstream));
            let mut command = Command::new(PROGRAM);
            command
                .args(["serve", "--config"])
                .arg(folder.join("portcullis.toml"));
            command.envs(self.environment.iter().cloned());
            let mut process = Process::start(&mut command, &folder.join("portcullis.log"));
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let mut started = process.listens(address).await;
            // Another address may be bound a moment later.
            if started.is_ok() && self.listen.contains(&"[::1]") {
                let second = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                started = process.listens(second).await;
            }
            if started.is_ok() {
                return Lab {
                    process,
                    registry,
                    address,
                    pki: self.pki,
                    folder,
                };
            }
            let log = process.log();
            assert!(
                log.to_lowercase().contains("in use"),
                "it did not start:\n{log}"
            );
        }
    }

    fn config(&self, port: u16, upstream: &str) -> String {
        let listen: Vec<_> = self
            .listen
            .iter()
            .map(|host| format!("\"{host}:{port}\""))
            .collect();
        let Self {
            challenge,
            anonymous,
            policy,
            server,
            upstream_keys,
            token,
            audit,
            more,
            order,
            ..
        } = self;
        let listen = listen.join(", ");
        format!(
            r#"[server]
listen = [{listen}]
{server}

[tls]
certificate = "server.pem"
private_key = "server.key"

[upstream]
url = "{upstream}"
{upstream_keys}

[auth]
order = {order}
challenge = "{challenge}"
{anonymous}

[auth.htpasswd]
file = "htpasswd"

[token]
{token}

[audit]
{audit}

{more}
{policy}
"#
        )
    }
}

/// The proxy and what stands behind it. The order of the fields is the order of their end.
pub(crate) struct Lab {
    pub(crate) process: Process,
    registry: Option<Registry>,
    pub(crate) address: SocketAddr,
    pub(crate) pki: Pki,
    pub(crate) folder: Folder,
}

impl Lab {
    pub(crate) fn builder() -> Builder {
        Builder {
            upstream: None,
            challenge: "bearer",
            anonymous: "",
            policy: POLICY.to_owned(),
            server: String::new(),
            upstream_keys: String::new(),
            token: String::new(),
            audit: "file = \"audit.jsonl\"".to_owned(),
            more: String::new(),
            listen: vec!["127.0.0.1"],
            order: "[\"htpasswd\"]",
            environment: Vec::new(),
            files: Vec::new(),
            pki: Pki::new(),
        }
    }

    /// The usual set-up before a real registry.
    pub(crate) async fn start() -> Self {
        Self::builder().start().await
    }

    /// Nobody in particular.
    pub(crate) fn anonymous(&self) -> Client {
        Client::tls(self.address, &self.pki.ca)
    }

    /// Nobody in particular, with a token for repositories that anybody may pull from.
    pub(crate) async fn nobody(&self) -> Client {
        let scopes = ["app", "other", "pod", "sk"]
            .map(|name| format!("&scope=repository:public/{name}:pull"));
        let (service, scopes) = (self.authority(), scopes.concat());
        let path = format!("/token?service={service}{scopes}");
        let answer = self.anonymous().get(&path).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let token = answer.json()["token"].as_str().unwrap().to_owned();
        self.anonymous().bearer(&token)
    }

    /// Nobody in particular, with a client certificate.
    pub(crate) fn showing(&self, pair: &Pair) -> Client {
        self.showing_by(pair, &rustls::version::TLS13)
    }

    /// The same in one version of TLS.
    pub(crate) fn showing_by(
        &self,
        pair: &Pair,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Client {
        self.anonymous().showing_by(&self.pki.ca, pair, version)
    }

    /// A user with his password on each request.
    pub(crate) fn user(&self, name: &str) -> Client {
        self.anonymous().basic(name, &password(name))
    }

    pub(crate) fn registry(&self) -> &Registry {
        self.registry.as_ref().expect("a real registry")
    }

    pub(crate) fn registry_mut(&mut self) -> &mut Registry {
        self.registry.as_mut().expect("a real registry")
    }

    /// `HOST:PORT`, as clients name it.
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    pub(crate) fn audit(&self) -> Audit {
        Audit::new(self.folder.join("audit.jsonl"))
    }

    pub(crate) fn config(&self) -> String {
        self.folder.read("portcullis.toml")
    }

    /// Starts the proxy again after its end.
    pub(crate) async fn restart(&mut self) {
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--config"])
            .arg(self.folder.join("portcullis.toml"));
        self.process = Process::start(&mut command, &self.folder.join("portcullis.log"));
        self.process.listens(self.address).await.unwrap();
    }

    /// Sends SIGHUP and waits for the record of it; how it ended.
    pub(crate) async fn reload(&self) -> String {
        let is_reload = |record: &serde_json::Value| record["event"] == "reload";
        let count = || self.audit().records().into_iter().filter(is_reload).count();
        let before = count();
        self.process.signal(Signal::HUP);
        let record = super::eventually("a record of the reload", || {
            self.audit()
                .records()
                .into_iter()
                .filter(is_reload)
                .nth(before)
        });
        record.await["outcome"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// An access token for one scope.
    pub(crate) async fn token(&self, user: &str, scope: &str) -> String {
        let service = self.authority();
        let path = format!("/token?service={service}&scope={scope}");
        let answer = self.user(user).get(&path).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["token"].as_str().unwrap().to_owned()
    }

    /// Asserts that no password of a user or secret stands in the audit file or the log.
    pub(crate) fn assert_no_secret(&self, secrets: &[&str]) {
        for (place, text) in [
            ("audit file", self.audit().text()),
            ("log", self.process.log()),
        ] {
            for user in USERS {
                let basic = super::http::basic(user, &password(user));
                let encoded = basic.trim_start_matches("Basic ");
                assert!(
                    !text.contains(&password(user)),
                    "{user}'s password in the {place}"
                );
                assert!(
                    !text.contains(encoded),
                    "{user}'s credentials in the {place}"
                );
            }
            for secret in secrets {
                assert!(!text.contains(secret), "{secret} in the {place}");
            }
        }
    }
}
