//! The revocation list of a trial CA (RFC 5280, section 5): values in, PEM out, no files.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rcgen::{
    CertificateParams, CertificateRevocationListParams, KeyIdMethod, RevokedCertParams,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, ParsedExtension, X509Certificate, X509Extension,
};

use super::issue::{Authority, IssueError, unusable};

/// A certificate's serial number, and since when it is revoked.
type Revoked = (Vec<u8>, Timestamp);

/// A revocation list.
pub struct Revocations {
    /// The list in PEM.
    pub pem: String,
    /// Certificates on it.
    pub count: usize,
    /// Whether the certificate that was to be added was on it already.
    pub is_repeat: bool,
}

impl Authority {
    /// Revokes what the list before did and, if one is given, one more certificate. Until `until` the
    /// list is good; afterwards no certificate of this CA is.
    pub fn revoke(
        &self,
        before: Option<&str>,
        certificate: Option<&str>,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Revocations, IssueError> {
        let der = CertificateDer::from_pem_slice(self.pair().certificate.as_bytes())
            .map_err(|_cause| unusable("the CA's certificate is not in PEM"))?;
        let (_, ca) = X509Certificate::from_der(&der)
            .map_err(|_cause| unusable("the CA's certificate cannot be parsed"))?;
        let mut revoked = match before {
            Some(list) => read(list, &ca)?,
            None => Vec::new(),
        };
        let mut is_repeat = false;
        if let Some(certificate) = certificate {
            let serial = serial(certificate, &ca)?;
            is_repeat = revoked.iter().any(|(known, _)| *known == serial);
            if !is_repeat {
                revoked.push((serial, now));
            }
        }
        let count = revoked.len();
        // A moment of the library, whose type is not ours to name.
        let at = |moment: Timestamp| {
            let time = moment.to_zoned(TimeZone::UTC);
            let (month, day) = (time.month().unsigned_abs(), time.day().unsigned_abs());
            let second = moment.as_second().rem_euclid(24 * 60 * 60).unsigned_abs();
            let midnight = rcgen::date_time_ymd(i32::from(time.year()), month, day);
            let of_day = Duration::from_secs(second).try_into().ok();
            let moment = of_day.and_then(|of_day| midnight.checked_add(of_day));
            moment.ok_or(unusable("the revocation list would be beyond the calendar"))
        };
        let revoked = revoked.into_iter().map(|(serial, since)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: at(since)?,
                reason_code: None,
                invalidity_date: None,
            })
        });
        let list = CertificateRevocationListParams {
            this_update: at(now)?,
            next_update: at(until)?,
            // Grows from list to list (section 5.2.3).
            crl_number: now.as_microsecond().unsigned_abs().into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, IssueError>>()?,
            key_identifier_method: key_identifier(&ca).map_or_else(
                || CertificateParams::default().key_identifier_method,
                |id| KeyIdMethod::PreSpecified(id.to_vec()),
            ),
        };
        Ok(Revocations {
            pem: list.signed_by(&self.issuer)?.pem()?,
            count,
            is_repeat,
        })
    }
}

/// What a list of this CA revokes.
fn read(list: &str, ca: &X509Certificate<'_>) -> Result<Vec<Revoked>, IssueError> {
    let der = CertificateRevocationListDer::from_pem_slice(list.as_bytes())
        .map_err(|_cause| unusable("the revocation list is not in PEM"))?;
    let (_, list) = CertificateRevocationList::from_der(&der)
        .map_err(|_cause| unusable("the revocation list cannot be parsed"))?;
    if list.issuer().as_raw() != ca.subject().as_raw() || !is_by(list.extensions(), ca) {
        return Err(unusable(
            "the revocation list is that of another CA: remove it, and a new one begins",
        ));
    }
    let revoked = list.iter_revoked_certificates().map(|one| {
        let since = Timestamp::from_second(one.revocation_date.timestamp());
        let since = since.map_err(|_cause| unusable("the revocation list is beyond the calendar"));
        Ok((one.raw_serial().to_vec(), since?))
    });
    revoked.collect()
}

/// The serial number of a certificate that this CA issued.
fn serial(certificate: &str, ca: &X509Certificate<'_>) -> Result<Vec<u8>, IssueError> {
    let der = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|_cause| unusable("the certificate is not in PEM"))?;
    let (_, certificate) = X509Certificate::from_der(&der)
        .map_err(|_cause| unusable("the certificate cannot be parsed"))?;
    if certificate.issuer().as_raw() != ca.subject().as_raw()
        || !is_by(certificate.extensions(), ca)
    {
        return Err(unusable("the certificate was issued by another CA"));
    }
    if certificate.is_ca() {
        return Err(unusable(
            "the certificate is that of a CA, which no list of its own can revoke",
        ));
    }
    Ok(certificate.raw_serial().to_vec())
}

/// Whether the issuer's key is this CA's, where it is named: trial CAs bear one name.
fn is_by(extensions: &[X509Extension<'_>], ca: &X509Certificate<'_>) -> bool {
    let mut named = extensions.iter().filter_map(|one| {
        if let ParsedExtension::AuthorityKeyIdentifier(of) = one.parsed_extension() {
            of.key_identifier.as_ref()
        } else {
            None
        }
    });
    match (named.next(), key_identifier(ca)) {
        (Some(named), Some(own)) => named.0 == own,
        (None, _) | (_, None) => true,
    }
}

/// How the CA's certificate names its key.
fn key_identifier<'a>(ca: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    let mut named = ca.extensions().iter().filter_map(|one| {
        if let ParsedExtension::SubjectKeyIdentifier(id) = one.parsed_extension() {
            Some(id.0)
        } else {
            None
        }
    });
    named.next()
}
