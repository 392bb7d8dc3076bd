//! What is wrong with certificates that the configuration names, before anybody is shown them.

use std::path::Path;

use jiff::Timestamp;
use rustls::CertificateError;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Version};

use super::words::{Unfit, certificate};
use super::{TlsError, certificates};

/// Faults that clients will find with our own certificate, the first of a file, in words. Its end is
/// told elsewhere. Without a `host` it has to name any.
pub fn faults_of_own(
    path: &Path,
    host: Option<&str>,
    now: Timestamp,
) -> Result<Vec<String>, TlsError> {
    let all = certificates(path)?;
    let shown = all.first().map(AsRef::as_ref);
    let Some(Ok((_, read))) = shown.map(X509Certificate::from_der) else {
        return Ok(vec![Unfit::Unreadable.to_string()]);
    };
    let mut found = Vec::new();
    if read.is_ca() {
        found.push(Unfit::Authority.to_string());
    }
    if read.validity().not_before.timestamp() > now.as_second() {
        found.extend(out_of_date(&read, now));
    }
    found.extend(as_a_servers(&read, host.as_slice()));
    if host.is_none() && read.version() == X509Version::V3 && !names_a_host(&read) {
        found.push(NO_HOST.to_owned());
    }
    Ok(found)
}

const NO_HOST: &str = "the certificate names no host; it has to have one as subjectAltName";

/// Faults of a file of authorities, or of certificates of the very servers, for servers at `hosts`.
/// While one of its certificates has none, there are none: a file may hold old ones as well.
pub fn faults_of_authorities(
    path: &Path,
    hosts: &[&str],
    now: Timestamp,
) -> Result<Vec<String>, TlsError> {
    let mut found: Vec<String> = Vec::new();
    for one in certificates(path)? {
        let faults = faults_of_one(&one, hosts, now);
        if faults.is_empty() {
            return Ok(faults);
        }
        found.extend(faults);
    }
    found.dedup();
    Ok(found)
}

fn faults_of_one(one: &CertificateDer<'_>, hosts: &[&str], now: Timestamp) -> Vec<String> {
    let Ok((_, read)) = X509Certificate::from_der(one) else {
        return vec![Unfit::Unreadable.to_string()];
    };
    let end = out_of_date(&read, now);
    // An authority names no host; a certificate that does is a server's, whatever else it says.
    let names_host = names_a_host(&read) || is_called(&read, hosts);
    let of_a_server = (!read.is_ca() || names_host).then(|| as_a_servers(&read, hosts));
    end.into_iter()
        .chain(of_a_server.into_iter().flatten())
        .collect()
}

fn out_of_date(read: &X509Certificate<'_>, now: Timestamp) -> Option<String> {
    let time = |second: i64| {
        let second = u64::try_from(second).unwrap_or_default();
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(second))
    };
    let validity = read.validity();
    let not_before = validity.not_before.timestamp();
    let not_after = validity.not_after.timestamp();
    let at = time(now.as_second());
    let fault = if now.as_second() < not_before {
        let not_before = time(not_before);
        CertificateError::NotValidYetContext {
            time: at,
            not_before,
        }
    } else if now.as_second() > not_after {
        let not_after = time(not_after);
        CertificateError::ExpiredContext {
            time: at,
            not_after,
        }
    } else {
        return None;
    };
    Some(certificate(&fault))
}

/// What would be wrong if a server at one of `hosts` showed it.
fn as_a_servers(read: &X509Certificate<'_>, hosts: &[&str]) -> Vec<String> {
    if read.version() != X509Version::V3 {
        return vec![Unfit::Version.to_string()];
    }
    let mut found = Vec::new();
    let usage = read.extended_key_usage().ok().flatten();
    if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        found.push(certificate(&CertificateError::InvalidPurpose));
    }
    let shown = CertificateDer::from(read.as_raw());
    let wrong: Option<Vec<_>> = hosts.iter().map(|host| wrong_host(&shown, host)).collect();
    found.extend(wrong.unwrap_or_default().into_iter().take(1));
    found
}

/// Why it is not for a host; `None` if it is.
fn wrong_host(shown: &CertificateDer<'_>, host: &str) -> Option<String> {
    let name = ServerName::try_from(host).ok()?;
    let parsed = ParsedCertificate::try_from(shown).ok()?;
    match verify_server_name(&parsed, &name) {
        Err(rustls::Error::InvalidCertificate(cause)) => Some(certificate(&cause)),
        Ok(()) | Err(_) => None,
    }
}

fn names_a_host(read: &X509Certificate<'_>) -> bool {
    let names = read.subject_alternative_name().ok().flatten();
    let mut names = names.iter().flat_map(|names| &names.value.general_names);
    names.any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
}

/// Returns true if its common name is that of a host: it was meant for that one.
fn is_called(read: &X509Certificate<'_>, hosts: &[&str]) -> bool {
    let mut names = read.subject().iter_common_name();
    names.any(|name| {
        let name = name.as_str().unwrap_or_default();
        hosts.iter().any(|host| host.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests {
    use super::{faults_of_authorities, faults_of_own};
    use jiff::Timestamp;
    use rcgen::{
        BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, date_time_ymd,
    };
    use tempfile::tempdir;

    type Change = fn(&mut CertificateParams);

    fn made(change: Change) -> String {
        let mut params = CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        let names = &mut params.distinguished_name;
        names.push(DnType::CommonName, "registry.test");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    fn authority(params: &mut CertificateParams) {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }

    /// What is said of both: as our own certificate, and as a `ca` of a registry.
    fn told(pem: &str) -> (Vec<String>, Vec<String>) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("a.pem");
        std::fs::write(&path, pem).unwrap();
        let now = Timestamp::now();
        (
            faults_of_own(&path, Some("registry.test"), now).unwrap(),
            faults_of_authorities(&path, &["registry.test"], now).unwrap(),
        )
    }

    #[test]
    fn what_is_wrong_is_said_before_it_is_shown() {
        let changes: [(Change, &[&str], &[&str]); 8] = [
            (|_| {}, &[], &[]),
            (authority, &["CA:TRUE"], &[]),
            (
                |params| params.not_after = date_time_ymd(2001, 1, 1),
                // Its end is told with the other endings.
                &[],
                &["expired on 2001-01-01"],
            ),
            (
                |params| params.not_before = date_time_ymd(2090, 1, 1),
                &["not valid before 2090"],
                &["not valid before 2090"],
            ),
            (
                |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth],
                &["another purpose"],
                &["another purpose"],
            ),
            (
                |params| params.subject_alt_names.clear(),
                &["names no host"],
                &["names no host"],
            ),
            (
                |params| {
                    let other = "other.test".try_into().unwrap();
                    params.subject_alt_names = vec![rcgen::SanType::DnsName(other)];
                },
                &["is not for registry.test but for other.test"],
                &["is not for registry.test but for other.test"],
            ),
            // `openssl req -x509 -subj /CN=registry.test`, meant for the registry.
            (
                |params| {
                    authority(params);
                    params.subject_alt_names.clear();
                },
                &["CA:TRUE", "names no host"],
                &["names no host"],
            ),
        ];
        for (number, (change, own, ca)) in changes.into_iter().enumerate() {
            let (as_own, as_ca) = told(&made(change));
            for (told, expected) in [(as_own, own), (as_ca, ca)] {
                assert_eq!(told.len(), expected.len(), "{number} {told:?}");
                for (told, expected) in told.iter().zip(expected) {
                    assert!(told.contains(expected), "{number} {told}");
                }
            }
        }
    }

    #[test]
    fn an_authority_names_no_host_and_one_good_certificate_is_enough() {
        let authority = |params: &mut CertificateParams| {
            authority(params);
            params.subject_alt_names.clear();
            params.distinguished_name = DistinguishedName::new();
        };
        let expired = made(|params| params.not_after = date_time_ymd(2001, 1, 1));
        let mut params = CertificateParams::default();
        authority(&mut params);
        let key = KeyPair::generate().unwrap();
        let good = params.self_signed(&key).unwrap().pem();
        assert!(told(&good).1.is_empty());
        assert!(told(&(expired.clone() + &good)).1.is_empty());
        assert_eq!(told(&(expired.clone() + &expired)).1.len(), 1);
    }

    #[test]
    fn version_1_is_told() {
        let (own, ca) = told(super::super::verify::VERSION_1);
        assert!(own[0].contains("version 1"), "{own:?}");
        assert!(ca[0].contains("version 1"), "{ca:?}");
    }
}
