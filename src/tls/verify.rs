//! Verifying the other side's certificate: the one verifier of servers, and that of clients.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::words::explain;

/// Accepts a server whose certificate leads to an authority, or is byte for byte one of those that
/// the operator named: `openssl req -x509` makes one that says CA:TRUE, which is no server's by the
/// rules for chains.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    chains: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerVerifier {
    pub(super) fn new(
        chains: Arc<WebPkiServerVerifier>,
        named: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { chains, named }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.named.iter().any(|named| named == end_entity) {
            return verify_named(end_entity, server_name, now)
                .map_err(|error| explain(error, end_entity));
        }
        self.chains
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| explain(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Verifies what remains where the operator vouches for the certificate itself: host, dates and
/// purpose.
fn verify_named(
    shown: &CertificateDer<'_>,
    server: &ServerName<'_>,
    now: UnixTime,
) -> Result<ServerCertVerified, Error> {
    let parsed = ParsedCertificate::try_from(shown)?;
    let (_, read) =
        X509Certificate::from_der(shown).map_err(|_cause| CertificateError::BadEncoding)?;
    let time = |second: i64| {
        let second = u64::try_from(second).unwrap_or_default();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(second))
    };
    let not_before = time(read.validity().not_before.timestamp());
    let not_after = time(read.validity().not_after.timestamp());
    if now < not_before {
        let time = now;
        return Err(CertificateError::NotValidYetContext { time, not_before }.into());
    }
    if now > not_after {
        let time = now;
        return Err(CertificateError::ExpiredContext { time, not_after }.into());
    }
    let usage = read.extended_key_usage();
    let usage = usage.map_err(|_cause| CertificateError::BadEncoding)?;
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::InvalidPurpose.into());
    }
    verify_server_name(&parsed, server)?;
    Ok(ServerCertVerified::assertion())
}

/// Verifies clients by their chains, and says in words of ours what is wrong.
#[derive(Debug)]
pub(super) struct ClientVerifier(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0
            .verify_client_cert(end_entity, intermediates, now)
            .map_err(|error| explain(error, end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `openssl x509 -req -signkey` without extensions.
#[cfg(test)]
pub(super) const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBHTCBwwIUSjSx+AJkkaSk5ROGmoTyziyXGekwCgYIKoZIzj0EAwIwEDEOMAwG
A1UEAwwFYWxpY2UwIBcNMjYxMTI4MDMxMzQzWhgPMjA4MTA4MzEwMzEzNDNaMBAx
DjAMBgNVBAMMBWFsaWNlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE7tignku1
Pqjwj5zLCHhz1o8AZhBgyHwe7vm81vfFYn6AxAEbDAU67A9pwg2s1lgwHN5tFqEM
aLDbd41wi20rMjAKBggqhkjOPQQDAgNJADBGAiEAhvn4NDOHhWUAdMeXPP2cPkjW
vgWdabdggkweN4/qxeUCIQC8pcxtSoNrQCX53jVDUXjpEuGQlj98CG4aAaDK5cQm
YQ==
-----END CERTIFICATE-----
";

#[cfg(test)]
mod tests {
    use super::{ClientVerifier, ServerVerifier, VERSION_1};
    use crate::tls::{in_words, provider};
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, date_time_ymd,
    };
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;
    use std::sync::Arc;

    type Change = fn(&mut CertificateParams);

    /// As `openssl req -x509` makes it, but for one thing.
    fn made(change: Change) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, "localhost");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    fn roots(named: &CertificateDer<'static>) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(named.clone()).unwrap();
        Arc::new(roots)
    }

    fn verdict(named: &CertificateDer<'static>, shown: &CertificateDer<'_>, host: &str) -> String {
        let chains = WebPkiServerVerifier::builder_with_provider(roots(named), provider());
        let verifier = ServerVerifier::new(chains.build().unwrap(), vec![named.clone()]);
        let host = host.try_into().unwrap();
        match verifier.verify_server_cert(shown, &[], &host, &[], UnixTime::now()) {
            Ok(_) => "good".to_owned(),
            Err(error) => in_words(&error),
        }
    }

    #[test]
    fn the_very_certificate_that_is_named_is_good_and_host_and_dates_count() {
        let good = made(|_| {});
        assert_eq!(verdict(&good, &good, "localhost"), "good");
        // Another one with the same names, which is an authority of its own.
        let other = made(|_| {});
        let refused = verdict(&good, &other, "localhost");
        assert!(refused.contains("authority"), "{refused}");
        assert_eq!(
            verdict(&good, &good, "registry.test"),
            "the certificate is not for registry.test but for localhost"
        );
        let cases: [(Change, &str); 4] = [
            (
                |params| params.not_after = date_time_ymd(2001, 1, 1),
                "the certificate expired on 2001-01-01 00:00 UTC",
            ),
            (
                |params| params.not_before = date_time_ymd(2090, 1, 1),
                "the certificate is not valid before 2090-01-01 00:00 UTC",
            ),
            (
                |params| params.subject_alt_names.clear(),
                "the certificate names no host; it has to have localhost as subjectAltName",
            ),
            (
                |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
                "the certificate is for another purpose (extendedKeyUsage)",
            ),
        ];
        for (change, words) in cases {
            let named = made(change);
            assert_eq!(verdict(&named, &named, "localhost"), words);
        }
    }

    #[test]
    fn what_is_wrong_with_a_clients_certificate_is_said_in_words() {
        let ca = made(|_| {});
        let verifier = WebPkiClientVerifier::builder_with_provider(roots(&ca), provider());
        let verifier = ClientVerifier(verifier.build().unwrap());
        let words = |shown: &CertificateDer<'_>| {
            let refused = verifier.verify_client_cert(shown, &[], UnixTime::now());
            in_words(&refused.unwrap_err())
        };
        let old = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
        assert!(words(&old).contains("version 1"), "{}", words(&old));
        assert!(words(&ca).contains("CA:TRUE"), "{}", words(&ca));
        assert!(words(&made(|_| {})).contains("CA:TRUE"));
        let junk = CertificateDer::from(vec![0x30, 0]);
        assert_eq!(words(&junk), "the certificate cannot be read");
    }
}
