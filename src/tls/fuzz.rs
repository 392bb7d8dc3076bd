//! Fuzz targets: certificates and revocation lists.

use rustls::pki_types::CertificateDer;

use super::{next_update, read_certificate};
use crate::identity::{CertificateField, Group, Name, ROBOT};

const FIELDS: [CertificateField; 6] = [
    CertificateField::SanDns,
    CertificateField::SanEmail,
    CertificateField::SanUri,
    CertificateField::SubjectCn,
    CertificateField::SubjectO,
    CertificateField::SubjectOu,
];

/// DER of a client certificate, or of a revocation list: whoever a certificate names has a name fit
/// for a rule, and what follows the last byte of either is not overlooked.
pub(crate) fn certificate(bytes: &[u8]) {
    let followed = [bytes, &[0]].concat();
    if next_update(bytes).is_some() {
        assert_eq!(next_update(&followed), None);
    }
    let Some(read) = read_certificate(&[CertificateDer::from(bytes)]) else {
        return;
    };
    assert!(read_certificate(&[CertificateDer::from(followed)]).is_none());
    for field in FIELDS {
        let values: Vec<_> = read
            .names
            .iter()
            .filter(|(kind, _)| *kind == field)
            .collect();
        let user = read.user(&[field]);
        assert!(user.is_none() || values.len() == 1);
        let groups = read.groups(field);
        assert!(
            groups
                .as_ref()
                .is_none_or(|groups| groups.len() == values.len())
        );
        let user = user.as_ref().map(Name::as_str);
        let groups = groups.iter().flatten().map(Group::as_str);
        for name in user.into_iter().chain(groups) {
            assert!((1..=256).contains(&name.len()) && name.trim() == name);
            assert!(!name.contains('*') && !name.starts_with(ROBOT));
            assert!(!name.chars().any(char::is_control));
            let is_value = |value: &&(_, Option<String>)| value.1.as_deref() == Some(name);
            assert!(values.iter().any(is_value));
        }
    }
    // The first field that it has decides, whether or not that names anybody.
    let first = FIELDS
        .into_iter()
        .find(|field| read.names.iter().any(|(kind, _)| kind == field));
    assert_eq!(
        read.user(&FIELDS),
        first.and_then(|field| read.user(&[field]))
    );
    assert_eq!(read.chain.first().map(AsRef::as_ref), Some(bytes));
}
