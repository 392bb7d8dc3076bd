//! What the configuration says about TLS and client certificates.

use std::path::PathBuf;

use crate::identity::CertificateField;

/// What the listener's TLS is made of, `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// PEM, the chain.
    pub certificate: PathBuf,
    /// PEM, the key of its first certificate.
    pub private_key: PathBuf,
    /// The oldest version accepted.
    pub min_version: TlsVersion,
    /// `[tls.client_certificates]`
    pub client_certificates: ClientCertificates,
}

/// The oldest TLS version accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// `[tls.client_certificates]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificates {
    /// Whether clients are asked for one.
    pub mode: ClientCertificateMode,
    /// PEM, the authorities that issue them; there whenever `mode` is not off.
    pub ca: Option<PathBuf>,
    /// Revocation lists.
    pub crl: Vec<PathBuf>,
    /// Whom it names: the first kind present. Empty: it is a gate only.
    pub username: Vec<CertificateField>,
    /// Where it names groups.
    pub groups: Option<CertificateField>,
}

/// Whether clients are asked for a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificateMode {
    /// They are not.
    #[default]
    Off,
    /// They are, and may come without.
    Optional,
    /// Without one there is no connection.
    Required,
}
