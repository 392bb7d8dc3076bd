//! A client certificate, and whom it names (RFC 5280 section 4.2.1.6, RFC 9525).
//!
//! One field decides: the first configured kind that the certificate has at all. It must have exactly
//! one value, fit to be a name as it stands; two of them, a wildcard or a control character name
//! nobody. Matching is exact, byte by byte.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;

use super::{Group, Name, Origin, ROBOT};

/// The longest value that a certificate can name somebody by, in bytes.
const MAX_VALUE: usize = 256;
/// Groups of one certificate at most.
const MAX_GROUPS: usize = 64;

/// A part of a certificate that can name somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateField {
    /// A DNS name among the alternative names.
    SanDns,
    /// A mail address among the alternative names.
    SanEmail,
    /// A URI among the alternative names.
    SanUri,
    /// The common name.
    SubjectCn,
    /// The organisation.
    SubjectO,
    /// The organisational unit.
    SubjectOu,
}

/// A client certificate that was verified in the handshake.
#[derive(Debug)]
pub struct ClientCertificate {
    /// DER, the certificate first, as shown.
    pub chain: Vec<Box<[u8]>>,
    /// The distinguished name of its subject, for the audit record.
    pub subject: Box<str>,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
    /// When it ends.
    pub not_after: Timestamp,
    /// Every value of every field that can name somebody; `None` for one that is no text.
    pub names: Vec<(CertificateField, Option<String>)>,
    /// When it was accepted last.
    pub accepted: Accepted,
}

/// Generation of the rules that accepted a certificate, and when; 0 for none.
#[derive(Debug, Default)]
pub struct Accepted {
    generation: AtomicU64,
    second: AtomicI64,
}

impl Accepted {
    /// How long it lasts, in seconds. What a certificate hangs on can end while its connection is
    /// open: a revocation list, an authority in between.
    const LASTS: i64 = 60;

    /// Whether this generation has, and not too long ago.
    pub fn holds(&self, generation: u64, now: Timestamp) -> bool {
        let age = now
            .as_second()
            .saturating_sub(self.second.load(Ordering::Relaxed));
        self.generation.load(Ordering::Relaxed) == generation && (0..Self::LASTS).contains(&age)
    }

    /// This generation has, now.
    pub fn set(&self, generation: u64, now: Timestamp) {
        self.second.store(now.as_second(), Ordering::Relaxed);
        self.generation.store(generation, Ordering::Relaxed);
    }
}

impl ClientCertificate {
    /// The user it names, by the first of `fields` that it has.
    pub fn user(&self, fields: &[CertificateField]) -> Option<Name> {
        let field = fields
            .iter()
            .find(|field| self.values(**field).next().is_some())?;
        let mut values = self.values(*field);
        match (values.next(), values.next()) {
            (Some(Some(only)), None) if is_exact(only) => Name::parse(only, Origin::Written).ok(),
            _ => None,
        }
    }

    /// The groups it names. `None` if one of them is no name: with some of its groups alone, a
    /// deny rule for another would not hold.
    pub fn groups(&self, field: CertificateField) -> Option<Vec<Group>> {
        let groups: Vec<_> = self.values(field).map(group).collect::<Option<_>>()?;
        (groups.len() <= MAX_GROUPS).then_some(groups)
    }

    fn values(&self, field: CertificateField) -> impl Iterator<Item = Option<&str>> {
        self.names
            .iter()
            .filter(move |(kind, _)| *kind == field)
            .map(|(_, value)| value.as_deref())
    }
}

fn group(value: Option<&str>) -> Option<Group> {
    let is_name = |value: &&str| {
        is_exact(value) && !value.starts_with(ROBOT) && !value.chars().any(char::is_control)
    };
    value.filter(is_name).map(Group::new)
}

/// Whether a value stands for itself: no wildcard, no space at its ends.
fn is_exact(value: &str) -> bool {
    !value.is_empty() && value.len() <= MAX_VALUE && value.trim() == value && !value.contains('*')
}
