//! Reading a client certificate.

use aws_lc_rs::digest;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::AttributeTypeAndValue;

use crate::identity::{Accepted, CertificateField, ClientCertificate};

/// Parses the chain that a client showed; `None` if its first certificate is not one, or holds a
/// name that cannot be read.
pub fn read_certificate(chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
    let first = chain.first()?;
    let (rest, parsed) = X509Certificate::from_der(first).ok()?;
    if !rest.is_empty() {
        return None;
    }
    Some(ClientCertificate {
        subject: parsed.subject().to_string().into(),
        fingerprint: digest::digest(&digest::SHA256, first)
            .as_ref()
            .try_into()
            .ok()?,
        not_after: Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?,
        names: names(&parsed)?,
        chain: chain.iter().map(|der| der.as_ref().into()).collect(),
        accepted_by: Accepted::default(),
    })
}

/// Every value of every field that can name somebody; `None` when one of them cannot be read.
fn names(certificate: &X509Certificate<'_>) -> Option<Vec<(CertificateField, String)>> {
    let mut names = Vec::new();
    let mut push = |kind, value: &str| names.push((kind, value.to_owned()));
    if let Some(extension) = certificate.subject_alternative_name().ok()? {
        for name in &extension.value.general_names {
            match name {
                GeneralName::DNSName(dns) => push(CertificateField::SanDns, dns),
                GeneralName::RFC822Name(mail) => push(CertificateField::SanEmail, mail),
                GeneralName::URI(uri) => push(CertificateField::SanUri, uri),
                GeneralName::Invalid(..) => return None,
                GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::OtherName(..)
                | GeneralName::RegisteredID(_)
                | GeneralName::X400Address(_) => {}
            }
        }
    }
    let subject = certificate.subject();
    add(
        &mut names,
        CertificateField::SubjectCn,
        subject.iter_common_name(),
    )?;
    add(
        &mut names,
        CertificateField::SubjectO,
        subject.iter_organization(),
    )?;
    add(
        &mut names,
        CertificateField::SubjectOu,
        subject.iter_organizational_unit(),
    )?;
    Some(names)
}

fn add<'a>(
    names: &mut Vec<(CertificateField, String)>,
    kind: CertificateField,
    values: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Option<()> {
    for value in values {
        names.push((kind, value.as_str().ok()?.to_owned()));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::read_certificate;
    use crate::identity::CertificateField::{self, SanDns, SanEmail, SanUri, SubjectCn, SubjectOu};
    use crate::identity::ClientCertificate;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(cn: &[&str], ou: &[&str], sans: Vec<SanType>) -> ClientCertificate {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for value in cn {
            params.distinguished_name.push(DnType::CommonName, *value);
        }
        for value in ou {
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, *value);
        }
        params.subject_alt_names = sans;
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        read_certificate(&[made.der().clone()]).unwrap()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    fn user(certificate: &ClientCertificate, fields: &[CertificateField]) -> Option<String> {
        certificate.user(fields).map(|user| user.to_string())
    }

    #[test]
    fn the_first_kind_present_names_the_user_if_it_has_one_value() {
        let all = [SanUri, SanDns, SanEmail, SubjectCn];
        let cn = certificate(&["alice"], &[], vec![]);
        assert_eq!(user(&cn, &all).as_deref(), Some("alice"));
        assert_eq!(user(&cn, &[SanUri]), None);
        assert_eq!(user(&cn, &[]), None);
        let both = certificate(&["admin"], &[], vec![uri("spiffe://x/ci")]);
        assert_eq!(user(&both, &all).as_deref(), Some("spiffe://x/ci"));
        assert_eq!(user(&both, &[SubjectCn, SanUri]).as_deref(), Some("admin"));
        let two = certificate(&["admin"], &[], vec![dns("a.example"), dns("b.example")]);
        assert_eq!(user(&two, &all), None);
        let wild = certificate(&["admin"], &[], vec![dns("*.example")]);
        assert_eq!(user(&wild, &all), None);
        for odd in ["ali\0ce", "alice ", "", "a\nb"] {
            assert_eq!(
                user(&certificate(&[odd], &[], vec![]), &all),
                None,
                "{odd:?}"
            );
        }
    }

    #[test]
    fn groups_are_the_values_of_one_field() {
        let made = certificate(&["alice"], &["team-a"], vec![]);
        assert_eq!(made.groups(SubjectOu), ["team-a".into()]);
        assert_eq!(made.groups(SanDns), []);
        assert_eq!(&*made.subject, "CN=alice, OU=team-a");
    }

    #[test]
    fn junk_is_no_certificate() {
        assert!(read_certificate(&[]).is_none());
        assert!(read_certificate(&[vec![0x30, 0x03, 1, 2, 3].into()]).is_none());
    }
}
