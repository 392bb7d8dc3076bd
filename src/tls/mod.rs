//! TLS for clients: key material from files, and the server configuration made of it.
//!
//! A reload builds a whole new [`rustls::ServerConfig`] and swaps it, session store and all. A
//! configuration that is changed in place lets a resumed session keep what an old one had
//! verified, which is how another proxy framework came to keep revoked identities after a reload.

mod certificate;
mod ending;
mod fitness;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub mod issue;
mod revoke;
mod settings;
mod verify;
mod words;

use std::cmp::Reverse;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName,
    SubjectPublicKeyInfoDer,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

pub use certificate::read_certificate;
use certificate::{next_update, standing};
pub use ending::Ending;
pub use fitness::{faults_of_authorities, faults_of_own};
pub use settings::{ClientCertificateMode, ClientCertificates, Settings, TlsVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use verify::{ClientVerifier, ServerVerifier};
pub use words::{OWN_REMEDY, REMEDY, certificate as certificate_in_words, explained, in_words};

use crate::whole_file;

/// Key files are small; whatever is larger is not one.
const MAX_PEM: u64 = 4 << 20;
/// A revocation list takes some 40 bytes for each certificate.
const MAX_CRL: u64 = 64 << 20;

/// Why TLS cannot be set up. The texts name the file and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file without a certificate in it.
    #[error("{} holds no certificate in PEM", .0.display())]
    NoCertificate(PathBuf),
    /// A file without a private key in it.
    #[error("{} holds no private key in PEM (PKCS #8, PKCS #1 or SEC 1, without a passphrase)", .0.display())]
    NoKey(PathBuf),
    /// A file without a public key in it.
    #[error("{} holds no public key in PEM; get it with: openssl pkey -in KEY -pubout", .0.display())]
    NoPublicKey(PathBuf),
    /// A key that is not the certificate's.
    #[error("the key in {} does not fit the certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file with the certificate.
        certificate: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// A certificate or key that the TLS library refuses.
    #[error("cannot use {}: {}", path.display(), in_words(source))]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A file without a revocation list in it.
    #[error("{} holds no certificate revocation list", .0.display())]
    NoCrl(PathBuf),
    /// A revocation list that the TLS library refuses.
    #[error(
        "cannot use the revocation list {}: it has to be of version 2, with a CRL number \
         (RFC 5280; openssl: crl_extensions)",
        .0.display()
    )]
    Crl(PathBuf),
    /// Client CA and revocation lists that cannot be used together.
    #[error("cannot verify client certificates with {}: it holds no authority", .0.display())]
    ClientCa(PathBuf),
    /// No CA certificate on this system.
    #[error("this system has no CA certificates; name a file with `ca`")]
    NoRoots,
}

/// The one cryptographic provider of the program.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        // The sort is stable: TLS 1.3 stays before 1.2, ECDSA before RSA.
        provider.cipher_suites.sort_by_key(|suite| {
            let is_first = matches!(
                suite.suite(),
                CipherSuite::TLS13_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                    | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
            );
            (suite.tls13().is_none(), !is_first)
        });
        Arc::new(provider)
    }))
}

/// Loads certificate and key and makes the listener's configuration: TLS 1.2 and 1.3 or 1.3 alone,
/// `h2` before `http/1.1`. What is wrong with either file is told of both.
pub fn server_config(
    tls: &Settings,
    clients: Option<&Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, Vec<TlsError>> {
    match (
        certificates(&tls.certificate),
        private_key(&tls.private_key),
    ) {
        (Ok(chain), Ok(key)) => listener(tls, chain, key, clients).map_err(|error| vec![error]),
        (chain, key) => Err([chain.err(), key.err()].into_iter().flatten().collect()),
    }
}

fn listener(
    tls: &Settings,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<&Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Unusable { path, source }
    };
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(unusable(&tls.certificate))?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        if matches!(error, rustls::Error::InconsistentKeys(_)) {
            TlsError::Mismatch {
                certificate: tls.certificate.clone(),
                key: tls.private_key.clone(),
            }
        } else {
            unusable(&tls.certificate)(error)
        }
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // docker and skopeo open a new connection for every request and resume none, and a ticket costs a
    // tenth of the handshake; besides, a resumed session's certificate is not verified again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Clients are content with either key length; with the shorter one goes SHA-256, for which
    // processors have instructions, and a handshake hashes much.
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

/// What verifies client certificates: chain, purpose, time, and revocation lists that must not have
/// expired themselves. `None` when none are asked for. A client without one is let through, so that
/// it can be told in HTTP what it lacks. All errors, not the first.
pub fn client_verifier(
    clients: &ClientCertificates,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Vec<TlsError>> {
    let path = match (clients.mode, &clients.ca) {
        (ClientCertificateMode::Off, _) | (_, None) => return Ok(None),
        (ClientCertificateMode::Optional | ClientCertificateMode::Required, Some(path)) => path,
    };
    let (mut lists, mut errors) = (Vec::new(), Vec::new());
    for path in &clients.crl {
        match revocation_lists(path) {
            Ok((found, _)) => lists.extend(found.into_iter().map(|list| (path, list))),
            Err(error) => errors.push(error),
        }
    }
    let lists = newest(lists);
    let roots = roots(path)
        .map_err(|error| errors.push(error))
        .unwrap_or_else(|()| RootCertStore::empty());
    if !errors.is_empty() {
        return Err(errors);
    }
    let roots = Arc::new(roots);
    match verifier(&roots, lists) {
        Ok(verifier) => Ok(Some(Arc::new(ClientVerifier(verifier)))),
        Err(VerifierBuilderError::InvalidCrl(_)) => Err(refused_lists(&clients.crl, &roots)),
        Err(_no_roots) => Err(vec![TlsError::ClientCa(path.clone())]),
    }
}

/// Of several lists of one issuer the newest, wherever it stands: the TLS library asks the first one
/// alone, and an older one that came first would let in who was revoked since.
fn newest(
    mut lists: Vec<(&PathBuf, CertificateRevocationListDer<'static>)>,
) -> Vec<CertificateRevocationListDer<'static>> {
    let mut seen = HashSet::new();
    lists.sort_by_cached_key(|(_, list)| Reverse(standing(list).map(|standing| standing.age)));
    let kept = lists.into_iter().filter_map(|(path, list)| {
        let path = path.display();
        if !seen.insert(standing(&list).map(|standing| standing.scope)) {
            tracing::warn!(%path, "revocation list is not used: there is a newer one of its issuer");
            return None;
        }
        if next_update(&list).is_some_and(|end| end < Timestamp::now()) {
            tracing::warn!(%path, "revocation list has expired: nobody of its CA is let in");
        }
        Some(list)
    });
    kept.collect()
}

fn verifier(
    roots: &Arc<RootCertStore>,
    lists: Vec<CertificateRevocationListDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .with_crls(lists)
        .enforce_revocation_expiration()
        .allow_unauthenticated()
        .build()
}

/// Which of the files it is that the TLS library does not take.
fn refused_lists(files: &[PathBuf], roots: &Arc<RootCertStore>) -> Vec<TlsError> {
    let refused = files.iter().filter_map(|path| {
        let (lists, _) = revocation_lists(path).ok()?;
        verifier(roots, lists).err()?;
        Some(TlsError::Crl(path.clone()))
    });
    refused.collect()
}

/// Reads the lists of a file, in PEM or in DER, and when the first of them ends.
fn revocation_lists(
    path: &Path,
) -> Result<(Vec<CertificateRevocationListDer<'static>>, Timestamp), TlsError> {
    let bytes = read(path, MAX_CRL)?;
    let lists = if bytes.first() == Some(&DER_SEQUENCE) {
        vec![bytes.into()]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .unwrap_or_default()
    };
    let ends: Option<Vec<_>> = lists.iter().map(|list| next_update(list)).collect();
    // Without a list there is no end either.
    match ends.and_then(|ends| ends.into_iter().min()) {
        Some(end) => Ok((lists, end)),
        None => Err(TlsError::NoCrl(path.to_owned())),
    }
}

/// When the first of the revocation lists in a file ends.
pub fn revocation_ends(path: &Path) -> Result<Timestamp, TlsError> {
    revocation_lists(path).map(|(_, end)| end)
}

/// The first byte of every DER structure that stands alone.
const DER_SEQUENCE: u8 = 0x30;

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Unusable {
                path: path.to_owned(),
                source,
            })?;
    }
    Ok(roots)
}

/// A configuration towards a server, and whom it trusts.
pub struct Trust {
    /// The configuration.
    pub config: Arc<ClientConfig>,
    /// Another number for other authorities.
    pub roots: u64,
}

/// The configuration towards an https upstream, with its own CA or the system's.
pub fn upstream_trust(ca: Option<&Path>) -> Result<Trust, TlsError> {
    let (roots, named) = match ca {
        Some(path) => (roots(path)?, certificates(path)?),
        None => (system_roots()?, Vec::new()),
    };
    let mut number = DefaultHasher::new();
    for root in &roots.roots {
        root.subject.as_ref().hash(&mut number);
        root.subject_public_key_info.as_ref().hash(&mut number);
    }
    named.hash(&mut number);
    let unusable = || TlsError::NoCertificate(ca.unwrap_or(Path::new("")).into());
    let chains = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|_no_roots| unusable())?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|source| TlsError::Unusable {
            path: ca.unwrap_or(Path::new("")).into(),
            source,
        })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(chains, named)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Trust {
        config: Arc::new(config),
        roots: number.finish(),
    })
}

/// Secures a connection to a server of that name. What is wrong with its certificate is said in
/// words of our own.
pub async fn secure<S: AsyncRead + AsyncWrite + Unpin>(
    config: &Arc<ClientConfig>,
    host: &str,
    stream: S,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_cause| io::Error::other("the host is no name that a certificate can have"))?;
    let connected = TlsConnector::from(Arc::clone(config)).connect(name, stream);
    connected.await.map_err(explained)
}

/// The configuration towards a directory, likewise.
pub fn directory_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::clone(&upstream_trust(ca)?.config);
    config.alpn_protocols.clear();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    Ok(roots)
}

/// Reads a file of certificates; at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path, MAX_PEM)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) | Err(_) => Err(TlsError::NoCertificate(path.to_owned())),
    }
}

/// When the first certificate of a file ends.
pub fn not_after(path: &Path) -> Result<Timestamp, TlsError> {
    read_certificate(&certificates(path)?)
        .map(|read| read.not_after)
        .ok_or_else(|| TlsError::NoCertificate(path.to_owned()))
}

/// Reads a private key.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path, MAX_PEM)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_cause| TlsError::NoKey(path.to_owned()))
}

/// Reads a public key, X.509 in PEM.
pub fn public_key(path: &Path) -> Result<Vec<u8>, TlsError> {
    let pem = read(path, MAX_PEM)?;
    SubjectPublicKeyInfoDer::from_pem_slice(&pem)
        .map(|key| key.to_vec())
        .map_err(|_cause| TlsError::NoPublicKey(path.to_owned()))
}

/// Reads a whole file: half a list revokes half of what it should.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, TlsError> {
    whole_file::read(path, limit).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::{ClientCertificateMode, ClientCertificates, Settings, TlsVersion};
    use super::{TlsError, client_verifier, server_config, upstream_trust};
    use rustls::pki_types::CertificateRevocationListDer as CrlDer;
    use std::path::{Path, PathBuf};
    use tempfile::{TempDir, tempdir};

    fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn made() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn tls(certificate: &Path, private_key: &Path) -> Settings {
        Settings {
            certificate: certificate.into(),
            private_key: private_key.into(),
            min_version: TlsVersion::Tls12,
            client_certificates: ClientCertificates::default(),
        }
    }

    #[test]
    fn a_fitting_pair_is_accepted_and_anything_else_is_named() {
        let folder = tempdir().unwrap();
        let ((cert, key), (_, other)) = (made(), made());
        let cert = write(&folder, "cert.pem", &cert);
        let key = write(&folder, "key.pem", &key);
        let other = write(&folder, "other.pem", &other);
        let junk = write(&folder, "junk.pem", "junk");
        let config = server_config(&tls(&cert, &key), None).unwrap();
        assert_eq!(
            config.alpn_protocols,
            [b"h2".to_vec(), b"http/1.1".to_vec()]
        );
        let error = |certificate: &Path, key: &Path| {
            let mut found = server_config(&tls(certificate, key), None).unwrap_err();
            assert_eq!(found.len(), 1);
            found.remove(0)
        };
        assert!(matches!(error(&cert, &other), TlsError::Mismatch { .. }));
        assert!(matches!(error(&junk, &key), TlsError::NoCertificate(_)));
        assert!(matches!(error(&cert, &junk), TlsError::NoKey(_)));
        assert!(matches!(error(&key, &key), TlsError::NoCertificate(_)));
        assert!(matches!(
            error(Path::new("/nonexistent"), &key),
            TlsError::Read { .. }
        ));
        let both = server_config(&tls(&junk, &junk), None).unwrap_err();
        assert!(matches!(
            both[..],
            [TlsError::NoCertificate(_), TlsError::NoKey(_)]
        ));
        assert!(upstream_trust(Some(&cert)).is_ok());
        assert!(matches!(
            upstream_trust(Some(&junk)),
            Err(TlsError::NoCertificate(_))
        ));
    }

    /// By a CA that numbers none of its lists.
    const WITHOUT_NUMBER: &str = "-----BEGIN X509 CRL-----
MIGWMD4CAQEwCgYIKoZIzj0EAwIwDTELMAkGA1UEAwwCY2EXDTI2MDEwMTAwMDAw
MFoYDzIwOTYwMTAxMDAwMDAwWjAKBggqhkjOPQQDAgNIADBFAiBppVvbQsT80b/K
F64qN7tczrkm3Hs/7bUq1pBUD+kmKgIhAMG05/iyXu3hU/OkwUJ5Q+m+YCW07udH
8MMgPhR3rFw1
-----END X509 CRL-----
";

    #[test]
    fn a_revocation_list_that_cannot_be_used_is_named_with_the_remedy() {
        let folder = tempdir().unwrap();
        let clients = ClientCertificates {
            mode: ClientCertificateMode::Optional,
            ca: Some(write(&folder, "ca.pem", &made().0)),
            crl: vec![write(&folder, "clients.crl", WITHOUT_NUMBER)],
            ..ClientCertificates::default()
        };
        let errors = client_verifier(&clients).unwrap_err();
        let [error @ TlsError::Crl(path)] = &errors[..] else {
            panic!("{errors:?}")
        };
        assert_eq!(*path, clients.crl[0]);
        assert!(error.to_string().contains("CRL number"), "{error}");
    }

    /// A list with a number, made on a day of January; numbers of 300 take two bytes.
    fn list(by: &rcgen::Issuer<'_, rcgen::KeyPair>, number: u64, day: u8) -> CrlDer<'static> {
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2026, 1, day),
            next_update: rcgen::date_time_ymd(2096, 1, 1),
            crl_number: number.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(by).unwrap().der().clone()
    }

    #[test]
    fn of_the_lists_of_an_issuer_the_newest_counts_wherever_it_stands() {
        let issuer = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
            rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap())
        };
        let (a, b) = (issuer("a"), issuer("b"));
        let lists = [
            list(&a, 9, 9),
            list(&a, 300, 2),
            list(&a, 300, 3),
            list(&b, 1, 1),
        ];
        let [_, _, newest_of_a, of_b] = &lists;
        let path = PathBuf::from("lists");
        for shift in 0..lists.len() {
            let mut order: Vec<_> = lists.iter().map(|list| (&path, list.clone())).collect();
            order.rotate_left(shift);
            let kept = super::newest(order);
            assert_eq!(kept, [newest_of_a.clone(), of_b.clone()], "{shift}");
        }
    }
}
