#![allow(missing_docs)]
use portcullis::config::*;
use portcullis::policy::*;
use portcullis::registry::Action::*;
use std::sync::Arc;
use std::time::Duration;
#[tokio::main]
async fn main() {
    portcullis::telemetry::start(LogFormat::Text);
    let rule = |n: u32, pat: &[&str], who: Vec<Who>, actions: Vec<portcullis::registry::Action>| {
        AccessRule {
            place: Place(format!("dev.toml:{n}").into()),
            repositories: pat.iter().map(|p| Pattern::parse(p).unwrap()).collect(),
            who,
            actions,
            networks: vec![],
            require: vec![],
            not_after: None,
        }
    };
    let policy = Policy::new(
        vec![
            rule(1, &["public/**"], vec![Who::Anonymous], vec![Pull]),
            rule(
                2,
                &["team-a/**", "home/${user}/**"],
                vec![Who::User("alice".into())],
                vec![Pull, Push, Overwrite, Delete],
            ),
            rule(
                3,
                &["public/**"],
                vec![Who::User("alice".into())],
                vec![Pull, Push, Overwrite],
            ),
            rule(
                4,
                &["team-a/**"],
                vec![Who::User("bob".into())],
                vec![Pull, Push],
            ),
        ],
        vec![],
        Default::default(),
    );
    let config = Config {
        file: "/tmp/dev/x".into(),
        server: Server {
            listen: vec![
                "127.0.0.1:25443".parse().unwrap(),
                "[::1]:25443".parse().unwrap(),
            ],
            public_authority: None,
            max_connections: 10000,
            max_connections_per_source: 1000,
            drain_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            trusted_proxies: vec![],
        },
        tls: Tls {
            certificate: "/tmp/dev/cert.pem".into(),
            private_key: "/tmp/dev/key.pem".into(),
            min_version: TlsVersion::Tls12,
        },
        upstream: Upstream {
            url: UpstreamUrl::Http {
                host: "127.0.0.1".into(),
                port: 25000,
            },
            login: None,
            ca: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
        },
        auth: Auth {
            challenge: if std::env::args().nth(1).as_deref() == Some("basic") {
                Challenge::Basic
            } else {
                Challenge::Bearer
            },
            htpasswd: Some("/tmp/dev/htpasswd".into()),
            cache_ttl: Duration::from_secs(300),
        },
        token: Token {
            lifetime: Duration::from_secs(300),
            refresh_lifetime: Duration::from_secs(86400),
            signing_key: None,
        },
        policy: Arc::new(policy),
        audit: Audit {
            file: "/tmp/dev/audit.jsonl".into(),
            when_unwritable: WhenUnwritable::RefuseWrites,
        },
        log: Log {
            format: LogFormat::Text,
        },
    };
    let memory = Arc::new(portcullis::authn::Memory::new(config.auth.cache_ttl));
    let pool = Arc::new(portcullis::upstream::Pool::default());
    let spare_key = portcullis::reload::spare_key().unwrap();
    let (rules, w) = portcullis::reload::build(
        &config,
        &portcullis::reload::Foundation {
            memory: &memory,
            pool: &pool,
            spare_key: &spare_key,
        },
        1,
    )
    .map_err(|e| format!("{e:?}"))
    .unwrap();
    for w in w {
        eprintln!("{w}");
    }
    let audit =
        portcullis::audit::Audit::open(&config.audit.file, config.audit.when_unwritable).unwrap();
    let l = portcullis::server::bind(&config.server.listen).unwrap();
    let proxy = portcullis::server::Proxy::new(
        rules,
        portcullis::gate::Ledger {
            audit,
            memory,
            pool,
            spare_key,
        },
    );
    let (tx, rx) = tokio::sync::watch::channel(false);
    let s = tokio::spawn(portcullis::server::serve(l, proxy, config.server, rx));
    tokio::signal::ctrl_c().await.unwrap();
    tx.send(true).unwrap();
    s.await.unwrap();
}
