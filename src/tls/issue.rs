//! A CA for trials and small sites, and the certificates that it issues: values in, PEM out, no files.

use std::net::IpAddr;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

type Result<T> = std::result::Result<T, IssueError>;

/// Reasons why no certificate is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A text that does not fit into a certificate.
    #[error("{0} is not plain ASCII")]
    Ascii(String),
    /// A CA, a certificate or a revocation list that cannot be used.
    #[error("{0}")]
    Authority(&'static str),
    /// A certificate that would outlive its CA.
    #[error(
        "the certificate would end on {until}, after its CA on {authority}; ask for fewer days or \
         make a new CA"
    )]
    Outlives {
        /// The end of the certificate.
        until: Date,
        /// The end of the CA.
        authority: Date,
    },
    /// A name that is no mail address.
    #[error("{0} is no mail address")]
    Email(String),
    /// A name that is no host.
    #[error("{0} is not a host name or an address, without scheme or port")]
    Host(String),
    /// A lifetime beyond the calendar.
    #[error("the certificate would last too long: {0}")]
    Lifetime(#[from] jiff::Error),
    /// A failure of the library that makes keys and certificates.
    #[error("cannot make a key or certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// A server without a name.
    #[error("a server needs a name")]
    Nameless,
    /// A name that is no URI.
    #[error("{0} is no URI: scheme://...")]
    Uri(String),
}

/// A certificate and its key, both PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: Zeroizing<String>,
}

/// From yesterday, for clocks that are behind, to a day that is always named: without one rcgen
/// would write certificates that end in the year 4096.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    from: Date,
    until: Date,
}

impl Validity {
    /// Days from now.
    pub fn days(now: Timestamp, days: u32) -> Result<Self> {
        Self::lasting(now, Span::new().try_days(days)?)
    }

    /// Years from now.
    pub fn years(now: Timestamp, years: u16) -> Result<Self> {
        Self::lasting(now, Span::new().try_years(years)?)
    }

    fn lasting(now: Timestamp, span: Span) -> Result<Self> {
        let today = now.to_zoned(TimeZone::UTC).date();
        let until = today.checked_add(span);
        Ok(Self {
            from: today.checked_sub(1.day())?,
            // The year 9999 is where certificates end.
            until: until?,
        })
    }

    fn apply(self, params: &mut CertificateParams) {
        let [from, until] = [self.from, self.until].map(|date| {
            let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
            rcgen::date_time_ymd(i32::from(date.year()), month, day)
        });
        params.not_before = from;
        params.not_after = until;
    }
}

/// Content of a client certificate.
pub struct Client<'a> {
    /// The subject's CN.
    pub name: &'a str,
    /// The subject's OUs.
    pub groups: &'a [String],
    /// URIs that it names as well.
    pub uris: &'a [String],
    /// Mail addresses that it names as well.
    pub emails: &'a [String],
}

/// A CA that can issue.
pub struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pair: Pair,
    until: Date,
}

impl Authority {
    /// Makes one that issues end certificates only.
    pub fn create(name: &str, validity: Validity) -> Result<Self> {
        let mut params = CertificateParams::default();
        validity.apply(&mut params);
        params.distinguished_name = subject(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = generate()?;
        let certificate = params.self_signed(&key)?;
        let pair = pair(&certificate, &key);
        Ok(Self {
            issuer: Issuer::new(params, key),
            pair,
            until: validity.until,
        })
    }

    /// Reads one; the key must be the certificate's.
    pub fn open(certificate: String, key: Zeroizing<String>) -> Result<Self> {
        let pair = Pair { certificate, key };
        let key = KeyPair::from_pem(&pair.key)
            .map_err(|_cause| unusable("the key is not a private key in PEM (PKCS #8)"))?;
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes())
            .map_err(|_cause| unusable("the certificate is not in PEM"))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|_cause| unusable("the certificate cannot be parsed"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(unusable("the key belongs to another certificate"));
        }
        if !parsed.is_ca() {
            return Err(unusable("the certificate is not that of a CA"));
        }
        let end = Timestamp::from_second(parsed.validity().not_after.timestamp())
            .map_err(|_cause| unusable("the certificate ends beyond the calendar"))?;
        Ok(Self {
            until: end.to_zoned(TimeZone::UTC).date(),
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            pair,
        })
    }

    /// A certificate for a server that answers to `names`, host names or addresses.
    pub fn server(&self, names: &[String], validity: Validity) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| host(name)).collect::<Result<_>>()?;
        let first = names.first().ok_or(IssueError::Nameless)?;
        params.distinguished_name = subject(first, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, validity)
    }

    /// A certificate that identifies a client.
    pub fn client(&self, client: &Client<'_>, validity: Validity) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(client.name, client.groups);
        let uris = client.uris.iter().map(|uri| {
            if !uri.contains("://") {
                return Err(IssueError::Uri(uri.clone()));
            }
            Ok(SanType::URI(ascii(uri)?))
        });
        let emails = client.emails.iter().map(|email| {
            if !email.contains('@') {
                return Err(IssueError::Email(email.clone()));
            }
            Ok(SanType::Rfc822Name(ascii(email)?))
        });
        params.subject_alt_names = uris.chain(emails).collect::<Result<_>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, validity)
    }

    fn issue(&self, mut params: CertificateParams, validity: Validity) -> Result<Pair> {
        if validity.until > self.until {
            return Err(IssueError::Outlives {
                until: validity.until,
                authority: self.until,
            });
        }
        validity.apply(&mut params);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(pair(&certificate, &key))
    }

    /// The CA's own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }
}

/// A key that signs tokens (PKCS #8 in PEM; ES256, RFC 7518, section 3.4).
pub fn token_key() -> Result<Zeroizing<String>> {
    Ok(generate()?.serialize_pem().into())
}

fn generate() -> Result<KeyPair> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

pub(super) fn unusable(why: &'static str) -> IssueError {
    IssueError::Authority(why)
}

fn pair(certificate: &rcgen::Certificate, key: &KeyPair) -> Pair {
    Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem().into(),
    }
}

fn subject(name: &str, groups: &[String]) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    for group in groups {
        subject.push(DnType::OrganizationalUnitName, group.as_str());
    }
    subject.push(DnType::CommonName, name);
    subject
}

fn host(name: &str) -> Result<SanType> {
    let refused = || IssueError::Host(name.escape_debug().to_string());
    let unstarred = name.strip_prefix("*.").unwrap_or(name);
    match ServerName::try_from(unstarred) {
        Ok(ServerName::IpAddress(_)) => {
            let address = IpAddr::from_str(name).map_err(|_starred| refused())?;
            Ok(SanType::IpAddress(address))
        }
        Ok(ServerName::DnsName(_)) => Ok(SanType::DnsName(ascii(name)?)),
        _ => Err(refused()),
    }
}

fn ascii(text: &str) -> Result<Ia5String> {
    let refused = || IssueError::Ascii(text.escape_debug().to_string());
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refused());
    }
    Ia5String::try_from(text).map_err(|_not_ascii| refused())
}
