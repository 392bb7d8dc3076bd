//! What is wrong with a certificate or a handshake, in words of our own: those of the TLS library are
//! the names of its errors.

use std::error::Error;
use std::io;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{AlertDescription, CertificateError, OtherError};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// What to do about a server whose certificate is refused.
pub const REMEDY: &str = "name as `ca` the authority that issued the server's certificate, or that \
    very certificate; it has to be in date and to name the host. One is made with: openssl req -x509 \
    -newkey rsa:2048 -nodes -days 365 -subj /CN=HOST -addext subjectAltName=DNS:HOST -keyout \
    server.key -out server.pem (IP:ADDRESS instead of DNS:HOST for an address)";

/// What to do about our own certificate, if clients will refuse it.
pub const OWN_REMEDY: &str = "clients want one of X.509 version 3 that names the host as subjectAltName, is for \
    server authentication and is no authority itself; for trials `portcullis certs server` makes it";

/// Faults for which the TLS library has no name that it exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error(
        "the certificate is that of an authority (it says CA:TRUE), not of a server or a client"
    )]
    Authority,
    #[error("the certificate is of X.509 version 1 or 2; it has to be of version 3")]
    Version,
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificates between it and its authority do not fit together")]
    Chain,
}

/// Finds out what the library does not say about a certificate that it refused.
pub(super) fn explain(error: rustls::Error, shown: &CertificateDer<'_>) -> rustls::Error {
    let is_nameless = matches!(
        error,
        rustls::Error::InvalidCertificate(
            CertificateError::Other(_) | CertificateError::BadEncoding
        )
    );
    if is_nameless {
        let unfit = OtherError(std::sync::Arc::new(unfit(shown)));
        CertificateError::Other(unfit).into()
    } else {
        error
    }
}

fn unfit(shown: &CertificateDer<'_>) -> Unfit {
    match X509Certificate::from_der(shown) {
        Err(_) => Unfit::Unreadable,
        Ok((_, read)) if read.version() != X509Version::V3 => Unfit::Version,
        Ok((_, read)) if read.is_ca() => Unfit::Authority,
        Ok(_) => Unfit::Chain,
    }
}

/// An error in words, those of the TLS library replaced by ours.
pub fn in_words(error: &(dyn Error + 'static)) -> String {
    find(error).map_or_else(|| error.to_string(), handshake)
}

/// An error of a connection with the words of [`in_words`].
pub fn explained(error: io::Error) -> io::Error {
    match find(&error) {
        Some(found) => io::Error::new(error.kind(), handshake(found)),
        None => error,
    }
}

/// The error of the TLS library that an error stands for.
fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add variants at any time; all but those named have the general words"
)]
fn handshake(error: &rustls::Error) -> String {
    let text = match error {
        rustls::Error::InvalidCertificate(cause) => return certificate(cause),
        rustls::Error::AlertReceived(alert) => return alert_received(*alert),
        rustls::Error::InvalidCertRevocationList(_) => "the revocation list cannot be used",
        rustls::Error::NoCertificatesPresented => "the other side has shown no certificate",
        rustls::Error::InvalidMessage(_)
        | rustls::Error::InappropriateMessage { .. }
        | rustls::Error::InappropriateHandshakeMessage { .. } => {
            "the other side does not speak TLS"
        }
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => {
            "the other side offers no version, cipher or protocol that is safe to use"
        }
        rustls::Error::PeerMisbehaved(_) => "the other side breaks the rules of TLS",
        rustls::Error::InconsistentKeys(_) => "the private key does not fit the certificate",
        _ => "TLS with the other side failed",
    };
    text.to_owned()
}

/// Why a certificate is refused.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add variants at any time; all but those named have the general words"
)]
pub fn certificate(cause: &CertificateError) -> String {
    let text = match cause {
        CertificateError::Other(OtherError(other)) => {
            let ours = other.downcast_ref::<Unfit>();
            return ours.copied().unwrap_or(Unfit::Chain).to_string();
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!("the certificate expired on {}", day(*not_after));
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!("the certificate is not valid before {}", day(*not_before));
        }
        CertificateError::ExpiredRevocationListContext { next_update, .. } => {
            return format!(
                "the revocation list of its authority expired on {}",
                day(*next_update)
            );
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                return format!(
                    "the certificate names no host; it has to have {expected} as subjectAltName"
                );
            }
            let named: Vec<_> = presented.iter().map(|name| plain(name)).collect();
            return format!(
                "the certificate is not for {expected} but for {}",
                named.join(", ")
            );
        }
        CertificateError::Expired => "the certificate has expired",
        CertificateError::NotValidYet => "the certificate is not valid yet",
        CertificateError::Revoked => "the certificate is revoked",
        CertificateError::UnknownIssuer => {
            "the certificate is neither issued by a trusted authority nor trusted itself"
        }
        CertificateError::UnknownRevocationStatus => {
            "no revocation list says whether the certificate is revoked"
        }
        CertificateError::ExpiredRevocationList => {
            "the revocation list of its authority has expired"
        }
        CertificateError::BadEncoding => return Unfit::Unreadable.to_string(),
        CertificateError::BadSignature => "a signature in the certificate or handshake is wrong",
        CertificateError::NotValidForName => "the certificate is for another host",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is for another purpose (extendedKeyUsage)"
        }
        CertificateError::UnhandledCriticalExtension => {
            "the certificate has a critical extension that is not understood"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "the certificate is signed with an algorithm that is not accepted, or with too short a key"
        }
        _ => "the certificate is not accepted",
    };
    text.to_owned()
}

/// Names are written as `DnsName("localhost")` by the library.
fn plain(name: &str) -> &str {
    let mut parts = name.split('"');
    match (parts.next(), parts.next()) {
        (Some(_), Some(inner)) => inner,
        (_, _) => name,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library may add variants at any time; all but those named have the general words"
)]
fn alert_received(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::CertificateRequired => "the other side asks for a certificate of ours",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA => "the other side refuses the certificate",
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => {
            "the other side offers no version or cipher that is safe to use"
        }
        AlertDescription::UnrecognisedName => "the other side does not know the host name",
        _ => "the other side ended the TLS connection",
    };
    text.to_owned()
}

fn day(time: UnixTime) -> String {
    let second = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let time = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    time.strftime("%F %R UTC").to_string()
}
