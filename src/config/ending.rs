//! When what a configuration names will end: certificates, authorities, revocation lists.

use super::Config;
use crate::tls::{ClientCertificateMode, Ending, TlsError};

impl Config {
    /// Everything that ends, and what cannot be read.
    pub fn endings(&self) -> (Vec<Ending>, Vec<TlsError>) {
        let clients = &self.tls.client_certificates;
        let asks = clients.mode != ClientCertificateMode::Off;
        let ldap = self.auth.ldap.as_ref();
        let store = self.store.as_ref();
        let certificates = [
            ("server certificate", Some(&self.tls.certificate)),
            ("client CA", clients.ca.as_ref().filter(|_| asks)),
            ("registry's CA", self.upstream.ca.as_ref()),
            ("directory's CA", ldap.and_then(|ldap| ldap.ca.as_ref())),
            ("store's CA", store.and_then(|store| store.ca.as_ref())),
        ];
        let certificates = certificates
            .into_iter()
            .filter_map(|(what, file)| Some(Ending::of_certificates(what, file?)));
        let lists = clients.crl.iter().filter(|_| asks);
        let lists = lists.map(|file| Ending::of_revocations("revocation list", file));
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for ending in certificates.chain(lists) {
            match ending {
                Ok(ending) => found.push(ending),
                Err(error) => errors.push(error),
            }
        }
        (found, errors)
    }
}
