//! A certificate authority of the test's own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

pub(crate) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    /// PEM of the authority.
    pub(crate) ca: String,
    /// PEM of its key.
    pub(crate) key: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    /// With the certificates of intermediate authorities after it, if there are any.
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pki {
    /// All of them have the same name, so a certificate of another one is told by its signature.
    pub(crate) fn new() -> Self {
        let mut params = params("Portcullis test CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap().pem();
        let pem = key.serialize_pem();
        let issuer = Issuer::new(params, key);
        Self {
            issuer,
            ca,
            key: pem,
        }
    }

    /// A server's certificate that is its own authority.
    pub(crate) fn self_signed() -> Pair {
        let mut params = params("localhost");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().unwrap())];
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    /// A server certificate for every name under which a test reaches the proxy.
    pub(crate) fn server(&self) -> Pair {
        self.issue("registry.test", |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.subject_alt_names = vec![
                SanType::DnsName("localhost".try_into().unwrap()),
                SanType::DnsName("registry.test".try_into().unwrap()),
                SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
                SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
            ];
        })
    }

    /// A client certificate whose CN is the name.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.client_with(name, |_| {})
    }

    /// A client certificate that is different in one thing.
    pub(crate) fn client_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        self.issue(name, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            change(params);
        })
    }

    /// A client certificate with a serial number, to be revoked by.
    pub(crate) fn numbered(&self, name: &str, serial: u64) -> Pair {
        self.client_with(name, |params| params.serial_number = Some(serial.into()))
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair {
            certificate,
            key: key.serialize_pem(),
        }
    }

    /// An authority below this one, or something that takes itself for one: `change` says. What it
    /// issues carries its own certificate.
    pub(crate) fn intermediate(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Intermediate {
        let mut params = params(name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        let pki = Self {
            key: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            ca: self.ca.clone(),
        };
        Intermediate { pki, certificate }
    }

    /// A revocation list that is good for long.
    pub(crate) fn crl(&self, serials: &[u64]) -> String {
        self.crl_with(serials, |_| {})
    }

    /// A revocation list that is different in one thing.
    pub(crate) fn crl_with(
        &self,
        serials: &[u64],
        change: impl FnOnce(&mut CertificateRevocationListParams),
    ) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 2),
            reason_code: None,
            invalidity_date: None,
        };
        let mut params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2049, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        change(&mut params);
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// See [`Pki::intermediate`].
pub(crate) struct Intermediate {
    pki: Pki,
    certificate: String,
}

impl Intermediate {
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.client_with(name, |_| {})
    }

    pub(crate) fn client_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let mut pair = self.pki.client_with(name, change);
        pair.certificate += &self.certificate;
        pair
    }

    /// Its revocation list, which names nobody.
    pub(crate) fn crl(&self) -> String {
        self.pki.crl(&[])
    }
}

/// Lets a certificate end so many seconds from now.
pub(crate) fn ends_in(seconds: u64) -> impl FnOnce(&mut CertificateParams) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_secs() + seconds);
    move |params| params.not_after = end
}

/// Puts a second value of a kind into a subject; rcgen keeps one by its usual name.
pub(crate) fn second(
    kind: &[u64],
    value: impl Into<DnValue>,
) -> impl FnOnce(&mut CertificateParams) {
    let (kind, value) = (DnType::CustomDnType(kind.to_vec()), value.into());
    move |params| params.distinguished_name.push(kind, value)
}

/// The common name (RFC 5280 appendix A.1).
pub(crate) const CN: &[u64] = &[2, 5, 4, 3];
/// The organisational unit.
pub(crate) const OU: &[u64] = &[2, 5, 4, 11];

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
