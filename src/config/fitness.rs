//! Certificates that servers or clients will refuse, as far as that can be said without asking any.

use jiff::Timestamp;

use super::checked::Config;
use super::value::host_and_port;
use crate::audit::SyslogAddress;
use crate::document::Diagnostic;
use crate::store::StoreUrl;
use crate::tls;
use crate::upstream::UpstreamUrl;

impl Config {
    /// Warnings about our own certificate and those that are named as `ca`. Files that cannot be read have
    /// been reported where they were opened.
    pub fn certificate_faults(&self, now: Timestamp) -> Vec<Diagnostic> {
        let authority = self.server.public_authority.as_deref();
        let host = authority.and_then(|authority| host_and_port(authority).ok());
        let host = host.as_ref().map(|(host, _port)| &**host);
        let own = tls::faults_of_own(&self.tls.certificate, host, now);
        let own = own.unwrap_or_default().into_iter().map(|fault| {
            let found = self.error_at("tls.certificate", fault);
            found.with_help(tls::OWN_REMEDY).as_warning()
        });
        let upstream = match &self.upstream.url {
            UpstreamUrl::Https { host, .. } => vec![&**host],
            UpstreamUrl::Http { .. } | UpstreamUrl::Unix(_) => Vec::new(),
        };
        let store = self.store.as_ref();
        let of_store = store.and_then(|store| match &store.url {
            StoreUrl::Tcp { host, .. } => Some(&**host),
            StoreUrl::Unix(_) => None,
        });
        let ldap = self.auth.ldap.as_ref();
        let servers = ldap.into_iter().flat_map(|ldap| &ldap.servers);
        let syslog = self.audit.syslog.as_ref();
        let of_syslog = syslog.and_then(|syslog| match &syslog.address {
            SyslogAddress::Tls { host, .. } => Some(&**host),
            SyslogAddress::Tcp { .. } | SyslogAddress::Unix(_) => None,
        });
        let named = [
            ("upstream.ca", self.upstream.ca.as_ref(), upstream),
            (
                "auth.ldap.ca",
                ldap.and_then(|ldap| ldap.ca.as_ref()),
                servers.map(|server| &*server.host).collect(),
            ),
            (
                "limits.store.ca",
                store.and_then(|store| store.ca.as_ref()),
                of_store.into_iter().collect(),
            ),
            (
                "audit.syslog.ca",
                syslog.and_then(|syslog| syslog.ca.as_ref()),
                of_syslog.into_iter().collect(),
            ),
        ];
        let others = named.into_iter().flat_map(|(key, file, hosts)| {
            let faults = file.and_then(|file| tls::faults_of_authorities(file, &hosts, now).ok());
            let faults = faults.unwrap_or_default().into_iter();
            faults.map(move |fault| {
                let found =
                    self.error_at(key, format!("no server can be verified by this: {fault}"));
                found.with_help(tls::REMEDY).as_warning()
            })
        });
        own.chain(others).collect()
    }
}
