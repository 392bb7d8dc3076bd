//! Files that a configuration names, and the keys that name them.

use std::path::{Path, PathBuf};

use portcullis::config::Config;

/// The key that names a file.
pub(super) fn key_of(config: &Config, path: &Path) -> String {
    let clients = &config.tls.client_certificates;
    if let Some(number) = clients.crl.iter().position(|crl| crl == path) {
        return format!("tls.client_certificates.crl.{number}");
    }
    if let Some(number) = config.token.verify_keys.iter().position(|key| key == path) {
        return format!("token.verify_keys.{number}");
    }
    let named = named(config).into_iter();
    let mut found = named.filter_map(|(key, named)| (named? == path).then_some(key));
    found.next().unwrap_or_default().to_owned()
}

/// Files that are opened when the rules are built, but for revocation lists.
fn named(config: &Config) -> [(&'static str, Option<&PathBuf>); 11] {
    let clients = &config.tls.client_certificates;
    [
        ("tls.certificate", Some(&config.tls.certificate)),
        ("tls.private_key", Some(&config.tls.private_key)),
        ("tls.client_certificates.ca", clients.ca.as_ref()),
        ("upstream.ca", config.upstream.ca.as_ref()),
        (
            "auth.ldap.ca",
            config.auth.ldap.as_ref().and_then(|ldap| ldap.ca.as_ref()),
        ),
        (
            "limits.store.ca",
            config.store.as_ref().and_then(|store| store.ca.as_ref()),
        ),
        ("auth.htpasswd.file", config.auth.htpasswd.as_ref()),
        ("audit.key_file", config.audit.key_file.as_ref()),
        ("audit.signing_key", config.audit.signing_key.as_ref()),
        (
            "audit.syslog.ca",
            config
                .audit
                .syslog
                .as_ref()
                .and_then(|syslog| syslog.ca.as_ref()),
        ),
        ("token.signing_key", config.token.signing_key.as_ref()),
    ]
}

/// All files that have to be there to be read.
pub(super) fn named_files(config: &Config) -> impl Iterator<Item = &Path> {
    let named = named(config).into_iter().filter_map(|(_, path)| path);
    let lists = &config.tls.client_certificates.crl;
    let all = named.chain(lists).chain(&config.token.verify_keys);
    all.map(PathBuf::as_path)
}
