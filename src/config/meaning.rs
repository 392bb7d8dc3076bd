//! From what is written to what is meant. Goes on after an error, so that one run finds them all:
//! what cannot be understood is replaced by a default, and the whole is thrown away at the end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::error::{Diagnostic, Source};
use super::file::{self, At, File, List, Text};
use super::value::{self, Wrong};
use super::{
    Admin, Audit, AuditSync, Auth, Backend, CertificateField, Challenge, ClientCertificateMode,
    ClientCertificates, Config, Ldap, LdapGroups, LdapServer, LimitStore, Limits, Log, LogFormat,
    PullLimit, Quota, Rates, Rotate, Server, Stdout, StoreUrl, Syslog, Telemetry, Tls, TlsVersion,
    Token, Upstream, UpstreamUrl, WhenUnwritable, rules,
};
use crate::authn::ldap::{FilterError, UserFilter};
use crate::identity::Secret;

const MINUTE: Duration = Duration::from_mins(1);

/// Judges a file.
pub(super) fn understand(
    file: &File,
    source: Source,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    found: &mut Vec<Diagnostic>,
) -> Config {
    let path = std::path::absolute(path).unwrap_or_else(|_no_folder| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut judge = Judge::new(&source, folder, env, found);
    let server = judge.server(&file.server.value);
    let tls = judge.tls(&file.tls.value);
    let upstream = judge.upstream(&file.upstream.value);
    let auth = judge.auth(&file.auth.value);
    let token = judge.token(&file.token.value);
    let may_name_groups = auth.ldap.is_some() || tls.client_certificates.groups.is_some();
    let certificates = tls.client_certificates.mode;
    let (policy, roles, pulls) = rules::policy(&mut judge, file, may_name_groups, certificates);
    let policy_tests = rules::policy_tests(&mut judge, file);
    let limits = judge.limits(&file.limits.value, pulls);
    let audit = judge.audit(&file.audit.value);
    let admin = judge.admin(file.admin.as_ref());
    let log = judge.log(&file.log.value);
    let telemetry = judge.telemetry(&file.telemetry.value);
    judge.check_replicas(file);
    judge.look_at_file(file, &path);
    if file.access.is_empty() && judge.found.iter().all(Diagnostic::is_warning) {
        let help = "add an `[[access]]` with `repositories`, `who` and `role`";
        judge.warning_about_file(
            "no `[[access]]` rule: everything is denied to everybody",
            help,
        );
    }
    Config {
        file: path,
        server,
        tls,
        upstream,
        auth,
        token,
        policy: policy.into(),
        roles,
        policy_tests,
        limits,
        audit,
        admin,
        log,
        telemetry,
        source,
    }
}

/// Everything a judgement needs, and what it has found so far.
pub(super) struct Judge<'a> {
    pub(super) source: &'a Source,
    folder: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
    found: &'a mut Vec<Diagnostic>,
}

/// A key's name and what is written there.
type Written<'a> = (&'static str, Option<&'a Text>);

/// The keys that can give a password: `key` itself and `key_file`.
#[derive(Clone, Copy)]
struct Password<'a> {
    key: &'static str,
    literal: Option<&'a Text>,
    file: Option<&'a Text>,
}

type Login = (Box<str>, Secret<String>);

impl<'a> Judge<'a> {
    /// `folder` is what paths are relative to.
    pub(super) fn new(
        source: &'a Source,
        folder: &'a Path,
        env: &'a dyn Fn(&str) -> Option<String>,
        found: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            source,
            folder,
            env,
            found,
        }
    }
}

impl Judge<'_> {
    fn server(&mut self, server: &file::Server) -> Server {
        let listen = self.list(server.listen.as_ref(), address);
        self.not_empty(server.listen.as_ref(), "no address to listen on");
        Server {
            listen: match server.listen {
                Some(_) => listen,
                None => vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443))],
            },
            public_authority: self.text(server.public_url.as_ref(), value::public_authority),
            max_connections: self.count(server.max_connections.as_ref(), 10_000),
            max_connections_per_source: self
                .count(server.max_connections_per_source.as_ref(), 4_000),
            drain_timeout: self.duration(server.drain_timeout.as_ref(), MINUTE),
            handshake_timeout: self
                .time_out(server.handshake_timeout.as_ref(), Duration::from_secs(10)),
            header_timeout: self.time_out(server.header_timeout.as_ref(), Duration::from_secs(10)),
            idle_timeout: self.time_out(server.idle_timeout.as_ref(), MINUTE),
            body_timeout: self.time_out(server.body_timeout.as_ref(), Duration::from_secs(30)),
            trusted_proxies: self.list(server.trusted_proxies.as_ref(), network),
        }
    }

    fn tls(&mut self, tls: &file::Tls) -> Tls {
        self.warn_if_readable(tls.private_key.as_ref());
        let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
        Tls {
            certificate: self.path(tls.certificate.as_ref()).unwrap_or_default(),
            private_key: self.path(tls.private_key.as_ref()).unwrap_or_default(),
            min_version: self.word(tls.min_version.as_ref(), &versions, TlsVersion::Tls12),
            client_certificates: self.client_certificates(&tls.client_certificates.value),
        }
    }

    fn client_certificates(&mut self, asked: &file::ClientCertificates) -> ClientCertificates {
        let modes = [
            ("off", ClientCertificateMode::Off),
            ("optional", ClientCertificateMode::Optional),
            ("required", ClientCertificateMode::Required),
        ];
        let mode = self.word(asked.mode.as_ref(), &modes, ClientCertificateMode::Off);
        if let (Some(written), None) = (&asked.mode, &asked.ca)
            && mode != ClientCertificateMode::Off
        {
            let wrong = Wrong::new("`ca` is missing: nothing says whose certificates are good");
            self.error(&written.span, wrong);
        }
        if let (Some(ca), None) = (&asked.ca, &asked.mode) {
            let wrong = Wrong::new("`ca` has no effect: clients are asked for no certificates");
            let help = "add mode = \"optional\" or mode = \"required\"";
            self.warning(&ca.span, wrong.help(help));
        }
        if let (Some(groups), None) = (&asked.groups, &asked.username) {
            let wrong = Wrong::new("`groups` has no effect: certificates name no users");
            self.warning(&groups.span, wrong.help("say by `username` where they do"));
        }
        self.not_empty(asked.username.as_ref(), rules::EMPTY);
        ClientCertificates {
            mode,
            ca: self.path(asked.ca.as_ref()),
            crl: self.paths(asked.crl.as_ref()),
            username: self.list(asked.username.as_ref(), certificate_field),
            groups: self.text(asked.groups.as_ref(), certificate_field),
        }
    }

    fn upstream(&mut self, upstream: &file::Upstream) -> Upstream {
        let url = self.text(upstream.url.as_ref(), value::upstream);
        let url = match url {
            Some(UpstreamUrl::Unix(path)) => UpstreamUrl::Unix(self.folder.join(path)),
            Some(url) => url,
            None => UpstreamUrl::Unix(PathBuf::new()),
        };
        let is_https = matches!(url, UpstreamUrl::Https { .. });
        if let Some(ca) = upstream.ca.as_ref().filter(|_| !is_https) {
            let wrong = Wrong::new("`ca` has no effect: the upstream is not https");
            self.warning(&ca.span, wrong);
        }
        let password = Password {
            key: "password",
            literal: upstream.password.as_ref(),
            file: upstream.password_file.as_ref(),
        };
        Upstream {
            url,
            login: self.login(("username", upstream.username.as_ref()), password),
            ca: self.path(upstream.ca.as_ref()),
            connect_timeout: self
                .time_out(upstream.connect_timeout.as_ref(), Duration::from_secs(5)),
            response_timeout: self.time_out(upstream.response_timeout.as_ref(), MINUTE),
        }
    }

    fn auth(&mut self, auth: &file::Auth) -> Auth {
        let challenges = [("bearer", Challenge::Bearer), ("basic", Challenge::Basic)];
        let order = self.order(auth);
        let uses = |backend| order.contains(&backend);
        let keys = auth.keys.as_ref().and_then(|keys| keys.value.file.as_ref());
        Auth {
            challenge: self.word(auth.challenge.as_ref(), &challenges, Challenge::Bearer),
            htpasswd: match &auth.htpasswd {
                Some(table) if uses(Backend::Htpasswd) => self.path(table.value.file.as_ref()),
                Some(_) | None => None,
            },
            ldap: match &auth.ldap {
                Some(table) if uses(Backend::Ldap) => Some(self.ldap(&table.value)),
                Some(_) | None => None,
            },
            keys: self
                .path(keys)
                .unwrap_or_else(|| self.folder.join("keys.toml")),
            cache_ttl: self.duration(auth.cache.value.ttl.as_ref(), Duration::from_mins(5)),
            order,
        }
    }

    /// The back ends in use: those named, or those configured.
    fn order(&mut self, auth: &file::Auth) -> Vec<Backend> {
        let tables = [
            (
                "htpasswd",
                Backend::Htpasswd,
                auth.htpasswd.as_ref().map(|table| &table.span),
            ),
            (
                "ldap",
                Backend::Ldap,
                auth.ldap.as_ref().map(|table| &table.span),
            ),
        ];
        let Some(written) = &auth.order else {
            let configured = tables.iter().filter(|(_, _, table)| table.is_some());
            return configured.map(|(_, backend, _)| *backend).collect();
        };
        let mut order = Vec::new();
        for name in &written.value {
            let known = tables.map(|(name, backend, table)| (name, (backend, table)));
            match value::word(&name.value, &known) {
                Ok((backend, _)) if order.contains(&backend) => {
                    self.error(
                        &name.span,
                        Wrong::new(format!("{:?} is named twice", name.value)),
                    );
                }
                Ok((backend, Some(_))) => order.push(backend),
                Ok((_, None)) => {
                    let message = format!("{:?} is not configured", name.value);
                    let help = format!("add a table `[auth.{}]`", name.value);
                    self.error(&name.span, Wrong::new(message).help(help));
                }
                Err(wrong) => self.error(&name.span, wrong),
            }
        }
        for (name, backend, table) in tables {
            if let Some(span) = table.filter(|_| !order.contains(&backend)) {
                let message = format!("`[auth.{name}]` is not in `order`: nobody asks it");
                self.warning(span, Wrong::new(message));
            }
        }
        order
    }

    fn ldap(&mut self, ldap: &file::Ldap) -> Ldap {
        let groups = [
            ("member_of", LdapGroups::MemberOf),
            ("group_of_names", LdapGroups::GroupOfNames),
            ("posix", LdapGroups::Posix),
            ("ad_nested", LdapGroups::AdNested),
            ("none", LdapGroups::None),
        ];
        let password = Password {
            key: "bind_password",
            literal: ldap.bind_password.as_ref(),
            file: ldap.bind_password_file.as_ref(),
        };
        self.not_empty(ldap.urls.as_ref(), "no server to ask");
        self.text(ldap.bind_dn.as_ref(), filled);
        self.ldap_protection(ldap);
        let groups = self.word(ldap.groups.as_ref(), &groups, LdapGroups::None);
        self.ldap_groups(ldap, groups);
        Ldap {
            servers: self.list(ldap.urls.as_ref(), ldap_server),
            start_tls: is_true(ldap.start_tls.as_ref()),
            ca: self.path(ldap.ca.as_ref()),
            bind: self.login(("bind_dn", ldap.bind_dn.as_ref()), password),
            user_base: self
                .text(ldap.user_base.as_ref(), filled)
                .unwrap_or_default(),
            user_filter: self.user_filter(ldap),
            groups,
            group_base: self.text(ldap.group_base.as_ref(), filled),
            nested_groups: is_true(ldap.nested_groups.as_ref()),
            timeout: self.time_out(ldap.timeout.as_ref(), Duration::from_secs(3)),
            stale_ok: self.stale_ok(ldap.stale_ok.as_ref()),
        }
    }

    /// Passwords go unprotected only where the configuration says so, and not without a warning.
    fn ldap_protection(&mut self, ldap: &file::Ldap) {
        let urls = ldap.urls.as_ref().map_or(&[][..], |urls| &urls.value);
        let plain = |url: &Text| ldap_server(&url.value).ok().filter(|server| !server.tls);
        let leaves = |url: &Text| plain(url).is_some_and(|server| !is_this_machine(&server.host));
        let far = urls.iter().find(|url| leaves(url));
        let plain = far.or_else(|| urls.iter().find(|url| plain(url).is_some()));
        let starts = is_true(ldap.start_tls.as_ref());
        match (plain, &ldap.plaintext) {
            (Some(_), Some(agreed)) if agreed.value && !starts => {
                let wrong = Wrong::new("passwords go to the directory without any protection");
                self.warning(&agreed.span, wrong);
            }
            (Some(url), _) if !starts => {
                let wrong = Wrong::new("ldap:// sends passwords without any protection");
                let help = "write ldaps://, or `start_tls = true`; or agree to it with `plaintext = \
                            true`";
                match far {
                    Some(_) => self.error(&url.span, wrong.help(help)),
                    None => self.warning(&url.span, wrong.help(help)),
                }
            }
            (_, Some(agreed)) if agreed.value => {
                let wrong = Wrong::new("`plaintext` has no effect: every server is asked over TLS");
                self.warning(&agreed.span, wrong);
            }
            _ => {}
        }
        if let (None, Some(key)) = (plain, ldap.start_tls.as_ref().filter(|key| key.value)) {
            let wrong = Wrong::new("`start_tls` has no effect: no URL begins with ldap://");
            self.warning(&key.span, wrong);
        }
    }

    fn ldap_groups(&mut self, ldap: &file::Ldap, groups: LdapGroups) {
        let searches = match groups {
            LdapGroups::AdNested | LdapGroups::GroupOfNames | LdapGroups::Posix => true,
            LdapGroups::MemberOf | LdapGroups::None => false,
        };
        if let (true, Some(key), None) = (searches, &ldap.groups, &ldap.group_base) {
            let wrong = Wrong::new("`group_base` is missing: nothing says where groups are");
            self.error(&key.span, wrong.help("add `group_base`"));
        }
        if let Some(key) = ldap.nested_groups.as_ref().filter(|key| key.value)
            && groups != LdapGroups::GroupOfNames
        {
            let wrong = Wrong::new("`nested_groups` has no effect without \"group_of_names\"");
            self.warning(&key.span, wrong);
        }
    }

    fn user_filter(&mut self, ldap: &file::Ldap) -> UserFilter {
        const DEFAULT: &str = "(uid={username})";
        let attribute = ldap.username_attribute.as_ref();
        let text = ldap.user_filter.as_ref();
        let filter = UserFilter::new(
            text.map_or(DEFAULT, |text| &text.value),
            attribute.map(|attribute| attribute.value.as_str()),
        );
        filter.unwrap_or_else(|error| {
            let (at, help) = match error {
                FilterError::NotByName => (
                    attribute.or(text),
                    "let it hold (ATTRIBUTE={username}) for the attribute that names the user",
                ),
                FilterError::SameForAll => (text, "write `{username}` where the name goes"),
                FilterError::Syntax => (text, "for example \"(uid={username})\""),
            };
            if let Some(at) = at {
                self.error(&at.span, Wrong::new(error.to_string()).help(help));
            }
            UserFilter::by_uid()
        })
    }

    fn stale_ok(&mut self, text: Option<&Text>) -> Duration {
        const LONGEST: Duration = Duration::from_hours(24);
        let window = self.duration(text, Duration::ZERO);
        if let Some(text) = text.filter(|_| window > LONGEST) {
            let wrong = Wrong::new("nobody is believed for more than a day");
            self.error(&text.span, wrong.help("write at most \"24h\""));
        }
        window
    }

    fn token(&mut self, token: &file::Token) -> Token {
        self.warn_if_readable(token.signing_key.as_ref());
        let lifetime = self.duration(token.lifetime.as_ref(), Duration::from_mins(5));
        if let Some(written) = token.lifetime.as_ref().filter(|_| lifetime < MINUTE) {
            if lifetime.is_zero() {
                let wrong = Wrong::new("a token with no lifetime is good for nothing");
                self.error(&written.span, wrong.help("write \"60s\" or more"));
            } else {
                // Some take a minute for granted, as the specification lets them.
                let wrong = Wrong::new("clients may go on using a token for a minute");
                let help = "write at least \"60s\", or they may be refused and log in again";
                self.warning(&written.span, wrong.help(help));
            }
        }
        Token {
            lifetime,
            refresh_lifetime: self.duration(
                token.refresh_lifetime.as_ref(),
                Duration::from_hours(90 * 24),
            ),
            signing_key: self.path(token.signing_key.as_ref()),
            bind_certificate: token.bind_certificate.as_ref().is_some_and(|yes| yes.value),
        }
    }

    fn limits(&mut self, limits: &file::Limits, pulls: Vec<PullLimit>) -> Limits {
        let rate = |rate: Option<&At<u32>>, default| rate.map_or(default, |rate| rate.value);
        let six_hours = Duration::from_hours(6);
        Limits {
            anonymous_pulls: self.pulls(limits.anonymous_pulls.as_ref(), (100, six_hours)),
            authenticated_pulls: self.pulls(limits.authenticated_pulls.as_ref(), (0, six_hours)),
            pulls,
            repeat_free: self.duration(limits.repeat_free.as_ref(), Duration::ZERO),
            failed_logins: self.quota(limits.failed_logins.as_ref(), (10, Duration::from_mins(5))),
            rates: Rates {
                requests_per_second: rate(limits.requests_per_second.as_ref(), 100_000),
                connections_per_second: rate(limits.connections_per_second.as_ref(), 10_000),
                concurrent_requests: rate(limits.concurrent_requests.as_ref(), 10_000),
            },
            store: limits.store.as_ref().map(|table| self.store(&table.value)),
        }
    }

    fn store(&mut self, store: &file::LimitStore) -> LimitStore {
        const LONGEST: Duration = Duration::from_secs(5);
        let url = match self.text(store.url.as_ref(), value::store) {
            Some(StoreUrl::Unix(path)) => StoreUrl::Unix(self.folder.join(path)),
            Some(url) => url,
            None => StoreUrl::Unix(PathBuf::new()),
        };
        let is_tls = matches!(url, StoreUrl::Tcp { tls: true, .. });
        if let Some(ca) = store.ca.as_ref().filter(|_| !is_tls) {
            let wrong = Wrong::new("`ca` has no effect: the URL does not begin with rediss://");
            self.warning(&ca.span, wrong);
        }
        let password = Password {
            key: "password",
            literal: store.password.as_ref(),
            file: store.password_file.as_ref(),
        };
        let login = match &store.username {
            Some(_) => self
                .login(("username", store.username.as_ref()), password)
                .map(|(user, password)| (Some(user), password)),
            None => self.secret(password).map(|password| (None, password)),
        };
        let timeout = self.time_out(store.timeout.as_ref(), Duration::from_millis(50));
        if let Some(text) = store.timeout.as_ref().filter(|_| timeout > LONGEST) {
            let wrong = Wrong::new("requests wait for the store, so this is too long");
            self.error(&text.span, wrong.help("write at most \"5s\""));
        }
        LimitStore {
            url,
            login,
            ca: self.path(store.ca.as_ref()),
            timeout,
            prefix: self
                .text(store.prefix.as_ref(), store_prefix)
                .unwrap_or_else(|| "portcullis".into()),
        }
    }

    /// Replicas take each other's tokens, and tell wrong passwords apart alike, only by a common key.
    fn check_replicas(&mut self, file: &File) {
        if let (Some(store), None) = (&file.limits.value.store, &file.token.value.signing_key) {
            let wrong =
                Wrong::new("replicas that share limits also need the same `token.signing_key`");
            let help = "without it no replica takes the tokens of another, and the same wrong \
                        password counts once at each";
            self.warning(&store.span, wrong.help(help));
        }
    }

    fn pulls(&mut self, quota: Option<&At<file::Quota>>, default: (u32, Duration)) -> Quota {
        let meant = self.quota(quota, default);
        if let Some(At { value, .. }) = quota {
            self.check_pulls(value.count.as_ref(), value.per.as_ref(), meant);
        }
        meant
    }

    /// Limits on pulls are exact, which has its price for each pull of each caller.
    pub(super) fn check_pulls(
        &mut self,
        count: Option<&At<u32>>,
        per: Option<&Text>,
        meant: Quota,
    ) {
        if let Some(count) = count.filter(|count| count.value > Quota::LARGEST) {
            let wrong = Wrong::new(format!("more than {} are not counted", Quota::LARGEST));
            self.error(&count.span, wrong.help("write 0 for no limit"));
        }
        let short = !meant.per.is_zero() && meant.per < Duration::from_secs(1);
        if let Some(per) = per.filter(|_| short || meant.per > Quota::LONGEST) {
            self.error(&per.span, Wrong::new("write a time from 1s to 31d"));
        }
    }

    fn quota(&mut self, quota: Option<&At<file::Quota>>, default: (u32, Duration)) -> Quota {
        let (count, per) = default;
        quota.map_or(Quota { count, per }, |quota| Quota {
            count: quota
                .value
                .count
                .as_ref()
                .map_or(count, |count| count.value),
            per: self.time_out(quota.value.per.as_ref(), per),
        })
    }

    fn audit(&mut self, audit: &file::Audit) -> Audit {
        let answers = [
            ("refuse", WhenUnwritable::Refuse),
            ("refuse-writes", WhenUnwritable::RefuseWrites),
            ("serve", WhenUnwritable::Serve),
        ];
        let default = WhenUnwritable::RefuseWrites;
        let syncs = [
            ("always", AuditSync::Always),
            ("second", AuditSync::Second),
            ("never", AuditSync::Never),
        ];
        self.warn_if_readable(audit.key_file.as_ref());
        self.warn_if_readable(audit.signing_key.as_ref());
        Audit {
            file: self
                .path(audit.file.as_ref())
                .unwrap_or_else(|| self.folder.join("audit.jsonl")),
            when_unwritable: self.word(audit.when_unwritable.as_ref(), &answers, default),
            required: audit
                .required
                .as_ref()
                .is_none_or(|required| required.value),
            timeout: self.time_out(audit.timeout.as_ref(), Duration::from_secs(5)),
            sync: self.word(audit.sync.as_ref(), &syncs, AuditSync::Second),
            rotate: Rotate {
                size: self.text(audit.rotate_size.as_ref(), value::size),
                every: self.text(audit.rotate_every.as_ref(), value::interval),
            },
            key_file: self.path(audit.key_file.as_ref()),
            signing_key: self.path(audit.signing_key.as_ref()),
            stdout: audit.stdout.as_ref().map(|stdout| Stdout {
                required: is_true(stdout.value.required.as_ref()),
            }),
            syslog: self.syslog(audit.syslog.as_ref()),
        }
    }

    fn syslog(&mut self, syslog: Option<&At<file::AuditSyslog>>) -> Option<Syslog> {
        let at = syslog?;
        let syslog = &at.value;
        let folder = self.folder.to_owned();
        let address = self.text(syslog.address.as_ref(), |text| value::syslog(text, &folder));
        if syslog.address.is_none() {
            let wrong = Wrong::new("a syslog receiver needs an address");
            self.error(&at.span, wrong.help("write address = \"unix:/dev/log\""));
        }
        Some(Syslog {
            address: address?,
            ca: self.path(syslog.ca.as_ref()),
            required: is_true(syslog.required.as_ref()),
        })
    }

    fn admin(&mut self, admin: Option<&At<file::Admin>>) -> Admin {
        let Some(admin) = admin else {
            return Admin { listen: None };
        };
        let listen = self.text(admin.value.listen.as_ref(), address);
        let listen = listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)));
        if let Some(written) = admin
            .value
            .listen
            .as_ref()
            .filter(|_| !listen.ip().is_loopback())
        {
            let wrong = Wrong::new("others can reach this address, and it speaks plain HTTP");
            self.warning(&written.span, wrong);
        }
        let listen = Some(listen);
        Admin { listen }
    }

    fn telemetry(&mut self, telemetry: &file::Telemetry) -> Telemetry {
        let endpoint = telemetry.otlp_endpoint.as_ref();
        if let Some(at) = endpoint.filter(|_| !cfg!(feature = "otlp")) {
            let wrong = Wrong::new("`otlp_endpoint` has no effect: this program exports no spans");
            let wrong = wrong.help("build it with `--features otlp`");
            self.warning(&at.span, wrong);
        }
        Telemetry {
            collector: self.text(endpoint, value::collector),
        }
    }

    fn log(&mut self, log: &file::Log) -> Log {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        let format = self.word(log.format.as_ref(), &formats, LogFormat::Text);
        Log { format }
    }

    /// A user name and a password, which only make sense together.
    fn login(&mut self, user: Written<'_>, password: Password<'_>) -> Option<Login> {
        let (user_key, user) = user;
        let given = password.literal.or(password.file);
        match (user, given) {
            (Some(user), Some(_)) => {
                let secret = self.secret(password)?;
                Some((user.value.as_str().into(), secret))
            }
            (Some(user), None) => {
                let wrong = Wrong::new(format!("`{user_key}` without a password"));
                self.error(
                    &user.span,
                    wrong.help(format!("add `{}_file`", password.key)),
                );
                None
            }
            (None, Some(given)) => {
                let wrong = Wrong::new(format!("a password without `{user_key}`"));
                self.error(&given.span, wrong);
                None
            }
            (None, None) => None,
        }
    }

    /// A password from a file, a variable, a credential of systemd or, alas, the text itself.
    fn secret(&mut self, password: Password<'_>) -> Option<Secret<String>> {
        let Password { key, literal, file } = password;
        let (text, secret) = match (literal, file) {
            (None, None) => return None,
            (Some(_), Some(file)) => {
                let wrong = Wrong::new(format!("both `{key}` and `{key}_file`"));
                self.error(&file.span, wrong.help("leave one of them out"));
                return None;
            }
            (None, Some(file)) => {
                self.warn_if_readable(Some(file));
                (file, read_secret(&self.folder.join(&file.value)))
            }
            (Some(text), None) => (text, self.referred(key, text)),
        };
        secret.map_err(|wrong| self.error(&text.span, wrong)).ok()
    }

    fn referred(&mut self, key: &str, text: &Text) -> Result<Secret<String>, Wrong> {
        let help = "write \"${env:NAME}\" or \"${credential:NAME}\"";
        let Some(reference) = text.value.strip_prefix("${") else {
            let wrong = Wrong::new(format!("`{key}` stands in the file for all to read"));
            self.warning(
                &text.span,
                wrong.help(format!("use `{key}_file`, or {help}")),
            );
            return filled_secret(&text.value);
        };
        let reference = reference
            .strip_suffix('}')
            .and_then(|inner| inner.split_once(':'));
        match reference {
            Some(("env", name)) => match (self.env)(name).map(Zeroizing::new) {
                Some(value) => filled_secret(&value),
                None => Err(Wrong::new(format!("the variable {name} is not set"))),
            },
            Some(("credential", name)) if is_file_name(name) => {
                let folder = (self.env)("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                    Wrong::new("systemd passes no credentials: $CREDENTIALS_DIRECTORY is not set")
                        .help(format!("add LoadCredential={name}:PATH to the unit"))
                })?;
                read_secret(&Path::new(&folder).join(name))
            }
            Some(_) | None => Err(Wrong::new("this refers to nothing").help(help)),
        }
    }

    /// A literal password makes the configuration itself a secret.
    fn look_at_file(&mut self, file: &File, path: &Path) {
        let ldap = file.auth.value.ldap.as_ref();
        let store = file.limits.value.store.as_ref();
        let passwords = [
            file.upstream.value.password.as_ref(),
            ldap.and_then(|ldap| ldap.value.bind_password.as_ref()),
            store.and_then(|store| store.value.password.as_ref()),
        ];
        let literal = passwords
            .into_iter()
            .flatten()
            .find(|text| !text.value.starts_with("${"));
        if let Some(text) = literal.filter(|_| is_readable_by_others(path)) {
            let wrong = Wrong::new("every user of this machine can read the password in this file");
            self.warning(&text.span, wrong.help("chmod o-r the configuration"));
        }
    }

    fn warn_if_readable(&mut self, file: Option<&Text>) {
        let readable = |text: &&Text| is_readable_by_others(&self.folder.join(&text.value));
        if let Some(text) = file.filter(readable) {
            let wrong = Wrong::new("every user of this machine can read this file");
            self.warning(&text.span, wrong.help(format!("chmod o-r {}", text.value)));
        }
    }

    fn path(&mut self, text: Option<&Text>) -> Option<PathBuf> {
        self.text(text, filled)
            .map(|path: Box<str>| self.folder.join(&*path))
    }

    fn paths(&mut self, list: Option<&List>) -> Vec<PathBuf> {
        let paths: Vec<Box<str>> = self.list(list, filled);
        paths.iter().map(|path| self.folder.join(&**path)).collect()
    }

    fn count(&mut self, count: Option<&At<u32>>, default: usize) -> usize {
        let Some(count) = count else {
            return default;
        };
        if count.value == 0 {
            self.error(&count.span, Wrong::new("zero lets nobody in"));
        }
        usize::try_from(count.value).unwrap_or(usize::MAX)
    }

    fn duration(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        self.text(text, value::duration).unwrap_or(default)
    }

    /// A duration that cannot be zero.
    pub(super) fn time_out(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        let length = self.duration(text, default);
        if let Some(text) = text.filter(|_| length.is_zero()) {
            self.error(&text.span, Wrong::new("no time at all"));
        }
        length
    }

    fn word<T: Copy>(&mut self, text: Option<&Text>, known: &[(&str, T)], default: T) -> T {
        self.text(text, |text| value::word(text, known))
            .unwrap_or(default)
    }

    pub(super) fn text<T>(
        &mut self,
        text: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let text = text?;
        parse(&text.value)
            .map_err(|wrong| self.error(&text.span, wrong))
            .ok()
    }

    pub(super) fn list<T>(
        &mut self,
        list: Option<&List>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let items = list.into_iter().flat_map(|list| &list.value);
        items
            .filter_map(|item| self.text(Some(item), &parse))
            .collect()
    }

    pub(super) fn not_empty(&mut self, list: Option<&List>, message: &str) {
        if let Some(list) = list.filter(|list| list.value.is_empty()) {
            self.error(&list.span, Wrong::new(message));
        }
    }

    pub(super) fn error(&mut self, span: &Range<usize>, wrong: Wrong) {
        let error = self.source.error(span.clone(), wrong.message);
        self.found.push(match wrong.help {
            Some(help) => error.with_help(help),
            None => error,
        });
    }

    pub(super) fn warning(&mut self, span: &Range<usize>, wrong: Wrong) {
        self.error(span, wrong);
        if let Some(last) = self.found.pop() {
            self.found.push(last.as_warning());
        }
    }

    /// A warning about what is not in the file.
    fn warning_about_file(&mut self, message: &str, help: &str) {
        let error = self.source.error_at_key("", message);
        self.found.push(error.with_help(help).as_warning());
    }
}

fn read_secret(path: &Path) -> Result<Secret<String>, Wrong> {
    match std::fs::read_to_string(path).map(Zeroizing::new) {
        Ok(text) => filled_secret(text.trim_end_matches(['\r', '\n'])),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Wrong::new("the password in this file is not text"))
        }
        Err(error) => Err(Wrong::new(format!("the password cannot be read: {error}"))),
    }
}

fn filled_secret(text: &str) -> Result<Secret<String>, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("the password is empty"));
    }
    Ok(Secret::new(text.to_owned()))
}

fn is_true(key: Option<&At<bool>>) -> bool {
    key.is_some_and(|key| key.value)
}

fn is_readable_by_others(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o004 != 0)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

fn filled(text: &str) -> Result<Box<str>, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("this is empty"));
    }
    Ok(text.into())
}

fn store_prefix(text: &str) -> Result<Box<str>, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if text.is_empty() || text.len() > 64 || !text.chars().all(fits) {
        let wrong = Wrong::new("a prefix has 1 to 64 letters, digits or any of - . _ :");
        return Err(wrong.help("for example \"portcullis\""));
    }
    Ok(text.into())
}

fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse().map_err(|_not_an_address| {
        let wrong = Wrong::new(format!("{text:?} is not an address with a port"));
        match (
            text.parse::<IpAddr>(),
            text.trim_start_matches(':').parse::<u16>(),
        ) {
            (Ok(ip), _) => wrong.help(format!("write \"{}\"", SocketAddr::from((ip, 443)))),
            (_, Ok(port)) => wrong.help(format!("write \"0.0.0.0:{port}\" or \"[::]:{port}\"")),
            _ => wrong.help("write an IP address and a port, for example \"0.0.0.0:443\""),
        }
    })
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, Wrong> {
    let network: IpNet = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => network,
        (_, Ok(address)) => address.into(),
        (Err(_), Err(_)) => {
            let wrong = Wrong::new(format!("{text:?} is not a network"));
            return Err(wrong.help("write for example \"10.0.0.0/8\" or \"2001:db8::/32\""));
        }
    };
    if network.trunc() != network {
        let wrong = Wrong::new(format!("{text:?} is an address inside a network"));
        return Err(wrong.help(format!("write \"{}\"", network.trunc())));
    }
    Ok(network)
}

fn certificate_field(text: &str) -> Result<CertificateField, Wrong> {
    value::word(
        text,
        &[
            ("san.dns", CertificateField::SanDns),
            ("san.email", CertificateField::SanEmail),
            ("san.uri", CertificateField::SanUri),
            ("subject.cn", CertificateField::SubjectCn),
            ("subject.o", CertificateField::SubjectO),
            ("subject.ou", CertificateField::SubjectOu),
        ],
    )
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn ldap_server(text: &str) -> Result<LdapServer, Wrong> {
    let help = "write ldap://HOST or ldaps://HOST";
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| Wrong::new("this is not a URL").help(help))?;
    let (tls, port) = match scheme {
        "ldap" => (false, 389),
        "ldaps" => (true, 636),
        other => return Err(Wrong::new(format!("unknown scheme {other:?}")).help(help)),
    };
    let (host, written) = value::host_and_port(rest)?;
    let port = written.unwrap_or(port);
    Ok(LdapServer { tls, host, port })
}
