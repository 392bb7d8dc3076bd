//! Reading a client certificate.

use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::OID_X509_EXT_ISSUER_DISTRIBUTION_POINT;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use crate::hash::sha256;
use crate::identity::{Accepted, CertificateField, ClientCertificate};

/// Parses the chain that a client showed; `None` if its first certificate is not one.
pub fn read_certificate(chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
    let first = chain.first()?;
    let (rest, parsed) = X509Certificate::from_der(first).ok()?;
    if !rest.is_empty() {
        return None;
    }
    Some(ClientCertificate {
        subject: parsed.subject().to_string().into(),
        fingerprint: sha256(first),
        not_after: moment(parsed.validity().not_after.timestamp()),
        names: names(&parsed)?,
        chain: chain.iter().map(|der| der.as_ref().into()).collect(),
        accepted: Accepted::default(),
    })
}

/// When the next one of a revocation list is due; `None` if it is no revocation list.
pub(super) fn next_update(list: &[u8]) -> Option<Timestamp> {
    let (rest, parsed) = CertificateRevocationList::from_der(list).ok()?;
    let next = parsed.next_update().map(|next| next.timestamp());
    rest.is_empty().then(|| next.map_or(Timestamp::MAX, moment))
}

/// What a revocation list is of, and how new it is.
pub(super) struct Standing {
    /// Issuer, and the part of its certificates that the list is about (RFC 5280 section 5.2.5).
    pub(super) scope: (Vec<u8>, Vec<u8>),
    /// CRL number (its length first), then the time of issue: the newer list has the greater one.
    pub(super) age: (usize, Vec<u8>, i64),
}

/// Reads which list it is; `None` if it is none.
pub(super) fn standing(list: &[u8]) -> Option<Standing> {
    let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
    let number = match parsed.crl_number() {
        Some(number) => number.to_bytes_be(),
        None => Vec::new(),
    };
    let part = parsed.extensions().iter();
    let mut part = part.filter(|one| one.oid == OID_X509_EXT_ISSUER_DISTRIBUTION_POINT);
    let part = part.next().map(|one| one.value.to_vec());
    Some(Standing {
        scope: (parsed.issuer().as_raw().to_vec(), part.unwrap_or_default()),
        age: (number.len(), number, parsed.last_update().timestamp()),
    })
}

/// The last second of year 9999 stands for no end (RFC 5280 section 4.1.2.5) and is later than any
/// timestamp.
fn moment(second: i64) -> Timestamp {
    let last = if second > 0 {
        Timestamp::MAX
    } else {
        Timestamp::MIN
    };
    Timestamp::from_second(second).unwrap_or(last)
}

type Names = Vec<(CertificateField, Option<String>)>;

/// Every value of every field that can name somebody; `None` when the alternative names cannot be
/// told apart.
fn names(certificate: &X509Certificate<'_>) -> Option<Names> {
    let mut names = Vec::new();
    let mut push = |kind, value: &str| names.push((kind, Some(value.to_owned())));
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
    let parts: [(_, &mut dyn Iterator<Item = _>); 3] = [
        (CertificateField::SubjectCn, &mut subject.iter_common_name()),
        (CertificateField::SubjectO, &mut subject.iter_organization()),
        (
            CertificateField::SubjectOu,
            &mut subject.iter_organizational_unit(),
        ),
    ];
    for (kind, values) in parts {
        // The encodings of other alphabets are not read, and a value in one names nobody.
        names.extend(values.map(|value| (kind, value.as_str().ok().map(str::to_owned))));
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::read_certificate;
    use crate::identity::CertificateField::{self, SanDns, SanEmail, SanUri, SubjectCn, SubjectOu};
    use crate::identity::{ClientCertificate, Group};
    use proptest::prelude::*;
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
        assert_eq!(made.groups(SubjectOu).unwrap(), [Group::new("team-a")]);
        assert!(made.groups(SanDns).unwrap().is_empty());
        assert_eq!(&*made.subject, "CN=alice, OU=team-a");
        // One that is no name spoils all, lest a rule that denies by group does not hold.
        let odd = certificate(&["alice"], &["team-a\n"], vec![]);
        assert_eq!(odd.groups(SubjectOu), None);
    }

    #[test]
    fn a_name_in_an_alphabet_that_is_not_read_is_nobodys() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let bmp: rcgen::string::BmpString = "alice".try_into().unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, rcgen::DnValue::BmpString(bmp));
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = read_certificate(&[made.der().clone()]).unwrap();
        assert_eq!(user(&read, &[SubjectCn]), None);
        // It is there all the same, so no later field names somebody instead.
        assert_eq!(user(&read, &[SubjectCn, SubjectOu]), None);
    }

    #[test]
    fn a_certificate_without_an_end_is_read() {
        let mut params = CertificateParams::default();
        params.not_after =
            rcgen::date_time_ymd(9999, 12, 31) + std::time::Duration::from_secs(86_399);
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = read_certificate(&[made.der().clone()]).unwrap();
        assert_eq!(read.not_after, jiff::Timestamp::MAX);
    }

    /// A certificate with something of every kind that is read.
    fn rich() -> Vec<u8> {
        let sans = vec![
            uri("spiffe://x/ci"),
            dns("a.example"),
            SanType::Rfc822Name("a@example.com".try_into().unwrap()),
        ];
        let made = certificate(&["alice"], &["team-a"], sans);
        made.chain.first().unwrap().to_vec()
    }

    proptest! {
        #[test]
        fn whatever_is_shown_is_read_or_refused(
            spots in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            end in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            static RICH: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(rich);
            let mut der = RICH.clone();
            for (spot, byte) in spots {
                *spot.get_mut(&mut der) = byte;
            }
            if is_cut {
                der.truncate(end.index(der.len()));
            }
            let all = [SanUri, SanDns, SanEmail, SubjectCn, SubjectOu];
            if let Some(read) = read_certificate(&[der.clone().into()]) {
                for field in all {
                    let user = read.user(&[field]);
                    let user = user.as_ref().map_or("nobody", |user| user.as_str());
                    let is_fit = |c: char| c != '*' && !c.is_control();
                    prop_assert!(!user.is_empty() && user.chars().all(is_fit));
                    let _groups = read.groups(field);
                }
                let _user = read.user(&all);
            }
            let _list = super::next_update(&der);
        }
    }

    #[test]
    fn junk_is_no_certificate() {
        assert!(read_certificate(&[]).is_none());
        assert!(read_certificate(&[vec![0x30, 0x03, 1, 2, 3].into()]).is_none());
    }
}
