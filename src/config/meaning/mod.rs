//! From what is written to what is meant. Goes on after an error, so that one run finds them all:
//! what cannot be understood is replaced by a default, and the whole is thrown away at the end.

mod audit;
mod auth;
mod exposure;
mod limits;
mod secrets;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use exposure::Content;
use secrets::Password;

use super::checked::Config;
use super::file::{self, File};
use super::{rules, value};
use crate::document::{
    At, Diagnostic, EMPTY, Interpreter, List, Source, Text, Wrong, network, word,
};

use crate::identity::CertificateField;
use crate::telemetry::LogFormat;
use crate::tls::{self, ClientCertificateMode, ClientCertificates, TlsVersion};
use crate::transport::{self, ProxyProtocol};
use crate::upstream::{self, PassHeaders, RedirectHost, RedirectHosts, UpstreamUrl};
use crate::{admin, telemetry, token};

const MINUTE: Duration = Duration::from_mins(1);
/// Bytes of a unix socket's path (unix(7)), without the zero at its end.
const MAX_SOCKET_PATH: usize = 107;

/// Interprets a file.
pub(super) fn understand(
    file: &File,
    source: Source,
    path: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    found: &mut Vec<Diagnostic>,
) -> Config {
    let path = std::path::absolute(path).unwrap_or_else(|_no_folder| path.to_owned());
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut interpreter = Interpreter::new(&source, folder, env, found);
    let server = interpreter.server(&file.server.value);
    let tls = interpreter.tls(&file.tls.value);
    let upstream = interpreter.upstream(&file.upstream.value);
    let auth = interpreter.auth(&file.auth.value);
    let token = interpreter.token(&file.token.value);
    let may_name_groups = auth.ldap.is_some() || tls.client_certificates.groups.is_some();
    let certificates = tls.client_certificates.mode;
    let (policy, roles, pulls) =
        rules::policy(&mut interpreter, file, may_name_groups, certificates);
    let policy_tests = rules::policy_tests(&mut interpreter, file);
    let limits = interpreter.limits(&file.limits.value, pulls);
    let store = file.limits.value.store.as_ref();
    let store = store.map(|table| interpreter.store(&table.value));
    let audit = interpreter.audit(&file.audit.value);
    let admin = interpreter.admin(file.admin.as_ref(), &server.listen);
    let log = At::or(file.log.value.format.as_ref(), LogFormat::Text);
    let telemetry = interpreter.telemetry(&file.telemetry.value);
    let password_files = interpreter.password_files(file);
    interpreter.check_replicas(file);
    let names_users = !tls.client_certificates.username.is_empty();
    if names_users && certificates != ClientCertificateMode::Off {
        interpreter.certificate_beside_basic(&file.auth.value);
    }
    interpreter.look_at_file(file, &path);
    if file.access.is_empty() && interpreter.found.iter().all(Diagnostic::is_warning) {
        let help = "add an `[[access]]` with `repositories`, `who` and `role`";
        interpreter.warning_about_file(
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
        password_files,
        limits,
        store,
        audit,
        admin,
        log,
        telemetry,
        source,
    }
}

impl Interpreter<'_> {
    fn server(&mut self, server: &file::Server) -> transport::Settings {
        let listen = self.list(server.listen.as_ref(), address);
        self.not_empty(server.listen.as_ref(), "no address to listen on");
        self.each_once(server.listen.as_ref());
        let trusted_proxies = self.list(server.trusted_proxies.as_ref(), network);
        self.not_everybody(server.trusted_proxies.as_ref());
        let public_authority = self.text(server.public_url.as_ref(), value::public_authority);
        if let (Some(written), Some(authority)) = (&server.public_url, &public_authority)
            && value::is_private_address(authority)
        {
            let wrong = Wrong::new(
                "crane, kaniko and others refuse to fetch a token from a private address",
            );
            let help = "give this server a name in DNS, and write https://NAME";
            self.warning(&written.span, wrong.help(help));
        }
        transport::Settings {
            listen: match server.listen {
                Some(_) => listen,
                None => vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, 443))],
            },
            public_authority,
            cors_origins: self.list(server.cors_origins.as_ref(), value::page_origin),
            max_connections: self.count(server.max_connections.as_ref(), 10_000),
            max_connections_per_source: server
                .max_connections_per_source
                .as_ref()
                .map(|count| self.count(Some(count), 1)),
            drain_timeout: self.duration(server.drain_timeout.as_ref(), MINUTE),
            handshake_timeout: self
                .time_out(server.handshake_timeout.as_ref(), Duration::from_secs(10)),
            header_timeout: self.time_out(server.header_timeout.as_ref(), Duration::from_secs(10)),
            idle_timeout: self.time_out(server.idle_timeout.as_ref(), MINUTE),
            body_timeout: self.time_out(server.body_timeout.as_ref(), Duration::from_secs(30)),
            trusted_proxies,
            proxy_protocol: self.proxy_protocol(server),
        }
    }

    fn proxy_protocol(&mut self, server: &file::Server) -> ProxyProtocol {
        let asked = server.proxy_protocol.as_ref();
        let meant = At::or(asked, ProxyProtocol::Off);
        let trusted = server.trusted_proxies.as_ref();
        if let (Some(written), ProxyProtocol::Required) = (asked, meant)
            && trusted.is_none_or(|list| list.value.is_empty())
        {
            let wrong = Wrong::new("no `trusted_proxies`: nobody may write a PROXY header");
            let help = "name your load balancers in `trusted_proxies`, or write \"off\"";
            self.error(&written.span, wrong.help(help));
        }
        meant
    }

    /// Two sockets cannot have one address; port 0 is another one each time.
    fn each_once(&mut self, list: Option<&List>) {
        let mut seen = Vec::new();
        for item in list.into_iter().flat_map(|list| &list.value) {
            let Ok(address) = address(&item.value) else {
                continue;
            };
            if address.port() != 0 && seen.contains(&address) {
                let message = format!("{:?} is named twice", item.value);
                self.error(&item.span, Wrong::new(message));
            }
            seen.push(address);
        }
    }

    fn not_everybody(&mut self, list: Option<&List>) {
        for item in list.into_iter().flat_map(|list| &list.value) {
            if network(&item.value).is_ok_and(|network| network.prefix_len() == 0) {
                let wrong =
                    Wrong::new("everybody may choose the address that rules and limits see");
                let help = "name the addresses of your load balancers";
                self.warning(&item.span, wrong.help(help));
            }
        }
    }

    fn tls(&mut self, tls: &file::Tls) -> tls::Settings {
        self.warn_if_exposed(tls.certificate.as_ref(), Content::Trusted);
        self.warn_if_exposed(tls.private_key.as_ref(), Content::Secret);
        tls::Settings {
            certificate: self.path(tls.certificate.as_ref()).unwrap_or_default(),
            private_key: self.path(tls.private_key.as_ref()).unwrap_or_default(),
            min_version: At::or(tls.min_version.as_ref(), TlsVersion::Tls12),
            client_certificates: self.client_certificates(&tls.client_certificates.value),
        }
    }

    fn client_certificates(&mut self, asked: &file::ClientCertificates) -> ClientCertificates {
        let mode = At::or(asked.mode.as_ref(), ClientCertificateMode::Off);
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
        self.not_empty(asked.username.as_ref(), EMPTY);
        ClientCertificates {
            mode,
            ca: self.path(asked.ca.as_ref()),
            crl: self.paths(asked.crl.as_ref()),
            username: self.list(asked.username.as_ref(), certificate_field),
            groups: self.text(asked.groups.as_ref(), certificate_field),
        }
    }

    fn upstream(&mut self, upstream: &file::Upstream) -> upstream::Settings {
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
        if let Some(user) = upstream.username.as_ref()
            && user.value.contains(|c: char| c == ':' || c.is_control())
        {
            let wrong = Wrong::new("no user name has a `:` or a control character (RFC 7617)");
            self.error(&user.span, wrong);
        }
        upstream::Settings {
            url,
            login: self.login(("username", upstream.username.as_ref()), password),
            ca: self.path(upstream.ca.as_ref()),
            connect_timeout: self
                .time_out(upstream.connect_timeout.as_ref(), Duration::from_secs(5)),
            response_timeout: self.time_out(upstream.response_timeout.as_ref(), MINUTE),
            commit_timeout: self
                .time_out(upstream.commit_timeout.as_ref(), Duration::from_mins(15)),
            redirect_hosts: self.redirect_hosts(upstream.redirect_hosts.as_ref()),
            pass_headers: self.pass_headers(upstream.pass_headers.as_ref()),
            pass_answer_headers: self.pass_headers(upstream.pass_answer_headers.as_ref()),
        }
    }

    fn redirect_hosts(&mut self, list: Option<&List>) -> RedirectHosts {
        let Some(written) = list else {
            return RedirectHosts::default();
        };
        let hosts = self.list(list, value::redirect_host);
        let all_read = hosts.len() == written.value.len();
        if all_read && hosts.iter().any(RedirectHost::is_any) {
            for (item, host) in written.value.iter().zip(&hosts) {
                if host.is_https() && !host.is_any() {
                    let wrong = Wrong::new("\"*\" is every https host, this one among them");
                    let help = "leave \"*\" out to allow only the hosts that are named";
                    self.warning(&item.span, wrong.help(help));
                }
            }
        }
        hosts.into_iter().collect()
    }

    fn pass_headers(&mut self, list: Option<&List>) -> PassHeaders {
        let headers = self.list(list, value::pass_header);
        headers.into_iter().collect()
    }

    /// A minute. Tests of a debug build, which wait for a token to expire, set a shorter one.
    fn shortest_lifetime(&self) -> Duration {
        let tests = cfg!(debug_assertions).then(|| (self.env)("PORTCULLIS_TEST_SHORTEST_TOKEN"));
        let seconds = tests.flatten().and_then(|seconds| seconds.parse().ok());
        seconds.map_or(MINUTE, Duration::from_secs)
    }

    fn token(&mut self, token: &file::Token) -> token::Settings {
        self.warn_if_exposed(token.signing_key.as_ref(), Content::Secret);
        let lifetime = self.duration(token.lifetime.as_ref(), Duration::from_mins(5));
        // docker, skopeo, regctl and ctr take a minute for granted, as the specification lets them.
        if let Some(written) = token.lifetime.as_ref()
            && lifetime < self.shortest_lifetime()
        {
            let wrong = Wrong::new("clients go on using a token for a minute");
            self.error(&written.span, wrong.help("write \"60s\" or more"));
        }
        self.warn_if_any_exposed(token.verify_keys.as_ref(), Content::Secret);
        token::Settings {
            lifetime,
            refresh_lifetime: self.duration(
                token.refresh_lifetime.as_ref(),
                Duration::from_hours(90 * 24),
            ),
            signing_key: self.path(token.signing_key.as_ref()),
            verify_keys: self.paths(token.verify_keys.as_ref()),
            bind_certificate: token.bind_certificate.as_ref().is_some_and(|yes| yes.value),
        }
    }

    fn admin(&mut self, admin: Option<&At<file::Admin>>, taken: &[SocketAddr]) -> admin::Settings {
        let Some(admin) = admin else {
            return admin::Settings::default();
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
        if let Some(written) = admin.value.listen.as_ref()
            && listen.port() != 0
            && taken.contains(&listen)
        {
            let wrong = Wrong::new("clients are served at this address");
            self.error(&written.span, wrong.help("choose another port"));
        }
        admin::Settings {
            listen: Some(listen),
            hosts: self
                .list(admin.value.hosts.as_ref(), value::host_name)
                .into(),
            socket: self.socket(admin.value.socket.as_ref()),
        }
    }

    fn socket(&mut self, written: Option<&Text>) -> Option<PathBuf> {
        let path = self.path(written);
        if let (Some(written), Some(path)) = (written, &path)
            && path.as_os_str().len() > MAX_SOCKET_PATH
        {
            let wrong = Wrong::new("a socket's path has at most 107 bytes");
            self.error(&written.span, wrong);
        }
        path
    }

    fn telemetry(&mut self, telemetry: &file::Telemetry) -> telemetry::Settings {
        let endpoint = telemetry.otlp_endpoint.as_ref();
        if let Some(at) = endpoint.filter(|_| !cfg!(feature = "otlp")) {
            let wrong = Wrong::new("`otlp_endpoint` has no effect: this program exports no spans");
            let wrong = wrong.help("build it with `--features otlp`");
            self.warning(&at.span, wrong);
        }
        telemetry::Settings {
            collector: self.text(endpoint, value::collector),
        }
    }
}

fn is_true(key: Option<&At<bool>>) -> bool {
    key.is_some_and(|key| key.value)
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

fn certificate_field(text: &str) -> Result<CertificateField, Wrong> {
    word(
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
