//! What is written in the configuration file, before it is judged. Every table and key stands here,
//! and nowhere else: the schema, the search for unknown keys and the test of `conf/reference.toml`
//! are made from these types. Nothing has a default here; what absence means is `meaning`'s.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::policy_test::Expected;
use crate::audit::{AuditSync, WhenUnwritable};
use crate::authn::ldap::LdapGroups;
use crate::authn::{Anonymous, Challenge};
use crate::document::{At, List, Text, Word, schema_of};
use crate::registry::Action;
use crate::telemetry::LogFormat;
use crate::tls::{ClientCertificateMode, TlsVersion};
use crate::transport::ProxyProtocol;

/// Configuration of portcullis, an authenticating reverse proxy in front of a container registry.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "portcullis.toml", extend("required" = ["tls", "upstream"]))]
pub(super) struct File {
    /// The listener.
    #[serde(default)]
    pub(super) server: At<Server>,
    /// The certificate shown to clients.
    #[serde(default)]
    pub(super) tls: At<Tls>,
    /// The registry behind.
    #[serde(default)]
    pub(super) upstream: At<Upstream>,
    /// How callers prove who they are.
    #[serde(default)]
    pub(super) auth: At<Auth>,
    /// The token service.
    #[serde(default)]
    pub(super) token: At<Token>,
    /// Groups by name, besides what back ends say: lists of users.
    #[serde(default)]
    pub(super) groups: BTreeMap<Text, List>,
    /// Roles besides the built-in guest, developer, maintainer and admin: lists of actions.
    #[schemars(extend("examples" = [{"ci": ["pull", "push"]}]))]
    #[serde(default)]
    pub(super) roles: BTreeMap<Text, List>,
    /// Rules that give rights. They add up.
    #[serde(default)]
    pub(super) access: Vec<At<Access>>,
    /// Rules that take rights away. One of them wins over every access.
    #[serde(default)]
    pub(super) deny: Vec<At<Deny>>,
    /// Questions to the policy whose answers must not change.
    #[serde(default)]
    pub(super) policy_test: Vec<At<PolicyTest>>,
    /// How much is too much.
    #[serde(default)]
    pub(super) limits: At<Limits>,
    /// Limits on pulls by some callers or of some repositories, instead of those of `[limits]`: the
    /// first one that fits a pull.
    #[serde(default)]
    pub(super) limit: Vec<At<Limit>>,
    /// The audit file.
    #[serde(default)]
    pub(super) audit: At<Audit>,
    /// Health, metrics and status.
    pub(super) admin: Option<At<Admin>>,
    /// The log.
    #[serde(default)]
    pub(super) log: At<Log>,
    /// What is told to observability systems.
    #[serde(default)]
    pub(super) telemetry: At<Telemetry>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Server {
    /// Addresses to listen on.
    #[schemars(extend("examples" = [["0.0.0.0:443", "[::]:443"]]))]
    pub(super) listen: Option<List>,
    /// How clients reach this server; requests for other hosts are answered with 421.
    #[schemars(extend("examples" = ["https://registry.example.com"]))]
    pub(super) public_url: Option<Text>,
    /// Origins whose pages (registry UIs in browsers) may call the API.
    #[schemars(extend("examples" = [["https://ui.example.com"]]))]
    pub(super) cors_origins: Option<List>,
    /// Connections at a time.
    pub(super) max_connections: Option<At<u32>>,
    /// Connections at a time from one IPv4 address or IPv6 /64.
    pub(super) max_connections_per_source: Option<At<u32>>,
    /// How long requests may take to finish after SIGTERM.
    #[schemars(extend("examples" = ["60s"]))]
    pub(super) drain_timeout: Option<Text>,
    /// Time for a TLS handshake.
    #[schemars(extend("examples" = ["10s"]))]
    pub(super) handshake_timeout: Option<Text>,
    /// Time for a request's head.
    #[schemars(extend("examples" = ["10s"]))]
    pub(super) header_timeout: Option<Text>,
    /// How long a connection may be idle between requests.
    #[schemars(extend("examples" = ["60s"]))]
    pub(super) idle_timeout: Option<Text>,
    /// Time without any progress of a body.
    #[schemars(extend("examples" = ["30s"]))]
    pub(super) body_timeout: Option<Text>,
    /// Networks that may say for whom they connect.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(super) trusted_proxies: Option<List>,
    /// Whether their connections begin with a header of the PROXY protocol, version 1 or 2.
    pub(super) proxy_protocol: Option<At<Word<ProxyProtocol>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// PEM file, the chain.
    #[schemars(required)]
    pub(super) certificate: Option<Text>,
    /// PEM file, the key of the chain's first certificate.
    #[schemars(required)]
    pub(super) private_key: Option<Text>,
    /// The oldest version of TLS accepted.
    pub(super) min_version: Option<At<Word<TlsVersion>>>,
    /// Certificates of clients.
    #[serde(default)]
    pub(super) client_certificates: At<ClientCertificates>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertificates {
    /// Whether clients are asked for a certificate.
    pub(super) mode: Option<At<Word<ClientCertificateMode>>>,
    /// PEM file, the authorities that issue them.
    pub(super) ca: Option<Text>,
    /// PEM or DER files, revocation lists.
    pub(super) crl: Option<List>,
    /// Where a certificate names a user: the first kind present counts.
    #[schemars(extend("examples" = [["san.uri", "san.dns", "subject.cn"]]))]
    pub(super) username: Option<List>,
    /// Where it names groups.
    #[schemars(extend("examples" = ["subject.ou"]))]
    pub(super) groups: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upstream {
    /// Where the registry is: `http://`, `https://` or `unix:/path`.
    #[schemars(required, extend("examples" = ["http://127.0.0.1:5000"]))]
    pub(super) url: Option<Text>,
    /// User name, for a registry that asks for one.
    pub(super) username: Option<Text>,
    /// Its password, as `${env:NAME}` or `${credential:NAME}`.
    #[schemars(extend("examples" = ["${credential:registry}"]))]
    pub(super) password: Option<Text>,
    /// File with its password.
    pub(super) password_file: Option<Text>,
    /// PEM file, the authority that issued the registry's certificate.
    pub(super) ca: Option<Text>,
    /// Time to connect.
    #[schemars(extend("examples" = ["5s"]))]
    pub(super) connect_timeout: Option<Text>,
    /// Time until the registry begins to answer a read.
    #[schemars(extend("examples" = ["60s"]))]
    pub(super) response_timeout: Option<Text>,
    /// Time until the registry begins to answer a write, from its last byte.
    #[schemars(extend("examples" = ["15m"]))]
    pub(super) commit_timeout: Option<Text>,
    /// Hosts that reads of blobs may be redirected to: `host`, `host:port`, `*.domain`,
    /// `http://host:port`, or `*` for every https host.
    #[schemars(extend("examples" = [["*"], ["s3.example.com", "http://minio:9000"]]))]
    pub(super) redirect_hosts: Option<List>,
    /// Headers of requests that are passed on besides those of the registry API.
    #[schemars(extend("examples" = [["X-Meta-*"]]))]
    pub(super) pass_headers: Option<List>,
    /// Headers of answers that are passed on besides those of the registry API.
    #[schemars(extend("examples" = [["Strict-Transport-Security"]]))]
    pub(super) pass_answer_headers: Option<List>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Auth {
    /// Password back ends in the order in which they are asked.
    #[schemars(extend("examples" = [["htpasswd"]]))]
    pub(super) order: Option<List>,
    /// What a client without credentials is told to send.
    pub(super) challenge: Option<At<Word<Challenge>>>,
    /// How anonymous callers come: with a token, or directly.
    pub(super) anonymous: Option<At<Word<Anonymous>>>,
    /// Users in a file.
    pub(super) htpasswd: Option<At<Htpasswd>>,
    /// Users in a directory.
    pub(super) ldap: Option<At<Ldap>>,
    /// Robot keys.
    pub(super) keys: Option<At<Keys>>,
    /// Verified credentials.
    #[serde(default)]
    pub(super) cache: At<Cache>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Htpasswd {
    /// Apache's format.
    #[schemars(required)]
    pub(super) file: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ldap {
    /// Servers, asked in turn.
    #[schemars(required, extend("examples" = [["ldaps://ldap.example.com"]]))]
    pub(super) urls: Option<List>,
    /// Whether `ldap://` connections are made safe by `StartTLS`.
    pub(super) start_tls: Option<At<bool>>,
    /// Whether `ldap://` may go without `StartTLS`, so that everybody on the way reads passwords.
    pub(super) plaintext: Option<At<bool>>,
    /// PEM file, the authority that issued the servers' certificates.
    pub(super) ca: Option<Text>,
    /// Who searches.
    pub(super) bind_dn: Option<Text>,
    /// Its password, as `${env:NAME}` or `${credential:NAME}`.
    #[schemars(extend("examples" = ["${credential:ldap}"]))]
    pub(super) bind_password: Option<Text>,
    /// File with its password.
    pub(super) bind_password_file: Option<Text>,
    /// Below what users are searched.
    #[schemars(required)]
    pub(super) user_base: Option<Text>,
    /// How a user is found; `{username}` stands for the name given.
    #[schemars(extend("examples" = ["(uid={username})"]))]
    pub(super) user_filter: Option<Text>,
    /// The attribute that names the user, one that the filter compares with `{username}`.
    #[schemars(extend("examples" = ["uid"]))]
    pub(super) username_attribute: Option<Text>,
    /// How groups are found.
    pub(super) groups: Option<At<Word<LdapGroups>>>,
    /// Below what groups are searched.
    pub(super) group_base: Option<Text>,
    /// The directory's groups that count as those of rules and `[groups]`; no others do then.
    #[schemars(extend("examples" = [{"team-a": ["cn=team-a,ou=groups,dc=example,dc=com"]}]))]
    pub(super) map: Option<At<BTreeMap<Text, List>>>,
    /// Whether `group_of_names` also finds groups that name a user's groups, eight deep.
    pub(super) nested_groups: Option<At<bool>>,
    /// Time for a login, all servers together.
    #[schemars(extend("examples" = ["3s"]))]
    pub(super) timeout: Option<Text>,
    /// For how long users and passwords verified before are believed while the directory is down.
    #[schemars(extend("examples" = ["1h"]))]
    pub(super) stale_ok: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Robot keys, hashed.
    pub(super) file: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cache {
    /// How long a verified credential is remembered.
    #[schemars(extend("examples" = ["5m"]))]
    pub(super) ttl: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// How long an access token is good, at least a minute.
    #[schemars(extend("examples" = ["5m"]))]
    pub(super) lifetime: Option<Text>,
    /// How long a refresh token is good; `0s` for none.
    #[schemars(extend("examples" = ["90d"]))]
    pub(super) refresh_lifetime: Option<Text>,
    /// PEM file, a P-256 key.
    pub(super) signing_key: Option<Text>,
    /// PEM files, P-256 keys that signed before: their tokens are still good.
    #[schemars(extend("examples" = [["token-old.key"]]))]
    pub(super) verify_keys: Option<List>,
    /// Tokens asked for with a client certificate are good with that certificate only.
    pub(super) bind_certificate: Option<At<bool>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    /// Patterns: `*` within a path part, `**` across, `${user}` the caller's name.
    #[schemars(required, extend("examples" = [["team-a/**"]]))]
    pub(super) repositories: Option<List>,
    /// `anonymous`, `authenticated`, `user:NAME`, `group:NAME`.
    #[schemars(required, extend("examples" = [["group:team-a", "user:alice"]]))]
    pub(super) who: Option<List>,
    /// A built-in role or one of `[roles]`.
    #[schemars(required, extend("examples" = ["developer"]))]
    pub(super) role: Option<Text>,
    /// From where; anywhere when absent.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(super) networks: Option<List>,
    /// With what besides: `certificate`, `password`.
    #[schemars(extend("examples" = [["password"]]))]
    pub(super) require: Option<List>,
    /// Until when.
    #[schemars(extend("examples" = ["2027-01-31T00:00:00Z"]))]
    pub(super) not_after: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Deny {
    /// Patterns, as in an access.
    #[schemars(required, extend("examples" = [["**/prod"]]))]
    pub(super) repositories: Option<List>,
    /// `anonymous` is here who has no user; `authenticated`, `user:NAME`, `group:NAME`.
    #[schemars(required, extend("examples" = [["group:contractors"]]))]
    pub(super) who: Option<List>,
    /// What is denied; everything when absent.
    #[schemars(extend("examples" = [["push", "delete"]]))]
    pub(super) actions: Option<List>,
    /// From where; anywhere when absent.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    pub(super) networks: Option<List>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyTest {
    /// `anonymous` or `user:NAME`.
    #[schemars(required, extend("examples" = ["user:alice"]))]
    pub(super) who: Option<Text>,
    /// Groups that a back end would name, besides `[groups]`.
    pub(super) groups: Option<List>,
    /// From where; 127.0.0.1 when absent.
    #[schemars(extend("examples" = ["10.1.2.3"]))]
    pub(super) address: Option<Text>,
    /// What is to be done.
    #[schemars(required)]
    pub(super) action: Option<At<Word<Action>>>,
    /// Where.
    #[schemars(required, extend("examples" = ["team-a/app"]))]
    pub(super) repository: Option<Text>,
    /// What the policy must answer.
    #[schemars(required)]
    pub(super) expect: Option<At<Word<Expected>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    /// Pulls per IPv4 address or IPv6 /64 without a user.
    #[schemars(extend("examples" = [{"count": 100, "per": "6h"}]))]
    pub(super) anonymous_pulls: Option<At<Quota>>,
    /// Pulls per user.
    #[schemars(extend("examples" = [{"count": 0, "per": "6h"}]))]
    pub(super) authenticated_pulls: Option<At<Quota>>,
    /// Distinct wrong passwords per user and network.
    #[schemars(extend("examples" = [{"count": 10, "per": "5m"}]))]
    pub(super) failed_logins: Option<At<Quota>>,
    /// How long another pull of the same image costs nothing; `0s`: each one counts.
    #[schemars(extend("examples" = ["0s"]))]
    pub(super) repeat_free: Option<Text>,
    /// Requests in a second from one IPv4 address or IPv6 /64; 0 is unlimited.
    pub(super) requests_per_second: Option<At<u32>>,
    /// New connections in a second from one of them; 0 is unlimited.
    pub(super) connections_per_second: Option<At<u32>>,
    /// Requests at a time from one of them; 0 is unlimited.
    pub(super) concurrent_requests: Option<At<u32>>,
    /// Where replicas count pulls and wrong passwords together.
    pub(super) store: Option<At<LimitStore>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitStore {
    /// A Redis or Valkey: `redis://`, with TLS `rediss://`, or `unix:/path`.
    #[schemars(required, extend("examples" = ["redis://redis:6379/0"]))]
    pub(super) url: Option<Text>,
    /// Its user, where it has several.
    pub(super) username: Option<Text>,
    /// Its password, as `${env:NAME}` or `${credential:NAME}`.
    #[schemars(extend("examples" = ["${credential:redis}"]))]
    pub(super) password: Option<Text>,
    /// File with its password.
    pub(super) password_file: Option<Text>,
    /// PEM file, the authority that issued the certificate of a `rediss://` one.
    pub(super) ca: Option<Text>,
    /// Time for an answer, at most `5s`; after that each replica goes by its own count.
    #[schemars(extend("examples" = ["50ms"]))]
    pub(super) timeout: Option<Text>,
    /// What its keys begin with; the same for replicas that count together.
    #[schemars(extend("examples" = ["portcullis"]))]
    pub(super) prefix: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    /// Whose pulls: `anonymous` is here who has no user; `authenticated`, `user:NAME`,
    /// `group:NAME`. Everybody's when absent.
    #[schemars(extend("examples" = [["group:ci"]]))]
    pub(super) who: Option<List>,
    /// Of which repositories: patterns, as in an access. Of all when absent.
    #[schemars(extend("examples" = [["mirror/**"]]))]
    pub(super) repositories: Option<List>,
    /// How many pulls for each caller; 0 is unlimited.
    #[schemars(required)]
    pub(super) count: Option<At<u32>>,
    /// In what time.
    #[schemars(required, extend("examples" = ["6h"]))]
    pub(super) per: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Quota {
    /// How many; 0 is unlimited.
    #[schemars(required)]
    pub(super) count: Option<At<u32>>,
    /// In what time.
    #[schemars(required, extend("examples" = ["6h"]))]
    pub(super) per: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Audit {
    /// JSON lines are appended here.
    pub(super) file: Option<Text>,
    /// What happens to requests when it cannot be written.
    pub(super) when_unwritable: Option<At<Word<WhenUnwritable>>>,
    /// Whether the file is among the sinks that must take a record.
    pub(super) required: Option<At<bool>>,
    /// A sink that takes nothing for so long counts as one that fails.
    #[schemars(extend("examples" = ["5s"]))]
    pub(super) timeout: Option<Text>,
    /// When the file is brought to the disk.
    pub(super) sync: Option<At<Word<AuditSync>>>,
    /// A new file is begun before this one grows beyond so many bytes.
    #[schemars(extend("examples" = ["100MiB"]))]
    pub(super) rotate_size: Option<Text>,
    /// A new file is begun when the first record of this one is so old.
    #[schemars(extend("examples" = ["1d"]))]
    pub(super) rotate_every: Option<Text>,
    /// The key of the chain, at least 32 bytes.
    pub(super) key_file: Option<Text>,
    /// PEM file, an Ed25519 or P-256 key that signs checkpoints.
    pub(super) signing_key: Option<Text>,
    /// Records on stdout.
    pub(super) stdout: Option<At<AuditStdout>>,
    /// Records to a syslog receiver.
    pub(super) syslog: Option<At<AuditSyslog>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditStdout {
    /// Whether requests are refused while it fails.
    pub(super) required: Option<At<bool>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditSyslog {
    /// Where it is: `unix:/path`, `tcp://host:port` or `tls://host:port`.
    #[schemars(extend("examples" = ["tls://logs.example.com:6514"]))]
    pub(super) address: Option<Text>,
    /// PEM file, the authorities of the receiver's certificate.
    pub(super) ca: Option<Text>,
    /// Whether requests are refused while it fails.
    pub(super) required: Option<At<bool>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    /// Address, plain HTTP.
    #[schemars(extend("examples" = ["127.0.0.1:9090"]))]
    pub(super) listen: Option<Text>,
    /// Names by which it may be asked, in addition to IP addresses and localhost.
    #[schemars(extend("examples" = [["portcullis.monitoring.svc"]]))]
    pub(super) hosts: Option<List>,
    /// A unix socket that serves the same to its owner alone.
    #[schemars(extend("examples" = ["/run/portcullis/admin.sock"]))]
    pub(super) socket: Option<Text>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// How lines look.
    pub(super) format: Option<At<Word<LogFormat>>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Telemetry {
    /// An OpenTelemetry collector, for a span of each request (OTLP, HTTP with protobuf).
    pub(super) otlp_endpoint: Option<Text>,
}

/// The JSON schema of the file, with every table in its place.
pub fn schema() -> Value {
    schema_of::<File>()
}
