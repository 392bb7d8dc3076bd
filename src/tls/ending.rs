//! When what a configuration names will end: certificates, authorities, revocation lists.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{TlsError, certificates, read_certificate, revocation_ends};
use crate::config::{ClientCertificateMode, Config};

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What it is.
    pub what: &'static str,
    /// Where it stands.
    pub file: PathBuf,
    /// When it ends; of several in a file the first.
    pub ends: Timestamp,
}

/// Everything that ends, and what cannot be read.
pub fn endings(config: &Config) -> (Vec<Ending>, Vec<TlsError>) {
    let clients = &config.tls.client_certificates;
    let asks = clients.mode != ClientCertificateMode::Off;
    let ldap = config.auth.ldap.as_ref();
    let store = config.limits.store.as_ref();
    let authorities = [
        ("server certificate", Some(&config.tls.certificate)),
        ("client CA", clients.ca.as_ref().filter(|_| asks)),
        ("registry's CA", config.upstream.ca.as_ref()),
        ("directory's CA", ldap.and_then(|ldap| ldap.ca.as_ref())),
        ("store's CA", store.and_then(|store| store.ca.as_ref())),
    ];
    let named = authorities
        .into_iter()
        .filter_map(|(what, file)| Some((what, file?, first_end(file?))));
    let lists = clients.crl.iter().filter(|_| asks);
    let lists = lists.map(|file| ("revocation list", file, revocation_ends(file)));
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (what, file, ends) in named.chain(lists) {
        match ends {
            Ok(ends) => found.push(Ending {
                what,
                file: file.clone(),
                ends,
            }),
            Err(error) => errors.push(error),
        }
    }
    (found, errors)
}

fn first_end(file: &Path) -> Result<Timestamp, TlsError> {
    let all = certificates(file)?;
    let ends = all
        .iter()
        .filter_map(|one| read_certificate(std::slice::from_ref(one)))
        .map(|one| one.not_after);
    ends.min()
        .ok_or_else(|| TlsError::NoCertificate(file.to_owned()))
}
