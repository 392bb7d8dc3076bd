//! `portcullis key`: robot keys. A key is shown once, when it is made; only its digest is stored.

mod running;
mod text;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use portcullis::authn::keys::{RobotKey, check_key_name, digest, key_pattern, new_key, robot_keys};
use portcullis::config::{Config, time_to_live};
use portcullis::identity::{CertificateField, Secret};
use portcullis::policy::Pattern;
use portcullis::whole_file::{MAX_CONFIG, read_text};
use portcullis::{report, tls};
use serde_json::{Value, json};

use self::running::Taken;
use super::config_file::{ConfigFile, load};
use super::files::edit;
use super::terminal::{error_colours, print, print_error};

/// Make, list and revoke robot keys
#[derive(Debug, clap::Args)]
pub(crate) struct Key {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a key and show it, once
    Create(Create),
    /// List the keys: rights, end and last use
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Revoke a key: it and its tokens end at once
    Revoke {
        /// The key's name
        name: String,
        #[command(flatten)]
        config: ConfigFile,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
    /// Name of the key; also the user part of its credentials
    #[arg(value_name = "NAME", value_parser = name, required_unless_present = "named")]
    name: Option<String>,

    /// The same as NAME
    #[arg(long = "name", value_name = "NAME", value_parser = name, conflicts_with = "name")]
    named: Option<String>,

    /// A built-in role (guest, developer, maintainer, admin) or one of the configuration
    #[arg(long)]
    role: String,

    /// For which repositories, as in an access rule; may be repeated
    #[arg(long = "repository", value_name = "PATTERN", required = true, value_parser = pattern)]
    repositories: Vec<String>,

    /// Lifetime: a duration such as 90d, or `never`
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = expiry)]
    expires: Expiry,

    /// From which network it can be used; may be repeated; anywhere by default
    #[arg(long = "network", value_name = "CIDR", value_parser = network)]
    networks: Vec<IpNet>,

    /// Print a docker config.json instead of the bare key
    #[arg(long, conflicts_with = "kube_secret")]
    docker_config: bool,

    /// Print a Kubernetes Secret for imagePullSecrets instead of the bare key
    #[arg(long)]
    kube_secret: bool,

    /// The Secret's namespace; without it that of the `kubectl` that applies it
    #[arg(long, value_name = "NS", value_parser = namespace, requires = "kube_secret")]
    namespace: Option<String>,

    /// The host that clients name, for the two above; by default that of `public_url`, or else the
    /// first name of the server certificate, with the port that is listened on
    #[arg(long, value_name = "HOST[:PORT]")]
    host: Option<String>,

    #[command(flatten)]
    config: ConfigFile,
}

/// Lifetime of a key; `None` has no end.
#[derive(Clone, Copy, Debug)]
struct Expiry(Option<SignedDuration>);

fn name(text: &str) -> Result<String, String> {
    check_key_name(text).map(|()| text.to_owned())
}

fn pattern(text: &str) -> Result<String, String> {
    key_pattern(text).map(|_| text.to_owned())
}

/// A label of RFC 1123, as Kubernetes wants it of a namespace.
fn namespace(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits = text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-');
    if fits && (1..=63).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err("a namespace has at most 63 small letters and digits, and - between them".to_owned())
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    let network = text.parse::<IpNet>().or_else(|_not_a_network| address());
    let network = network
        .map_err(|_neither| "write a network such as 10.0.0.0/8, or an address".to_owned())?;
    if network.trunc() != network {
        return Err(format!("write {}", network.trunc()));
    }
    Ok(network)
}

fn expiry(text: &str) -> Result<Expiry, String> {
    match time_to_live(text)? {
        None => Ok(Expiry(None)),
        Some(time) if time.is_zero() => Err("a key that has expired already".to_owned()),
        Some(time) => {
            let time = SignedDuration::try_from(time).map_err(|error| error.to_string())?;
            Ok(Expiry(Some(time)))
        }
    }
}

impl Key {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let path = match &self.action {
            Action::Create(create) => &create.config.config,
            Action::List { config, .. } | Action::Revoke { config, .. } => &config.config,
        };
        let (config, _warnings) = match load(path) {
            Ok(loaded) => loaded,
            Err(code) => return Ok(code),
        };
        match self.action {
            Action::Create(create) => create.run(&config, Timestamp::now())?,
            Action::List { json, .. } => list(&config, json, Timestamp::now())?,
            Action::Revoke { name, .. } => {
                revoke(&config, &name)?;
                let taken = Taken::by_the_server(&config);
                print_error(&format!("revoked key `{name}`\n{}", taken.after_revoking()));
                if taken != Taken::Yes {
                    running::warn_if_unreadable(&config);
                }
                if matches!(taken, Taken::Not(_)) {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Create {
    /// One of the two is there, as the parser sees to.
    fn name(&self) -> &str {
        let name = self.name.as_deref().or(self.named.as_deref());
        name.unwrap_or_default()
    }

    fn run(&self, config: &Config, now: Timestamp) -> Result<()> {
        // Before anything is written: a key that cannot be shown is lost.
        let host = self.host(config)?;
        let key = new_key()?;
        let entry = self.entry(key.expose(), now)?;
        let file = &config.auth.keys;
        edit(file, Some(&config.file), |old| {
            self.added(old, &entry, config)
        })?;
        let told = match host {
            None => format!("{}\n", key.expose()),
            Some(host) if self.kube_secret => {
                kube_secret(self.name(), self.namespace.as_deref(), &host, &key)
            }
            Some(host) => format!("{:#}\n", docker_config(self.name(), &host, &key)),
        };
        print(&told).with_context(|| {
            let name = self.name();
            format!("the key is lost; portcullis key revoke {name}, and make another")
        })?;
        let end = self.end(now)?.map_or_else(
            || "for ever".to_owned(),
            |end| format!("until {}", end.strftime("%F")),
        );
        let (name, shown) = (self.name(), file.display());
        let taken = Taken::by_the_server(config);
        print_error(&format!(
            "made key `{name}` in {shown}, good {end}\n\
             This is the only time it is shown. User name: {name}. Password: the key.\n\
             {}",
            taken.after_making()
        ));
        if taken != Taken::Yes {
            running::warn_if_unreadable(config);
        }
        Ok(())
    }

    fn host(&self, config: &Config) -> Result<Option<String>> {
        if !self.docker_config && !self.kube_secret {
            return Ok(None);
        }
        let public = config.server.public_authority.as_deref();
        let host = self.host.as_deref().or(public).map(str::to_owned);
        let host = host
            .or_else(|| certified(config))
            .context("no host is known: name it with --host, or set `public_url`")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if host.is_empty() || !host.chars().all(fits) {
            bail!("{host:?} is no host; write HOST or HOST:PORT, without https://");
        }
        Ok(Some(host))
    }

    fn end(&self, now: Timestamp) -> Result<Option<Timestamp>> {
        let end = self.expires.0.map(|time| now.checked_add(time));
        end.transpose().context("the key would last too long")
    }

    fn entry(&self, key: &str, now: Timestamp) -> Result<text::Entry<'_>> {
        Ok(text::Entry {
            name: self.name(),
            digest: digest(key),
            role: &self.role,
            repositories: &self.repositories,
            networks: &self.networks,
            created: now,
            expires: self.end(now)?,
        })
    }

    fn added(
        &self,
        old: Option<&[u8]>,
        entry: &text::Entry<'_>,
        config: &Config,
    ) -> Result<Vec<u8>> {
        let old = std::str::from_utf8(old.unwrap_or_default())
            .with_context(|| format!("{} is not text", config.auth.keys.display()))?;
        let known = parsed(old, config)?;
        if known.iter().any(|key| *key.name == *self.name()) {
            let name = self.name();
            bail!("there is a key `{name}` already; choose another name, or revoke it first");
        }
        let new = text::add(old, entry);
        // Also finds a role that does not exist.
        parsed(&new, config)?;
        Ok(new.into_bytes())
    }
}

/// The first name of the server certificate, with the port that is listened on unless it is https's.
fn certified(config: &Config) -> Option<String> {
    let chain = tls::certificates(&config.tls.certificate).ok()?;
    let names = tls::read_certificate(&chain)?.names.into_iter();
    let mut hosts = names.filter_map(|(field, name)| match field {
        CertificateField::SanDns => name.filter(|name| !name.contains('*')),
        CertificateField::SanEmail
        | CertificateField::SanUri
        | CertificateField::SubjectCn
        | CertificateField::SubjectO
        | CertificateField::SubjectOu => None,
    });
    let host = hosts.next()?;
    Some(match config.server.listen.first()?.port() {
        443 => host,
        port => format!("{host}:{port}"),
    })
}

fn revoke(config: &Config, name: &str) -> Result<()> {
    let shown = config.auth.keys.display();
    edit(&config.auth.keys, Some(&config.file), |old| {
        let old =
            old.ok_or_else(|| anyhow!("there is no key `{name}`: there is no file {shown}"))?;
        let old = std::str::from_utf8(old).with_context(|| format!("{shown} is not text"))?;
        let known = parsed(old, config)?;
        let key = known.iter().find(|key| &*key.name == name);
        let key = key.with_context(|| format!("there is no key `{name}` in {shown}"))?;
        let new = match text::without(old, key.line) {
            // An empty file is taken for one that is being written.
            nothing if nothing.is_empty() => text::HEAD.to_owned(),
            some => some,
        };
        let left = parsed(&new, config)?;
        let others = known.iter().filter(|key| &*key.name != name);
        if !others
            .map(|key| &key.name)
            .eq(left.iter().map(|key| &key.name))
        {
            bail!("{shown} is not laid out as this command writes it; remove the key by hand");
        }
        Ok(new.into_bytes())
    })
}

/// The keys of a text, or everything that is wrong with it.
fn parsed(text: &str, config: &Config) -> Result<Vec<RobotKey>> {
    robot_keys(text, &config.auth.keys, &config.roles)
        .map_err(|errors| anyhow!("{}", errors.render(error_colours())))
}

/// The content of docker's `~/.docker/config.json`.
fn docker_config(name: &str, host: &str, key: &Secret<String>) -> Value {
    let auth = STANDARD.encode(format!("{name}:{}", key.expose()));
    json!({ "auths": { host: { "auth": auth } } })
}

/// The same for `imagePullSecrets`.
fn kube_secret(name: &str, namespace: Option<&str>, host: &str, key: &Secret<String>) -> String {
    let config = STANDARD.encode(docker_config(name, host, key).to_string());
    let object = object_name(name);
    let namespace = namespace.map(|namespace| format!("  namespace: \"{namespace}\"\n"));
    let namespace = namespace.unwrap_or_default();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: \"{object}\"\n{namespace}\
         type: kubernetes.io/dockerconfigjson\ndata:\n  .dockerconfigjson: {config}\n"
    )
}

/// A key's name as Kubernetes takes it for an object: a subdomain of RFC 1123, whose labels have small
/// letters, digits and, between them, `-`. A key's name has a letter or digit at both ends.
fn object_name(key: &str) -> String {
    let small = key.to_ascii_lowercase().replace('_', "-");
    let labels = small.split('.').map(|label| label.trim_matches('-'));
    let labels: Vec<_> = labels.filter(|label| !label.is_empty()).collect();
    labels.join(".")
}

/// One line of the list.
struct Row {
    key: RobotKey,
    last_use: Option<Timestamp>,
}

fn list(config: &Config, as_json: bool, now: Timestamp) -> Result<()> {
    let rows = rows(config)?;
    if as_json {
        let rows: Value = rows.iter().map(|row| row.json(now)).collect();
        return print(&format!("{rows:#}\n"));
    }
    if rows.is_empty() {
        print_error(&format!("no keys in {}", config.auth.keys.display()));
        return Ok(());
    }
    let head = [
        "NAME",
        "ROLE",
        "REPOSITORIES",
        "NETWORKS",
        "CREATED",
        "EXPIRES",
        "LAST USE",
    ];
    let table =
        std::iter::once(head.map(str::to_owned)).chain(rows.iter().map(|row| row.cells(now)));
    print(&aligned(&table.collect::<Vec<_>>()))
}

fn rows(config: &Config) -> Result<Vec<Row>> {
    let file = &config.auth.keys;
    let text = match read_text(file, MAX_CONFIG) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let keys = parsed(&text, config)?;
    let mut used = report::last_key_uses(Path::new(&config.audit.file));
    let row = |key: RobotKey| Row {
        last_use: used.remove(&*key.name),
        key,
    };
    Ok(keys.into_iter().map(row).collect())
}

impl Row {
    fn json(&self, now: Timestamp) -> Value {
        let own = &self.key.confinement;
        let texts = |items: Vec<String>| Value::from(items);
        json!({
            "name": &*self.key.name,
            "role": &*self.key.role,
            "repositories": texts(own.repositories.iter().map(|p| p.as_str().to_owned()).collect()),
            "networks": texts(own.networks.iter().map(ToString::to_string).collect()),
            "created": self.key.created.map(|time| time.to_string()),
            "expires": own.expires.map(|time| time.to_string()),
            "expires_in_days": own.expires.map(|end| days(end, now)),
            "expired": own.is_over(now),
            "last_use": self.last_use.map(|time| time.to_string()),
        })
    }

    fn cells(&self, now: Timestamp) -> [String; 7] {
        let own = &self.key.confinement;
        let date = |time: Timestamp| time.strftime("%F").to_string();
        let patterns: Vec<_> = own.repositories.iter().map(Pattern::as_str).collect();
        let networks: Vec<_> = own.networks.iter().map(ToString::to_string).collect();
        [
            self.key.name.to_string(),
            self.key.role.to_string(),
            patterns.join(","),
            if networks.is_empty() {
                "anywhere".to_owned()
            } else {
                networks.join(",")
            },
            self.key.created.map_or_else(|| "unknown".to_owned(), date),
            match own.expires {
                None => "never".to_owned(),
                Some(_) if own.is_over(now) => "EXPIRED".to_owned(),
                Some(end) => match days(end, now) {
                    0 => "today".to_owned(),
                    1 => "in 1 day".to_owned(),
                    more => format!("in {more} days"),
                },
            },
            self.last_use
                .map_or_else(|| "unknown".to_owned(), |time| format!("{time:.0}")),
        ]
    }
}

/// Whole days that are left.
fn days(end: Timestamp, now: Timestamp) -> i64 {
    const DAY: i64 = 24 * 60 * 60;
    let left = end.duration_since(now).as_secs().max(0);
    left.checked_div(DAY).unwrap_or_default()
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    for row in rows {
        for (width, cell) in widths.iter().zip(row) {
            let space = width.saturating_sub(cell.chars().count()).saturating_add(2);
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', space));
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;
    use jiff::Timestamp;
    use portcullis::config::Config;

    use super::{
        Action, Create, Key, aligned, docker_config, kube_secret, object_name, revoke, rows,
    };
    use tempfile::{TempDir, tempdir};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        key: Key,
    }

    fn create(arguments: &str) -> Result<Create, clap::Error> {
        let words = format!("key create {arguments}");
        match Line::try_parse_from(words.split(' '))?.key.action {
            Action::Create(create) => Ok(create),
            Action::List { .. } | Action::Revoke { .. } => panic!("{arguments}"),
        }
    }

    fn config(folder: &TempDir) -> Config {
        let text = r#"
tls = { certificate = "c", private_key = "k" }
upstream.url = "http://127.0.0.1:5000"
[roles]
ci = ["pull", "push"]
"#;
        let path = folder.path().join("portcullis.toml");
        Config::parse(text, &path, &|_| None).unwrap().0
    }

    fn make(config: &Config, arguments: &str) -> anyhow::Result<()> {
        let create = create(arguments).unwrap();
        let entry = create.entry("pcl_x", now()).unwrap();
        super::edit(&config.auth.keys, None, |old| {
            create.added(old, &entry, config)
        })
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn keys_are_made_listed_and_revoked() {
        let folder = tempdir().unwrap();
        let config = config(&folder);
        make(
            &config,
            "--name ci --role ci --repository team-a/** --repository b --network 10.0.0.0/8",
        )
        .unwrap();
        make(
            &config,
            "--name mirror --role guest --repository ** --expires never",
        )
        .unwrap();
        make(
            &config,
            "--name old --role guest --repository ** --expires 36h",
        )
        .unwrap();
        let file = folder.path().join("keys.toml");
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!fs::read_to_string(&file).unwrap().contains("pcl_x"));
        let shown = |when: Timestamp| -> String {
            let rows: Vec<_> = rows(&config)
                .unwrap()
                .iter()
                .map(|r| r.cells(when))
                .collect();
            aligned(&rows)
        };
        insta::assert_snapshot!(shown(now()), @r"
        ci      ci     team-a/**,b  10.0.0.0/8  2026-06-01  in 90 days  unknown
        mirror  guest  **           anywhere    2026-06-01  never       unknown
        old     guest  **           anywhere    2026-06-01  in 1 day    unknown
        ");
        let later = "2026-07-01T00:00:00Z".parse().unwrap();
        assert!(shown(later).lines().nth(2).unwrap().contains("EXPIRED"));
        let json = rows(&config).unwrap()[0].json(now());
        assert_eq!(json["expires_in_days"], 90);
        assert_eq!(json["networks"][0], "10.0.0.0/8");

        revoke(&config, "mirror").unwrap();
        let names: Vec<_> = rows(&config)
            .unwrap()
            .into_iter()
            .map(|r| r.key.name)
            .collect();
        assert_eq!(names, ["ci".into(), "old".into()] as [Box<str>; 2]);
        let gone = revoke(&config, "mirror").unwrap_err().to_string();
        assert!(gone.starts_with("there is no key `mirror`"), "{gone}");
    }

    #[test]
    fn what_cannot_be_made_changes_nothing() {
        let folder = tempdir().unwrap();
        let config = config(&folder);
        make(&config, "--name ci --role ci --repository a/**").unwrap();
        let file = folder.path().join("keys.toml");
        let before = fs::read_to_string(&file).unwrap();
        for (arguments, word) in [
            ("--name ci --role guest --repository b", "already"),
            ("--name x --role develper --repository b", "developer"),
        ] {
            let error = make(&config, arguments).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), before);
        }
        fs::write(&file, "[[key]\n").unwrap();
        let error = make(&config, "--name x --role guest --repository b").unwrap_err();
        assert!(error.to_string().contains("keys.toml:1"), "{error}");
        assert!(revoke(&config, "ci").is_err());
    }

    #[test]
    fn the_command_line_is_strict() {
        assert!(create("--name ci --role guest --repository a/**").is_ok());
        for wrong in [
            "--name ci --role guest",
            "--name ci --repository a",
            "--name c:i --role guest --repository a",
            "--name ci --role guest --repository A",
            "--name ci --role guest --repository home/${user}",
            "--name ci --role guest --repository a --network 10.0.0.1/8",
            "--name ci --role guest --repository a --expires 90",
            "--name ci --role guest --repository a --expires 0s",
            "--name ci --role guest --repository a --docker-config --kube-secret",
            "--name ci --role guest --repository a --namespace prod",
            "--name ci --role guest --repository a --kube-secret --namespace Prod",
            "--name ci --role guest --repository a --kube-secret --namespace a.b",
            "--name ci --role guest --repository a --kube-secret --namespace a-",
        ] {
            assert!(create(wrong).is_err(), "{wrong}");
        }
        let folder = tempdir().unwrap();
        let config = config(&folder);
        let host = |more: &str| {
            let line = format!("--name ci --role guest --repository a {more}");
            create(line.trim_end()).unwrap().host(&config)
        };
        assert_eq!(host("").unwrap(), None);
        let error = host("--docker-config").unwrap_err().to_string();
        assert!(error.contains("--host"), "{error}");
        assert!(host("--docker-config --host https://r").is_err());
        let named = host("--kube-secret --host r.example.com:5000").unwrap();
        assert_eq!(named.as_deref(), Some("r.example.com:5000"));
    }

    #[test]
    fn what_clients_need_is_written_as_they_read_it() {
        let key = portcullis::identity::Secret::new("pcl_x".to_owned());
        assert!(!kube_secret("ci", None, "r", &key).contains("namespace"));
        for (name, object) in [
            ("ci", "ci"),
            ("Team_CI", "team-ci"),
            ("a._b", "a.b"),
            ("a_.-_.b", "a.b"),
            ("a..b", "a.b"),
            ("a-.b", "a.b"),
            ("1__2", "1--2"),
        ] {
            assert_eq!(object_name(name), object);
        }
        let docker = docker_config("ci", "r.example.com", &key);
        // echo -n ci:pcl_x | base64
        assert_eq!(docker["auths"]["r.example.com"]["auth"], "Y2k6cGNsX3g=");
        insta::assert_snapshot!(kube_secret("Team_ci", Some("prod"), "r.example.com", &key), @r#"
        apiVersion: v1
        kind: Secret
        metadata:
          name: "team-ci"
          namespace: "prod"
        type: kubernetes.io/dockerconfigjson
        data:
          .dockerconfigjson: eyJhdXRocyI6eyJyLmV4YW1wbGUuY29tIjp7ImF1dGgiOiJWR1ZoYlY5amFUcHdZMnhmZUE9PSJ9fX0=
        "#);
    }
}
