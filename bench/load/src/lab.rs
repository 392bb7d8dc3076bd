//! Everything around the proxies: certificates, users, the stub, the real registry, a directory.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs as crypto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::client::{Call, Http, Route, location};
use crate::content::{CONFIG, Content, REPOSITORY, name};
use crate::peers::Upstream;
use crate::process::Server;
use crate::stub::{self, Sent};

/// Who the requests come from, and everybody's password.
pub(crate) const USER: &str = "alice";
pub(crate) const PASSWORD: &str = "correct-horse-7";
/// Users `user-0`... whose logins are measured.
pub(crate) const FILE_USERS: usize = 10_000;
pub(crate) const LDAP_USERS: usize = 20_000;

pub(crate) struct Lab {
    pub(crate) folder: PathBuf,
    pub(crate) portcullis: PathBuf,
    pub(crate) content: Arc<Content>,
    /// The password hashed as Caddy, which knows only bcrypt, gets it cheapest.
    pub(crate) cheap_bcrypt: String,
    stub: (Server, SocketAddr),
    registry: Option<(Server, SocketAddr)>,
    directory: OnceLock<(Server, SocketAddr)>,
    folders: AtomicUsize,
    /// How many users have logged in for the first time already.
    pub(crate) next_file_user: AtomicUsize,
    pub(crate) next_ldap_user: AtomicUsize,
}

impl Lab {
    /// Everything but the real registry and the directory.
    pub(crate) fn start(portcullis: PathBuf) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("portcullis-load-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        // Apache's workers are another user.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        write_certificates(&folder)?;
        write_users(&folder)?;
        let content = Arc::new(Content::new());
        let stub = start_stub(&folder)?;
        Ok(Self {
            folder,
            portcullis,
            content,
            cheap_bcrypt: bcrypt::hash(PASSWORD, 4)?,
            stub,
            registry: None,
            directory: OnceLock::new(),
            folders: AtomicUsize::new(0),
            next_file_user: AtomicUsize::new(0),
            next_ldap_user: AtomicUsize::new(0),
        })
    }

    /// Starts the real registry, where there is one, and pushes into it.
    pub(crate) async fn start_registry(&mut self) -> Result<()> {
        self.registry = start_registry(&self.folder)?;
        if let Some((_, address)) = &self.registry {
            let filled = fill(*address, &self.content).await;
            filled.context("cannot push to the registry")?;
        }
        Ok(())
    }

    pub(crate) fn has_registry(&self) -> bool {
        self.registry.is_some()
    }

    pub(crate) fn upstream(&self, which: Upstream) -> SocketAddr {
        match (which, &self.registry) {
            (Upstream::Registry, Some((_, address))) => *address,
            (Upstream::Registry | Upstream::Stub, _) => self.stub.1,
        }
    }

    pub(crate) fn upstream_server(&self, which: Upstream) -> &Server {
        match (which, &self.registry) {
            (Upstream::Registry, Some((server, _))) => server,
            (Upstream::Registry | Upstream::Stub, _) => &self.stub.0,
        }
    }

    pub(crate) fn new_folder(&self, name: &str) -> Result<PathBuf> {
        let number = self.folders.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.join(format!("{name}-{number}"));
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// A client's TLS: 1.3, X25519 and AES-128-GCM, as docker's comes to use with every peer; no
    /// session is kept, and a certificate is shown where the set-up is about certificates.
    pub(crate) fn tls(&self, traits: &[&str]) -> Result<ClientConfig> {
        client_config(&self.folder, traits.contains(&"certificate"))
    }

    /// The directory, started when first asked for.
    pub(crate) fn start_directory(&self) -> Result<()> {
        if self.directory.get().is_none() {
            self.directory.set(start_directory(&self.folder)?).ok();
        }
        Ok(())
    }

    /// Files of so many users; the one whose requests are measured stands in the middle. As with the
    /// others, nginx compares plain text, and all users of Portcullis have one hash.
    pub(crate) fn write_many_users(&self, count: usize) -> Result<()> {
        let ours = self.folder.join(format!("htpasswd-{count}"));
        if ours.exists() {
            return Ok(());
        }
        let hash = fs::read_to_string(self.folder.join("htpasswd"))?;
        let hash = hash.lines().find_map(|line| line.split_once(':'));
        let (_, hash) = hash.context("no user")?;
        let write = |path: &Path, hash: &str| {
            let mut text = String::new();
            for number in 0..count {
                let is_middle = number == count / 2;
                let name = format!("user-{number}");
                writeln!(text, "{}:{hash}", if is_middle { USER } else { &name })?;
            }
            Ok(fs::write(path, text)?)
        };
        write(
            &self.folder.join(format!("htpasswd.plain-{count}")),
            &format!("{{PLAIN}}{PASSWORD}"),
        )?;
        write(&ours, hash)
    }

    pub(crate) fn directory(&self) -> Option<SocketAddr> {
        self.directory.get().map(|(_, address)| *address)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// A port that nobody listens on, below those that outgoing connections take.
pub(crate) fn free_address() -> Result<SocketAddr> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..10_000 {
        let step = std::process::id() as usize * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(step % 20_000)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port")
}

fn start_stub(folder: &Path) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([stub::COMMAND, &address.to_string()]);
    Ok((
        Server::start(&mut command, &folder.join("stub.log"), address)?,
        address,
    ))
}

fn start_registry(folder: &Path) -> Result<Option<(Server, SocketAddr)>> {
    let programs = [
        "/usr/bin/docker-registry",
        "/usr/local/bin/registry",
        "/usr/bin/registry",
    ];
    let Some(program) = programs.into_iter().find(|path| Path::new(path).exists()) else {
        return Ok(None);
    };
    let address = free_address()?;
    let config = folder.join("registry.yml");
    let storage = folder.join("storage");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
         storage: {{filesystem: {{rootdirectory: '{}'}}}}\n\
         http: {{addr: '{address}', secret: of-this-bench}}\n",
        storage.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg(config)
        .env("OTEL_TRACES_EXPORTER", "none");
    Ok(Some((
        Server::start(&mut command, &folder.join("registry.log"), address)?,
        address,
    )))
}

/// Puts into the real registry what the stub has by itself.
async fn fill(registry: SocketAddr, content: &Content) -> Result<()> {
    let route = Route {
        address: registry,
        tls: None,
    };
    let mut connection = route.dial(Http::One).connect().await?;
    let config = Bytes::from_static(CONFIG);
    let digest = name(digest(&SHA256, &config).as_ref());
    for (digest, body) in [
        (digest, Sent::whole(config)),
        (content.blob.clone(), Sent::blob(content)),
    ] {
        let mut call = Call::get(format!("/v2/{REPOSITORY}/blobs/uploads/")).expecting(202);
        call.method = Method::POST;
        let upload = location(&connection.ask(&call).await?)?;
        let mut call = Call::get(format!("{upload}&digest={digest}")).expecting(201);
        call.method = Method::PUT;
        connection.send(&call, body).await?;
    }
    let mut call = Call::get(format!("/v2/{REPOSITORY}/manifests/latest")).expecting(201);
    call.method = Method::PUT;
    call.content_type = Some(crate::content::MANIFEST_TYPE);
    connection
        .send(&call, Sent::whole(content.manifest.clone()))
        .await?;
    connection.ask(&Call::manifest(content)).await.map(drop)
}

fn write_certificates(folder: &Path) -> Result<()> {
    let params = |name: &str, sans: &[&str]| -> Result<CertificateParams> {
        let sans: Vec<_> = sans.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(sans)?;
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2049, 1, 1);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params)
    };
    let mut authority = params("Bench CA", &[])?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // rcgen's default is ECDSA with P-256.
    let key = KeyPair::generate()?;
    fs::write(folder.join("ca.pem"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let kinds = [
        (
            "server",
            "localhost",
            &["localhost", "127.0.0.1"][..],
            ExtendedKeyUsagePurpose::ServerAuth,
        ),
        ("client", USER, &[][..], ExtendedKeyUsagePurpose::ClientAuth),
    ];
    for (file, name, sans, usage) in kinds {
        let mut params = params(name, sans)?;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        fs::write(folder.join(format!("{file}.key")), key.serialize_pem())?;
        // haproxy wants both in one file.
        fs::write(
            folder.join(format!("{file}.both")),
            certificate.clone() + &key.serialize_pem(),
        )?;
        fs::write(folder.join(format!("{file}.pem")), certificate)?;
    }
    Ok(())
}

fn client_config(folder: &Path, shows_certificate: bool) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let mut provider = crypto::default_provider();
    provider.kx_groups = vec![crypto::kx_group::X25519];
    provider.cipher_suites = vec![crypto::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots);
    let mut config = if shows_certificate {
        let chain = vec![CertificateDer::from_pem_file(folder.join("client.pem"))?];
        let key = PrivateKeyDer::from_pem_file(folder.join("client.key"))?;
        builder.with_client_auth_cert(chain, key)?
    } else {
        builder.with_no_client_auth()
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// The same users for everybody, hashed as each peer checks it cheapest: Portcullis, which hashes
/// once, has bcrypt of cost 10; so has nginx in `htpasswd.nginx-bcrypt`.
fn write_users(folder: &Path) -> Result<()> {
    let hash = bcrypt::hash(PASSWORD, 10)?;
    let mut everybody = format!("{USER}:{hash}\n");
    for number in 0..FILE_USERS {
        writeln!(everybody, "user-{number}:{hash}")?;
    }
    fs::write(folder.join("htpasswd"), &everybody)?;
    // OpenSSL's and glibc's crypt know the scheme by this name.
    let bcrypt = everybody
        .replace("$2b$", "$2y$")
        .replace(&format!("{USER}:"), "someone:");
    let plain = format!("{USER}:{{PLAIN}}{PASSWORD}\n");
    fs::write(
        folder.join("htpasswd.nginx-bcrypt"),
        plain.clone() + &bcrypt,
    )?;
    fs::write(folder.join("htpasswd.plain"), plain)?;
    let sha = digest(&SHA1_FOR_LEGACY_USE_ONLY, PASSWORD.as_bytes());
    let sha = base64::engine::general_purpose::STANDARD.encode(sha.as_ref());
    fs::write(
        folder.join("htpasswd.sha"),
        format!("{USER}:{{SHA}}{sha}\n"),
    )?;
    fs::write(folder.join("ldap.password"), PASSWORD)?;
    Ok(())
}

/// `slapd` with TLS and many users.
fn start_directory(folder: &Path) -> Result<(Server, SocketAddr)> {
    let address = free_address()?;
    fs::create_dir_all(folder.join("slapd"))?;
    let config = folder.join("slapd.conf");
    let text = include_str!("../peers/slapd.conf").replace("@LAB@", &folder.display().to_string());
    fs::write(&config, text)?;
    let mut people = "dn: dc=example,dc=com\nobjectClass: dcObject\nobjectClass: organization\n\
                      dc: example\no: Example\n\n\
                      dn: ou=people,dc=example,dc=com\nobjectClass: organizationalUnit\n\
                      ou: people\n\n"
        .to_owned();
    for number in 0..LDAP_USERS {
        write!(
            people,
            "dn: uid=person-{number},ou=people,dc=example,dc=com\nobjectClass: inetOrgPerson\n\
             uid: person-{number}\ncn: Person {number}\nsn: Example\nuserPassword: {PASSWORD}\n\n"
        )?;
    }
    let ldif = folder.join("people.ldif");
    fs::write(&ldif, people)?;
    let added = Command::new("/usr/sbin/slapadd")
        .args(["-q", "-f"])
        .arg(&config)
        .arg("-l")
        .arg(&ldif)
        .stderr(Stdio::piped())
        .output()
        .context("slapadd; bench/install-peers installs it")?;
    ensure!(
        added.status.success(),
        "slapadd: {}",
        String::from_utf8_lossy(&added.stderr)
    );
    let mut command = Command::new("/usr/sbin/slapd");
    command
        .arg("-f")
        .arg(&config)
        .args(["-d", "0", "-h", &format!("ldaps://{address}/")]);
    Ok((
        Server::start(&mut command, &folder.join("slapd.log"), address)?,
        address,
    ))
}
