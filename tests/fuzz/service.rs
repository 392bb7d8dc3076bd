//! The service as a whole: bytes over TLS into a server in this process, in front of a registry
//! double that objects to whatever a strict reader would object to.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use portcullis::audit::Audit;
use portcullis::authn::AuthnState;
use portcullis::config::Config;
use portcullis::proxy::Proxy;
use portcullis::reload::{self, RetainedParts};
use portcullis::state::Retained;
use portcullis::transport;
use portcullis::upstream::Pool;
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::registry::{self, Faults};

/// Bytes of HTTP/1.1.
pub(crate) fn h1(bytes: &[u8]) {
    let answers = SERVICE.exchange(&SERVICE.h1, bytes);
    let text = String::from_utf8_lossy(&answers);
    // Who speaks HTTP/1.0 is answered in it.
    let begin = answers.get(..9).unwrap_or(b"HTTP/1.1 ");
    assert!(matches!(begin, b"HTTP/1.1 " | b"HTTP/1.0 "), "{text}");
    assert!(
        !text.contains("HTTP/1.1 500") && !text.contains("HTTP/1.0 500"),
        "{text}"
    );
    assert!(!text.to_ascii_lowercase().contains("x-hop"), "{text}");
}

/// Bytes of HTTP/2, with or without its preface.
pub(crate) fn h2(bytes: &[u8]) {
    let answers = SERVICE.exchange(&SERVICE.h2, bytes);
    // Whatever comes is frames: the first are our settings.
    assert!(answers.get(3).is_none_or(|kind| *kind == 4), "{answers:?}");
}

static SERVICE: LazyLock<Service> = LazyLock::new(Service::start);

/// How long a client waits for more of an answer before it says that it has nothing more to send.
const PATIENCE: Duration = Duration::from_millis(8);
/// How long a connection may last whose client has gone.
const END: Duration = Duration::from_secs(8);

struct Service {
    runtime: Runtime,
    address: SocketAddr,
    faults: Faults,
    h1: TlsConnector,
    h2: TlsConnector,
}

impl Service {
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("portcullis-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        for (name, text) in [
            ("server.pem", certificate.pem()),
            ("server.key", key.serialize_pem()),
            // Of the password "ada".
            (
                "users",
                "ada:{SHA}5OopTAYsUlZD3wNqNcpXm5BfpAA=\n".to_owned(),
            ),
        ] {
            std::fs::write(folder.join(name), text).expect("a file");
        }
        let runtime = Runtime::new().expect("a runtime");
        let faults = Faults::default();
        let address = runtime.block_on(async {
            let upstream = registry::start(Arc::clone(&faults)).await;
            serve(&folder, upstream)
        });
        // All of it has been read.
        std::fs::remove_dir_all(&folder).expect("the folder goes");
        Self {
            runtime,
            address,
            faults,
            h1: connector(certificate.der(), b"http/1.1"),
            h2: connector(certificate.der(), b"h2"),
        }
    }

    /// What is answered to these bytes.
    fn exchange(&self, tls: &TlsConnector, bytes: &[u8]) -> Vec<u8> {
        let answers = self.runtime.block_on(converse(self.address, tls, bytes));
        let faults = self.faults.lock().expect("nobody panics there");
        assert!(faults.is_empty(), "the registry objects: {faults:#?}");
        answers
    }
}

async fn converse(address: SocketAddr, tls: &TlsConnector, bytes: &[u8]) -> Vec<u8> {
    let tcp = TcpStream::connect(address).await.expect("it listens");
    // Closed at once, so that thousands of them do not use up the ports.
    tcp.set_zero_linger().expect("a socket");
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = tls.connect(name, tcp).await.expect("a handshake");
    let mut answers = Vec::new();
    // A server that has had enough may close before it has read everything.
    let _sent = stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok();
    let mut part = [0; 16 * 1024];
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut part)).await {
            Ok(Ok(0) | Err(_)) => return answers,
            Ok(Ok(read)) => answers.extend_from_slice(&part[..read]),
            Err(_elapsed) => break,
        }
    }
    let _closed = stream.shutdown().await.is_ok();
    let rest = tokio::time::timeout(END, stream.read_to_end(&mut answers)).await;
    assert!(rest.is_ok(), "the connection outlives its client");
    answers
}

fn connector(certificate: &CertificateDer<'static>, protocol: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let provider = portcullis::tls::provider();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// Starts the server as `portcullis serve` does.
fn serve(folder: &Path, upstream: SocketAddr) -> SocketAddr {
    let text = format!(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        [tls]
        certificate = "server.pem"
        private_key = "server.key"
        [upstream]
        url = "http://{upstream}"
        [auth.htpasswd]
        file = "users"
        [[access]]
        repositories = ["**"]
        who = ["user:ada"]
        role = "admin"
        [[access]]
        repositories = ["**"]
        who = ["anonymous"]
        role = "guest"
        [limits]
        anonymous_pulls = {{ count = 0, per = "6h" }}
        failed_logins = {{ count = 0, per = "5m" }}
        requests_per_second = 0
        connections_per_second = 0
        [audit]
        file = "/dev/null"
        "#
    );
    let parsed = Config::parse(&text, &folder.join("portcullis.toml"), &|_| None);
    let (config, _) = parsed.unwrap_or_else(|errors| panic!("{}", errors.render(false)));
    let memory = Arc::new(AuthnState::new(config.auth.cache_ttl));
    let pool = Arc::new(Pool::default());
    let store_counts = Arc::default();
    let spare_key = reload::spare_key().expect("a key");
    let parts = RetainedParts {
        memory: &memory,
        pool: &pool,
        store: None,
        store_counts: &store_counts,
        robots: None,
        spare_key: &spare_key,
    };
    let built = reload::build(&config, &parts, 1);
    let (rules, _) = built.unwrap_or_else(|errors| panic!("{errors:?}"));
    let plan = reload::audit_plan(&config).expect("a plan");
    let audit = Audit::open(plan).expect("a trail");
    let retained = Retained::new(audit, memory, pool, store_counts, spare_key);
    let listeners = transport::bind(&config.server.listen).expect("a port");
    let address = listeners.addresses()[0];
    let (stop, stopping) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        transport::serve(
            listeners,
            Proxy::new(rules, retained),
            config.server,
            stopping,
        )
        .await;
        drop(stop);
    });
    address
}
