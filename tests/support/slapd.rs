//! A real directory server with people in it, and a false one that says whatever a test wants.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::folder::Folder;
use super::pki::Pki;
use super::process::Service;

pub(crate) const ADMIN: &str = "cn=admin,dc=example,dc=com";
const ADMIN_PASSWORD: &str = "secret-of-admin";
pub(crate) const SERVICE: &str = "cn=portcullis,dc=example,dc=com";
pub(crate) const SERVICE_PASSWORD: &str = "secret-of-portcullis";

/// People, and groups of every kind. `alice` has another password than in the htpasswd file.
const PEOPLE: &str = r"dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit
ou: groups

dn: cn=portcullis,dc=example,dc=com
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: portcullis
userPassword: secret-of-portcullis

dn: uid=erin,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: posixAccount
uid: erin
cn: Erin
sn: Example
mail: erin@example.com
uidNumber: 5001
gidNumber: 5000
homeDirectory: /home/erin
userPassword: pw-of-erin-Xy7

dn: uid=frank,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: frank
cn: Frank
sn: Example
userPassword: pw-of-frank-Xy7

dn: uid=alice,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: alice
cn: Another Alice
sn: Example
userPassword: pw-of-another-alice

dn: cn=Bob\2C jr (x)*,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob, jr (x)*
cn: Bob, jr (x)*
sn: Example
userPassword: pw-of-bob-jr

dn: cn=one,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: twin
cn: one
sn: Example
userPassword: pw-of-twin-Xy7

dn: cn=two,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: twin
cn: two
sn: Example
userPassword: pw-of-twin-Xy7

dn: cn=many names,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: janus
uid: janus2
cn: many names
sn: Example
userPassword: pw-of-janus-Xy7

dn: cn=team-l,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: team-l
description: admins
member: uid=erin,ou=people,dc=example,dc=com
member: cn=Bob\2C jr (x)*,ou=people,dc=example,dc=com

dn: cn=everybody-l,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: everybody-l
member: cn=team-l,ou=groups,dc=example,dc=com
member: cn=circle-l,ou=groups,dc=example,dc=com

dn: cn=circle-l,ou=groups,dc=example,dc=com
objectClass: groupOfNames
cn: circle-l
member: cn=everybody-l,ou=groups,dc=example,dc=com

dn: cn=unix-l,ou=groups,dc=example,dc=com
objectClass: posixGroup
cn: unix-l
gidNumber: 6000
memberUid: erin

dn: cn=primary-l,ou=groups,dc=example,dc=com
objectClass: posixGroup
cn: primary-l
gidNumber: 5000
";

pub(crate) struct Slapd {
    pub(crate) service: Service,
    folder: Folder,
}

impl Slapd {
    pub(crate) async fn start() -> Self {
        let folder = Folder::new();
        let pki = Pki::new();
        let server = pki.server();
        folder.write("ca.pem", &pki.ca);
        folder.write("server.pem", &server.certificate);
        folder.write("server.key", &server.key);
        folder.write("service.key", SERVICE_PASSWORD);
        std::fs::create_dir(folder.join("db")).unwrap();
        folder.write("slapd.conf", config(&folder));
        let mut slapd = Self {
            service: Service::on_free_ports(),
            folder,
        };
        loop {
            // Somebody else may have been faster on these ports.
            if slapd.try_run().await {
                slapd.change("-a", PEOPLE);
                return slapd;
            }
            slapd.service = Service::on_free_ports();
        }
    }

    /// Starts it again on its own ports.
    pub(crate) async fn restart(&mut self) {
        assert!(self.try_run().await, "slapd did not start again");
    }

    async fn try_run(&mut self) -> bool {
        let urls = format!("{}/ {}/", self.plain_url(), self.tls_url());
        let mut command = Command::new(program());
        command
            .arg("-f")
            .arg(self.folder.join("slapd.conf"))
            .args(["-d", "0", "-h", &urls]);
        let log = self.folder.join("slapd.log");
        self.service.run(&mut command, &log).await
    }

    pub(crate) fn plain_url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.service.plain)
    }

    pub(crate) fn tls_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.service.tls)
    }

    /// `[auth.ldap]`, over TLS, with `more` lines.
    pub(crate) fn section(&self, more: &str) -> String {
        self.section_of(&[&self.tls_url()], more)
    }

    pub(crate) fn section_of(&self, urls: &[&str], more: &str) -> String {
        let folder = self.folder.path().display();
        format!(
            "[auth.ldap]\n\
             urls = {urls:?}\n\
             ca = '{folder}/ca.pem'\n\
             bind_dn = '{SERVICE}'\n\
             bind_password_file = '{folder}/service.key'\n\
             user_base = 'ou=people,dc=example,dc=com'\n\
             {more}\n"
        )
    }

    /// Changes entries, as LDIF says.
    pub(crate) fn modify(&self, ldif: &str) {
        self.change("-c", ldif);
    }

    fn change(&self, how: &str, ldif: &str) {
        let mut child = Command::new("ldapmodify")
            .args([
                how,
                "-x",
                "-H",
                &self.plain_url(),
                "-D",
                ADMIN,
                "-w",
                ADMIN_PASSWORD,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ldapmodify; tests/install-deps installs it");
        child
            .stdin
            .take()
            .unwrap()
            .write_all(ldif.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn program() -> &'static str {
    // Outside of the PATH of those who are not root.
    let known = [
        "/usr/sbin/slapd",
        "/usr/libexec/slapd",
        "/usr/lib/openldap/slapd",
    ];
    let found = known
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    found.expect("no slapd; tests/install-deps installs it")
}

fn config(folder: &Folder) -> String {
    let schemas = ["core", "cosine", "nis", "inetorgperson"];
    let schemas = schemas.map(|name| format!("include /etc/ldap/schema/{name}.schema"));
    let schemas = schemas.join("\n");
    let folder = folder.path().display();
    format!(
        r#"{schemas}
pidfile {folder}/slapd.pid
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload ppolicy
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/server.pem
TLSCertificateKeyFile {folder}/server.key
database mdb
suffix "dc=example,dc=com"
rootdn "{ADMIN}"
rootpw {ADMIN_PASSWORD}
directory {folder}/db
maxsize 16777216
dbnosync
index objectClass,uid eq
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{SERVICE}" read by * none
overlay memberof
memberof-refint TRUE
overlay ppolicy
"#
    )
}

/// A server that is not what it should be: for each message it is sent, `answer` says what to send
/// back, given the number of the message and the tag of its operation.
pub(crate) struct FalseDirectory {
    pub(crate) address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

pub(crate) type Answers = dyn Fn(u8, u8) -> Vec<u8> + Send + Sync;

impl FalseDirectory {
    pub(crate) async fn start(answer: impl Fn(u8, u8) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer: Arc<Answers> = Arc::new(answer);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut message = [0; 4096];
                    while let Ok(count @ 6..) = stream.read(&mut message).await {
                        // Requests are short here: one byte of length, one of number.
                        let long = usize::from(message[1] > 0x80) * usize::from(message[1] & 0x7f);
                        let number = message[4 + long];
                        let operation = message[5 + long];
                        let sent = answer(number, operation);
                        if count == 0 || stream.write_all(&sent).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("ldap://{}", self.address)
    }
}

impl Drop for FalseDirectory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that knows nobody, and answers binds only as fast as it is let: one for each permit of
/// `gate`, whose answer is that the password is wrong.
pub(crate) struct SlowDirectory {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Semaphore>,
    binds: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl SlowDirectory {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (gate, binds) = (Arc::new(Semaphore::new(0)), Arc::default());
        let (own_gate, own_binds) = (Arc::clone(&gate), Arc::clone(&binds));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (gate, binds) = (Arc::clone(&own_gate), Arc::clone(&own_binds));
                tokio::spawn(Self::serve(stream, gate, binds));
            }
        });
        Self {
            address,
            gate,
            binds,
            task,
        }
    }

    async fn serve(
        mut stream: TcpStream,
        gate: Arc<Semaphore>,
        binds: Arc<Mutex<Vec<String>>>,
    ) -> std::io::Result<()> {
        loop {
            let mut head = [0; 2];
            stream.read_exact(&mut head).await?;
            let length = match head[1] {
                short @ ..0x80 => usize::from(short),
                long => {
                    let mut length = vec![0; usize::from(long & 0x7f)];
                    stream.read_exact(&mut length).await?;
                    length
                        .iter()
                        .fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
                }
            };
            let mut content = vec![0; length];
            stream.read_exact(&mut content).await?;
            // The number of the message, of a few bytes, and then the operation.
            let (number, rest) = content[2..].split_at(content[1].into());
            let (number, operation) = (element(2, number), rest[0]);
            let result = |operation| {
                let code = if operation == 0x61 { 49 } else { 0 };
                let result = [element(10, &[code]), element(4, b""), element(4, b"")].concat();
                element(
                    0x30,
                    &[number.clone(), element(operation, &result)].concat(),
                )
            };
            match operation {
                0x60 => {
                    let text = String::from_utf8_lossy(&content).into_owned();
                    binds.lock().unwrap().push(text);
                    gate.acquire().await.unwrap().forget();
                    stream.write_all(&result(0x61)).await?;
                }
                0x63 => stream.write_all(&result(0x65)).await?,
                _ => return Ok(()),
            }
        }
    }

    /// What has arrived in binds so far, as text.
    pub(crate) fn binds(&self) -> Vec<String> {
        self.binds.lock().unwrap().clone()
    }
}

impl Drop for SlowDirectory {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An element of BER.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x84][..], &length, content].concat()
}

/// A whole message.
pub(crate) fn message(number: u8, operation: &[u8]) -> Vec<u8> {
    element(0x30, &[element(2, &[number]), operation.to_vec()].concat())
}

/// A message with a result: a bind response 0x61, the end of a search 0x65, an extended response
/// 0x78.
pub(crate) fn result(number: u8, operation: u8, code: u8) -> Vec<u8> {
    let content = [element(10, &[code]), element(4, b""), element(4, b"")].concat();
    message(number, &element(operation, &content))
}

/// A message with an entry of one attribute.
pub(crate) fn entry(number: u8, dn: &str, attribute: &str, values: &[&str]) -> Vec<u8> {
    let values: Vec<u8> = values
        .iter()
        .flat_map(|value| element(4, value.as_bytes()))
        .collect();
    let pair = [element(4, attribute.as_bytes()), element(0x31, &values)].concat();
    let attributes = element(0x30, &element(0x30, &pair));
    let content = [element(4, dn.as_bytes()), attributes].concat();
    message(number, &element(0x64, &content))
}
