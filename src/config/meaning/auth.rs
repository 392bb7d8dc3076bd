//! `[auth]`: who knows passwords, and the directory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::is_true;
use super::secrets::Password;
use crate::authn::ldap::{self, Dn, FilterError, LdapGroups, LdapServer, UserFilter};
use crate::authn::{Anonymous, BackEndKind, Challenge, Settings};
use crate::config::file;
use crate::config::value;
use crate::document::{At, Interpreter, Text, Word, Wrong, filled, word};

impl Interpreter<'_> {
    pub(super) fn auth(&mut self, auth: &file::Auth) -> Settings {
        let challenge = At::or(auth.challenge.as_ref(), Challenge::Bearer);
        let order = self.order(auth);
        let uses = |backend| order.contains(&backend);
        let keys = auth.keys.as_ref().and_then(|keys| keys.value.file.as_ref());
        Settings {
            challenge,
            anonymous: self.anonymous(auth.anonymous.as_ref(), challenge),
            htpasswd: match &auth.htpasswd {
                Some(table) if uses(BackEndKind::Htpasswd) => self.path(table.value.file.as_ref()),
                Some(_) | None => None,
            },
            ldap: match &auth.ldap {
                Some(table) if uses(BackEndKind::Ldap) => Some(self.ldap(&table.value)),
                Some(_) | None => None,
            },
            keys: self
                .path(keys)
                .unwrap_or_else(|| self.folder.join("keys.toml")),
            cache_ttl: self.duration(auth.cache.value.ttl.as_ref(), Duration::from_mins(5)),
            order,
        }
    }

    fn anonymous(
        &mut self,
        written: Option<&At<Word<Anonymous>>>,
        challenge: Challenge,
    ) -> Anonymous {
        let asked = At::or(written, Anonymous::Token);
        match (challenge, asked, written) {
            (Challenge::Bearer, asked, _) => asked,
            (Challenge::Basic, Anonymous::Token, Some(written)) => {
                let message = "`anonymous = \"token\"` has no effect with `challenge = \"basic\"`: \
                               nobody is told where to get a token";
                let wrong = Wrong::new(message).help("write \"direct\", or remove the line");
                self.warning(&written.span, wrong);
                Anonymous::Direct
            }
            (Challenge::Basic, Anonymous::Direct | Anonymous::Token, _) => Anonymous::Direct,
        }
    }

    /// A certificate that names a user answers for whatever password is typed beside it, where
    /// nothing asks for a token.
    pub(super) fn certificate_beside_basic(&mut self, auth: &file::Auth) {
        let challenge = auth.challenge.as_ref();
        if let Some(challenge) = challenge.filter(|challenge| challenge.value.0 == Challenge::Basic)
        {
            let message = "a login with a certificate that names a user succeeds with any password: \
                           with `challenge = \"basic\"` the certificate alone answers for it";
            let help = "write \"bearer\", so that clients have the password verified at /token";
            self.warning(&challenge.span, Wrong::new(message).help(help));
        }
    }

    /// The back ends in use: those named, or those configured.
    fn order(&mut self, auth: &file::Auth) -> Vec<BackEndKind> {
        let tables = [
            (
                "htpasswd",
                BackEndKind::Htpasswd,
                auth.htpasswd.as_ref().map(|table| &table.span),
            ),
            (
                "ldap",
                BackEndKind::Ldap,
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
            match word(&name.value, &known) {
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

    fn ldap(&mut self, ldap: &file::Ldap) -> ldap::Settings {
        let password = Password {
            key: "bind_password",
            literal: ldap.bind_password.as_ref(),
            file: ldap.bind_password_file.as_ref(),
        };
        self.not_empty(ldap.urls.as_ref(), "no server to ask");
        self.text(ldap.bind_dn.as_ref(), filled);
        self.ldap_protection(ldap);
        let groups = At::or(ldap.groups.as_ref(), LdapGroups::None);
        self.ldap_groups(ldap, groups);
        ldap::Settings {
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
            map: self.ldap_map(ldap, groups),
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
        if let (LdapGroups::MemberOf, Some(key), None, None) =
            (groups, &ldap.groups, &ldap.group_base, &ldap.map)
        {
            let wrong = Wrong::new(
                "a group counts by its `cn` wherever it is, also one that somebody made for themselves",
            );
            self.warning(
                &key.span,
                wrong.help("set `group_base`, or name the groups that count in `map`"),
            );
        }
        if let Some(key) = ldap.nested_groups.as_ref().filter(|key| key.value)
            && groups != LdapGroups::GroupOfNames
        {
            let wrong = Wrong::new("`nested_groups` has no effect without \"group_of_names\"");
            self.warning(&key.span, wrong);
        }
    }

    fn ldap_map(
        &mut self,
        ldap: &file::Ldap,
        groups: LdapGroups,
    ) -> Option<BTreeMap<Box<str>, Vec<Dn>>> {
        let written = ldap.map.as_ref()?;
        if groups == LdapGroups::None {
            let wrong = Wrong::new("`map` has no effect: the directory is not asked for groups");
            self.warning(
                &written.span,
                wrong.help("say in `groups` how they are found"),
            );
        }
        let base = ldap.group_base.as_ref();
        let base = base.and_then(|base| Dn::parse(&base.value));
        let mut map = BTreeMap::new();
        for (name, list) in &written.value {
            if name.value.is_empty() {
                self.error(&name.span, Wrong::new("the group has no name"));
            }
            self.not_empty(Some(list), "no group of the directory counts as this one");
            let dns = self.list(Some(list), |text| group_dn(text, base.as_ref()));
            map.insert(name.value.as_str().into(), dns);
        }
        Some(map)
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
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The DN of a group, below the base where there is one.
fn group_dn(text: &str, base: Option<&Dn>) -> Result<Dn, Wrong> {
    let dn = Dn::parse(text)
        .filter(|_| !text.is_empty())
        .ok_or_else(|| {
            let wrong = Wrong::new(format!("{text:?} is not a distinguished name"));
            wrong.help("write for example \"cn=team-a,ou=groups,dc=example,dc=com\"")
        })?;
    if base.is_some_and(|base| !dn.is_below(base)) {
        let wrong = Wrong::new("this is not below `group_base`, so it is never found");
        return Err(wrong.help("correct one of the two"));
    }
    Ok(dn)
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
