//! Making the keys and certificates: values in, PEM out, no files.

use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
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

/// A certificate and its key, both PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: Zeroizing<String>,
}

/// From yesterday, for clocks that are behind, to a day that is always named: without one rcgen
/// would write certificates that end in the year 4096.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    from: Date,
    until: Date,
}

impl Validity {
    pub(crate) fn days(now: Timestamp, days: u32) -> Result<Self> {
        let span = Span::new().try_days(days);
        Self::lasting(now, span.context("--days is too large")?)
    }

    pub(crate) fn years(now: Timestamp, years: u16) -> Result<Self> {
        Self::lasting(now, Span::new().try_years(years)?)
    }

    fn lasting(now: Timestamp, span: Span) -> Result<Self> {
        let today = now.to_zoned(TimeZone::UTC).date();
        let until = today.checked_add(span);
        Ok(Self {
            from: today.checked_sub(1.day())?,
            // The year 9999 is where certificates end.
            until: until.context("--days is too large")?,
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
pub(crate) struct Client<'a> {
    pub(crate) name: &'a str,
    pub(crate) groups: &'a [String],
    pub(crate) uris: &'a [String],
    pub(crate) emails: &'a [String],
}

/// A CA that can issue.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pair: Pair,
    until: Date,
}

impl Authority {
    /// Makes one that issues end certificates only.
    pub(crate) fn create(name: &str, validity: Validity) -> Result<Self> {
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
    pub(crate) fn open(certificate: String, key: Zeroizing<String>) -> Result<Self> {
        let pair = Pair { certificate, key };
        let key = KeyPair::from_pem(&pair.key)
            .map_err(|_cause| anyhow!("the key is not a private key in PEM (PKCS #8)"))?;
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes())
            .map_err(|_cause| anyhow!("the certificate is not in PEM"))?;
        let (_, parsed) = X509Certificate::from_der(&der)
            .map_err(|_cause| anyhow!("the certificate cannot be parsed"))?;
        ensure!(
            parsed.public_key().raw == key.subject_public_key_info(),
            "the key belongs to another certificate"
        );
        ensure!(parsed.is_ca(), "the certificate is not that of a CA");
        let end = Timestamp::from_second(parsed.validity().not_after.timestamp())?;
        Ok(Self {
            until: end.to_zoned(TimeZone::UTC).date(),
            issuer: Issuer::from_ca_cert_der(&der, key)?,
            pair,
        })
    }

    /// A certificate for a server that answers to `names`, host names or addresses.
    pub(crate) fn server(&self, names: &[String], validity: Validity) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| host(name)).collect::<Result<_>>()?;
        let first = names.first().context("a server needs a --name")?;
        params.distinguished_name = subject(first, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params, validity)
    }

    /// A certificate that identifies a client.
    pub(crate) fn client(&self, client: &Client<'_>, validity: Validity) -> Result<Pair> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(client.name, client.groups);
        let uris = client.uris.iter().map(|uri| {
            ensure!(uri.contains("://"), "--uri {uri} is no URI: scheme://...");
            Ok(SanType::URI(ascii(uri)?))
        });
        let emails = client.emails.iter().map(|email| {
            ensure!(email.contains('@'), "--email {email} is no mail address");
            Ok(SanType::Rfc822Name(ascii(email)?))
        });
        params.subject_alt_names = uris.chain(emails).collect::<Result<_>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params, validity)
    }

    fn issue(&self, mut params: CertificateParams, validity: Validity) -> Result<Pair> {
        ensure!(
            validity.until <= self.until,
            "the certificate would end on {}, after its CA on {}; ask for fewer --days or make a \
             new CA",
            validity.until,
            self.until
        );
        validity.apply(&mut params);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(pair(&certificate, &key))
    }

    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }
}

fn generate() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("cannot make a key")
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
    let wanted = "a host name or an address, without scheme or port";
    let unstarred = name.strip_prefix("*.").unwrap_or(name);
    match ServerName::try_from(unstarred) {
        Ok(ServerName::IpAddress(_)) => {
            let address = std::net::IpAddr::from_str(name);
            Ok(SanType::IpAddress(address.with_context(|| {
                format!("--name {name} is not {wanted}")
            })?))
        }
        Ok(ServerName::DnsName(_)) => Ok(SanType::DnsName(ascii(name)?)),
        _ => Err(anyhow!("--name {} is not {wanted}", name.escape_debug())),
    }
}

fn ascii(text: &str) -> Result<Ia5String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(visible, "{} is not plain ASCII", text.escape_debug());
    Ia5String::try_from(text).with_context(|| format!("{text} is not plain ASCII"))
}
