//! The files in the demo's folder: made if missing, otherwise left as they are.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use portcullis::authn::htpasswd::{SOUND_COST, hash_password};
use portcullis::identity::Password;
use portcullis::tls::issue::{Authority, Validity};
use zeroize::Zeroizing;

use crate::cli::files::{self, Existing, Readers};

/// The user's name.
pub(super) const USER: &str = "demo";

const PORT: u16 = 5443;
const TEMPLATE: &str = include_str!("portcullis.toml");
const SOCKET: &str = "registry.sock";
/// Longest path in the kernel's `sockaddr_un`, without the closing zero.
const SOCKET_PATH: usize = 107;
/// Of a trial CA, and of the server's certificate so that no demo ends unasked.
const YEARS: u16 = 10;
const DAYS: u32 = 824;
/// Without 0, 1, l and o, which are misread.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A demo's folder and its configuration.
#[derive(Debug)]
pub(super) struct Setup {
    folder: PathBuf,
    /// Where the proxy listens.
    pub(super) port: u16,
    addresses: Vec<IpAddr>,
    upstream: String,
}

impl Setup {
    /// Finds the port and the registry, and writes nothing.
    pub(super) fn prepare(dir: &Path, upstream: Option<&str>, port: Option<u16>) -> Result<Self> {
        let folder = std::path::absolute(dir)?;
        ensure!(
            folder.to_str().is_some(),
            "{} is not UTF-8; choose another --dir",
            folder.display()
        );
        let config = folder.join("portcullis.toml");
        if config.exists() {
            let setup = Self::read(folder, &config)?;
            setup.agrees_with(upstream, port)?;
            return Ok(setup);
        }
        expect_empty(&folder)?;
        let upstream = match upstream {
            Some(url) => url.to_owned(),
            None => format!("unix:{}", folder.join(SOCKET).display()),
        };
        let (port, addresses) = choose_port(port)?;
        let setup = Self {
            folder,
            port,
            addresses,
            upstream,
        };
        setup.expect_usable_upstream()?;
        Ok(setup)
    }

    /// Makes the files that are missing.
    pub(super) fn make(&self) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .with_context(|| format!("cannot make the folder {}", self.folder.display()))?;
        if !self.path("server.pem").exists() {
            self.make_certificates()?;
        }
        self.share_ca()?;
        if !self.path("htpasswd").exists() {
            self.make_user()?;
        }
        if self.registry() {
            self.write("registry.yml", &self.registry_config()?, Readers::Everybody)?;
        }
        if !self.config().exists() {
            self.write("portcullis.toml", &self.config_text(), Readers::Everybody)?;
        }
        Ok(())
    }

    /// Fails if something listens where the proxy is to.
    pub(super) fn expect_free_port(&self) -> Result<()> {
        for address in &self.addresses {
            TcpListener::bind(SocketAddr::new(*address, self.port)).with_context(|| {
                format!(
                    "cannot listen on port {} of {address}; is another demo running? Otherwise \
                     change `listen` in {}",
                    self.port,
                    self.config().display()
                )
            })?;
        }
        Ok(())
    }

    /// Returns true if the registry is this demo's own.
    pub(super) fn registry(&self) -> bool {
        self.upstream.strip_prefix("unix:").map(Path::new) == Some(&self.path(SOCKET))
    }

    /// The registry's address.
    pub(super) fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The configuration file.
    pub(super) fn config(&self) -> PathBuf {
        self.path("portcullis.toml")
    }

    /// A file of the folder.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The user's password.
    pub(super) fn password(&self) -> Result<Zeroizing<String>> {
        let path = self.path("demo-password");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = Zeroizing::new(text);
        Ok(Zeroizing::new(text.trim_end().to_owned()))
    }

    fn read(folder: PathBuf, config: &Path) -> Result<Self> {
        let text = fs::read_to_string(config)
            .with_context(|| format!("cannot read {}", config.display()))?;
        let table: toml::Table = text
            .parse()
            .with_context(|| format!("{} is not TOML", config.display()))?;
        let value = |section: &str, key: &str| table.get(section).and_then(|it| it.get(key));
        let listen: Vec<SocketAddr> = value("server", "listen")
            .and_then(toml::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|address| address.as_str()?.parse().ok())
            .collect();
        let port = listen.first().map(SocketAddr::port);
        let upstream = value("upstream", "url").and_then(toml::Value::as_str);
        let missing = |key| anyhow!("{} names no {key}", config.display());
        Ok(Self {
            port: port.ok_or_else(|| missing("[server] listen with addresses and ports"))?,
            addresses: listen.iter().map(SocketAddr::ip).collect(),
            upstream: upstream
                .ok_or_else(|| missing("[upstream] url"))?
                .to_owned(),
            folder,
        })
    }

    fn agrees_with(&self, upstream: Option<&str>, port: Option<u16>) -> Result<()> {
        let config = self.config();
        if let Some(port) = port.filter(|port| *port != self.port) {
            bail!(
                "{} listens on port {}; change `listen` there instead of asking for {port}",
                config.display(),
                self.port
            );
        }
        if let Some(url) = upstream.filter(|url| *url != self.upstream) {
            bail!(
                "{} stands before {}; change `url` there instead of asking for {url}",
                config.display(),
                self.upstream
            );
        }
        Ok(())
    }

    fn expect_usable_upstream(&self) -> Result<()> {
        let known = ["http://", "https://", "unix:/"];
        ensure!(
            known.iter().any(|scheme| self.upstream.starts_with(scheme)),
            "--upstream {} is none of http://HOST:PORT, https://HOST:PORT and unix:/PATH",
            self.upstream.escape_debug()
        );
        ensure!(
            !self.registry() || self.path(SOCKET).as_os_str().len() <= SOCKET_PATH,
            "{} is too long a path for a socket; choose a shorter --dir",
            self.path(SOCKET).display()
        );
        Ok(())
    }

    fn make_certificates(&self) -> Result<()> {
        let now = Timestamp::now();
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let authority = Authority::create("Portcullis demo CA", Validity::years(now, YEARS)?)?;
        let server = authority.server(&names, Validity::days(now, DAYS)?)?;
        let ca = authority.pair();
        self.write("ca.key", &ca.key, Readers::Owner)?;
        self.write("ca.pem", &ca.certificate, Readers::Everybody)?;
        self.write("server.key", &server.key, Readers::Owner)?;
        self.write("server.pem", &server.certificate, Readers::Everybody)
    }

    /// Copies the CA's certificate to a folder of its own: skopeo and podman want one that holds
    /// nothing but what they are to use.
    fn share_ca(&self) -> Result<()> {
        if self.path("client/ca.crt").exists() {
            return Ok(());
        }
        let path = self.path("ca.pem");
        let ca =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::create_dir_all(self.path("client"))?;
        self.write("client/ca.crt", &ca, Readers::Everybody)
    }

    fn make_user(&self) -> Result<()> {
        let password = random_password()?;
        let hash = hash_password(&Password::new(&password)?, SOUND_COST)?;
        let mut line = Zeroizing::new(password.to_string());
        line.push('\n');
        self.write("demo-password", &line, Readers::Owner)?;
        self.write("htpasswd", &format!("{USER}:{hash}\n"), Readers::Owner)
    }

    // JSON's strings are YAML's and TOML's too.
    fn registry_config(&self) -> Result<String> {
        let quoted = |name: &str| serde_json::to_string(&self.path(name));
        Ok(format!(
            "# Written anew at each start.\n\
             version: 0.1\n\
             log: {{ level: warn, accesslog: {{ disabled: true }} }}\n\
             storage:\n  \
               filesystem: {{ rootdirectory: {} }}\n  \
               delete: {{ enabled: true }}\n\
             # A socket that its owner alone can open, so that nobody gets around the proxy.\n\
             http: {{ net: unix, addr: {} }}\n",
            quoted("registry")?,
            quoted(SOCKET)?,
        ))
    }

    fn config_text(&self) -> String {
        let listen: Vec<_> = self
            .addresses
            .iter()
            .map(|address| format!("\"{}\"", SocketAddr::new(*address, self.port)))
            .collect();
        TEMPLATE.replace("@LISTEN@", &listen.join(", ")).replace(
            "@UPSTREAM@",
            &toml::Value::from(&*self.upstream).to_string(),
        )
    }

    fn write(&self, name: &str, text: &str, readers: Readers) -> Result<()> {
        let path = self.path(name);
        files::write(&path, text.as_bytes(), readers, Existing::Replace)
    }
}

// A first run that broke off left some of these, but no configuration.
fn expect_empty(folder: &Path) -> Result<()> {
    let Ok(mut entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    ensure!(
        entries.next().is_none() || folder.join("ca.key").exists(),
        "{} is not empty and no demo's folder; choose another --dir",
        folder.display()
    );
    Ok(())
}

/// The port asked for, or 5443, or any; and the loopback addresses it can be had on.
fn choose_port(wanted: Option<u16>) -> Result<(u16, Vec<IpAddr>)> {
    let v4 = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = match wanted {
        Some(port) => v4(port).with_context(|| {
            format!("cannot listen on port {port}; choose another --port, or none for a free one")
        })?,
        None => v4(PORT).or_else(|_| v4(0)).context("no port is free")?,
    };
    let port = listener.local_addr()?.port();
    let mut addresses = vec![IpAddr::from(Ipv4Addr::LOCALHOST)];
    if TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok() {
        addresses.push(Ipv6Addr::LOCALHOST.into());
    }
    Ok((port, addresses))
}

/// Sixteen characters of five bits each, in fours.
fn random_password() -> Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0; 16]);
    aws_lc_rs::rand::fill(&mut *bytes).map_err(|_cause| anyhow!("no random bytes to be had"))?;
    let mut password = Zeroizing::new(String::with_capacity(19));
    for (place, byte) in bytes.iter().enumerate() {
        if place > 0 && place % 4 == 0 {
            password.push('-');
        }
        let letter = ALPHABET.get(usize::from(byte % 32)).copied();
        password.push(char::from(letter.unwrap_or_default()));
    }
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use tempfile::{TempDir, tempdir};

    fn setup(folder: &TempDir) -> Setup {
        Setup::prepare(&folder.path().join("d"), None, None).unwrap()
    }

    #[test]
    fn a_second_run_finds_everything_as_the_first_left_it() {
        let folder = tempdir().unwrap();
        let first = setup(&folder);
        first.make().unwrap();
        let contents = || {
            [
                "portcullis.toml",
                "htpasswd",
                "demo-password",
                "ca.pem",
                "server.pem",
            ]
            .map(|name| fs::read_to_string(first.path(name)).unwrap())
        };
        let before = contents();
        let second = setup(&folder);
        second.make().unwrap();
        assert_eq!(contents(), before);
        assert_eq!(second.port, first.port);
        assert_eq!(second.addresses, first.addresses);
        assert!(second.registry());
    }

    #[test]
    fn certificates_that_are_there_are_used() {
        let folder = tempdir().unwrap();
        let first = setup(&folder);
        first.make().unwrap();
        let read = |name| fs::read_to_string(first.path(name)).unwrap();
        let made = read("ca.pem");
        fs::remove_dir_all(first.path("client")).unwrap();
        fs::remove_file(first.config()).unwrap();
        setup(&folder).make().unwrap();
        assert_eq!(
            (read("ca.pem"), read("client/ca.crt")),
            (made.clone(), made)
        );
    }

    #[test]
    fn secrets_are_the_owners() {
        let folder = tempdir().unwrap();
        let setup = setup(&folder);
        setup.make().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&setup.folder), 0o700);
        for name in ["ca.key", "server.key", "demo-password", "htpasswd"] {
            assert_eq!(mode(&setup.path(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn the_password_is_random_and_fits_the_file() {
        let folder = tempdir().unwrap();
        let setup = setup(&folder);
        setup.make().unwrap();
        let password = setup.password().unwrap();
        assert_eq!(password.len(), 19);
        assert_ne!(*password, *random_password().unwrap());
        let line = fs::read_to_string(setup.path("htpasswd")).unwrap();
        let hash = line.trim_end().strip_prefix("demo:").unwrap();
        assert!(bcrypt::verify(password.as_bytes(), hash).unwrap());
    }

    #[test]
    fn the_configuration_rules_after_the_first_run() {
        let folder = tempdir().unwrap();
        let first = setup(&folder);
        first.make().unwrap();
        let dir = folder.path().join("d");
        let other = first.port.checked_add(1).unwrap();
        let error = Setup::prepare(&dir, None, Some(other)).unwrap_err();
        assert!(
            error.to_string().contains("change `listen` there"),
            "{error}"
        );
        let error = Setup::prepare(&dir, Some("http://x:1"), None).unwrap_err();
        assert!(error.to_string().contains("change `url` there"), "{error}");

        let text = fs::read_to_string(first.config()).unwrap();
        let url = toml::Value::from(&*first.upstream).to_string();
        fs::write(
            first.config(),
            text.replace(&url, "\"http://127.0.0.1:5000\""),
        )
        .unwrap();
        let changed = setup(&folder);
        assert!(!changed.registry());
        assert_eq!(changed.upstream(), "http://127.0.0.1:5000");
    }

    #[test]
    fn errors_name_the_remedy() {
        let folder = tempdir().unwrap();
        let error =
            |dir: &Path, upstream| Setup::prepare(dir, upstream, None).unwrap_err().to_string();
        let text = error(&folder.path().join("d"), Some("localhost:5000"));
        assert!(text.contains("none of http://HOST:PORT"), "{text}");
        let text = error(&folder.path().join("d".repeat(100)), None);
        assert!(text.contains("choose a shorter --dir"), "{text}");
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let text = error(folder.path(), None);
        assert!(text.contains("choose another --dir"), "{text}");
    }

    #[test]
    fn a_taken_port_is_said() {
        let folder = tempdir().unwrap();
        let setup = setup(&folder);
        setup.make().unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = fs::read_to_string(setup.config()).unwrap();
        let text = text.replace(&format!(":{}\"", setup.port), &format!(":{port}\""));
        fs::write(setup.config(), text).unwrap();
        let setup = Setup::prepare(&folder.path().join("d"), None, None).unwrap();
        let error = setup.expect_free_port().unwrap_err().to_string();
        assert!(error.contains("is another demo running?"), "{error}");
    }
}
