//! The proxies that are compared, each with a configuration of its own in `bench/load/peers/`.
//!
//! There `@NAME@` stands for a value, and a line that begins with `#name#` is meant for set-ups with
//! that trait only; `#name|other#` for either.

use std::fmt::{self, Write as _};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::callgrind;
use crate::client::{Call, Route};
use crate::lab::{Lab, free_address};
use crate::process::Server;

/// The trait of a server whose instructions are counted by callgrind.
pub(crate) const COUNTED: &str = "counted";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Peer {
    Portcullis,
    Nginx,
    Haproxy,
    Apache,
    Caddy,
    /// No proxy at all: the registry, or its stub.
    Bare,
}

impl Peer {
    pub(crate) const ALL: [Self; 6] = [
        Self::Portcullis,
        Self::Nginx,
        Self::Haproxy,
        Self::Apache,
        Self::Caddy,
        Self::Bare,
    ];
    pub(crate) const PROXIES: [Self; 5] = [
        Self::Portcullis,
        Self::Nginx,
        Self::Haproxy,
        Self::Apache,
        Self::Caddy,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portcullis => "portcullis",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Apache => "apache",
            Self::Caddy => "caddy",
            Self::Bare => "bare",
        }
    }

    fn template(self) -> (&'static str, &'static str) {
        match self {
            Self::Portcullis => ("portcullis.toml", include_str!("../peers/portcullis.toml")),
            Self::Nginx => ("nginx.conf", include_str!("../peers/nginx.conf")),
            Self::Haproxy => ("haproxy.cfg", include_str!("../peers/haproxy.cfg")),
            Self::Apache => ("apache.conf", include_str!("../peers/apache.conf")),
            Self::Caddy => ("Caddyfile", include_str!("../peers/Caddyfile")),
            Self::Bare => ("", ""),
        }
    }

    fn command(self, lab: &Lab, config: &Path) -> Command {
        let program = match self {
            Self::Portcullis => lab.portcullis.as_path(),
            Self::Nginx => Path::new("/usr/sbin/nginx"),
            Self::Haproxy => Path::new("/usr/sbin/haproxy"),
            Self::Apache => Path::new("/usr/sbin/apache2"),
            Self::Caddy => Path::new("caddy"),
            Self::Bare => Path::new("true"),
        };
        let mut command = Command::new(program);
        match self {
            Self::Portcullis => command.args(["serve", "--config"]).arg(config),
            Self::Nginx => command.args(["-g", "daemon off;", "-c"]).arg(config),
            Self::Haproxy => command.args(["-db", "-f"]).arg(config),
            Self::Apache => command.args(["-D", "FOREGROUND", "-f"]).arg(config),
            Self::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(config),
            Self::Bare => &mut command,
        };
        command
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    Stub,
    Registry,
}

/// What a proxy stands before, the traits of its configuration, and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) upstream: Upstream,
    pub(crate) traits: &'static [&'static str],
    /// Rules besides the usual ones.
    pub(crate) rules: usize,
    /// None: the users all cases share.
    pub(crate) users: Option<usize>,
}

/// A peer that runs. `server` is None for no proxy at all.
pub(crate) struct Running {
    pub(crate) server: Option<Server>,
    pub(crate) route: Route,
    pub(crate) folder: std::path::PathBuf,
}

impl Running {
    pub(crate) fn start(lab: &Lab, peer: Peer, setup: &Setup) -> Result<Self> {
        let upstream = lab.upstream(setup.upstream);
        if peer == Peer::Bare {
            let route = Route {
                address: upstream,
                tls: None,
            };
            return Ok(Self {
                server: None,
                route,
                folder: lab.folder.clone(),
            });
        }
        if let Some(count) = setup.users {
            lab.write_many_users(count)?;
        }
        let folder = lab.new_folder(peer.name())?;
        let address = free_address()?;
        let (name, template) = peer.template();
        let config = folder.join(name);
        fs::write(
            &config,
            render(template, lab, setup, address, upstream, &folder),
        )?;
        let command = peer.command(lab, &config);
        let mut command = if setup.traits.contains(&COUNTED) {
            callgrind::wrapped(&command, &folder)
        } else {
            command
        };
        command.env("HOME", &folder).current_dir(&folder);
        let server = Server::start(&mut command, &folder.join("log"), address);
        let server = server.with_context(|| format!("{peer} does not start"))?;
        let route = Route {
            address,
            tls: Some(lab.tls(setup.traits)?),
        };
        Ok(Self {
            server: Some(server),
            route,
            folder,
        })
    }

    /// Answers once, so that nothing is measured that happens only the first time.
    pub(crate) async fn greet(&self, call: &Call) -> Result<()> {
        let mut connection = self.route.dial(crate::client::Http::One).connect().await?;
        connection.ask(call).await.map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.server.take().is_some() {
            // It ends first, and then its logs, which are long.
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

fn render(
    template: &str,
    lab: &Lab,
    setup: &Setup,
    address: SocketAddr,
    upstream: SocketAddr,
    folder: &Path,
) -> String {
    let mut text = String::new();
    for line in template.lines() {
        let Some((wanted, rest)) = line.strip_prefix('#').and_then(|line| line.split_once('#'))
        else {
            text += line;
            text.push('\n');
            continue;
        };
        if wanted.split('|').any(|one| setup.traits.contains(&one)) {
            text += rest;
            text.push('\n');
        }
    }
    let display = |path: &Path| path.display().to_string();
    let users = setup
        .users
        .map_or(String::new(), |count| format!("-{count}"));
    // More connections may be kept open than are in use at a time.
    let kept = if setup.traits.contains(&"wide") {
        "1024"
    } else {
        "128"
    };
    for (name, value) in [
        ("@PORT@", address.port().to_string()),
        ("@UPSTREAM@", upstream.to_string()),
        ("@LAB@", display(&lab.folder)),
        ("@FOLDER@", display(folder)),
        ("@PASSWORD@", crate::lab::PASSWORD.to_owned()),
        ("@BCRYPT@", lab.cheap_bcrypt.clone()),
        (
            "@LDAP@",
            lab.directory()
                .map(|address| address.to_string())
                .unwrap_or_default(),
        ),
        ("@USERS@", users),
        ("@KEPT@", kept.to_owned()),
        ("@RULES@", rules(setup)),
        ("@LOCATIONS@", locations(setup, &lab.folder)),
    ] {
        text = text.replace(name, &value);
    }
    text
}

/// A rule each for so many teams, or for so many projects of one team, or with patterns that say
/// nothing about where a name begins.
fn rules(setup: &Setup) -> String {
    let pattern = |number| match setup.traits {
        traits if traits.contains(&"one-team") => format!("team-a/project-{number}/**"),
        traits if traits.contains(&"anywhere") => format!("**/project-{number}"),
        _ => format!("group-{number}/**"),
    };
    (0..setup.rules).fold(String::new(), |mut text, number| {
        let pattern = pattern(number);
        write!(
            text,
            "[[access]]\nrepositories = [\"{pattern}\"]\nwho = [\"user:user-{number}\"]\n\
             role = \"developer\"\n\n"
        )
        .ok();
        text
    })
}

/// The like of it for nginx: a place for each team, with a file of those who may use it.
fn locations(setup: &Setup, lab: &Path) -> String {
    // In the order in which nginx sorts them, which takes it long otherwise.
    (0..setup.rules).fold(String::new(), |mut text, number| {
        writeln!(
            text,
            "location /v2/group-{number:06}/ {{ auth_basic \"registry\"; \
             auth_basic_user_file {}/htpasswd.group-{number}; proxy_pass http://registry; }}",
            lab.display()
        )
        .ok();
        text
    })
}
