//! A client certificate, and whom it names (RFC 5280 section 4.2.1.6, RFC 9525).
//!
//! One field decides: the first configured kind that the certificate has at all. It must have exactly
//! one value, fit to be a name as it stands; two of them, a wildcard or a control character name
//! nobody. Matching is exact, byte by byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

/// The longest name taken from a certificate, in bytes.
const MAX_NAME: usize = 256;
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
    /// Every value of every field that can name somebody.
    pub names: Vec<(CertificateField, String)>,
    /// The generation of the rules that accepted it last.
    pub accepted_by: Accepted,
}

/// Which generation of the rules has accepted a certificate; 0 for none.
#[derive(Debug, Default)]
pub struct Accepted(AtomicU64);

impl Accepted {
    /// Whether this generation has.
    pub fn is(&self, generation: u64) -> bool {
        self.0.load(Ordering::Relaxed) == generation
    }

    /// This generation has.
    pub fn set(&self, generation: u64) {
        self.0.store(generation, Ordering::Relaxed);
    }
}

impl ClientCertificate {
    /// The user it names, by the first of `fields` that it has.
    pub fn user(&self, fields: &[CertificateField]) -> Option<Arc<str>> {
        let field = fields
            .iter()
            .find(|field| self.values(**field).next().is_some())?;
        let mut values = self.values(*field);
        match (values.next(), values.next()) {
            (Some(only), None) if is_name(only) => Some(Arc::from(only)),
            _ => None,
        }
    }

    /// The groups it names; none if one of them is no name.
    pub fn groups(&self, field: CertificateField) -> Vec<Arc<str>> {
        let fit = self.values(field).all(is_name) && self.values(field).count() <= MAX_GROUPS;
        if fit {
            self.values(field).map(Arc::from).collect()
        } else {
            Vec::new()
        }
    }

    fn values(&self, field: CertificateField) -> impl Iterator<Item = &str> {
        self.names
            .iter()
            .filter(move |(kind, _)| *kind == field)
            .map(|(_, value)| value.as_str())
    }
}

/// Whether a value can stand for somebody: no control character, no wildcard, no space at its ends.
fn is_name(value: &str) -> bool {
    !value.is_empty()
        && value.len() <= MAX_NAME
        && value.trim() == value
        && !value.contains('*')
        && !value.chars().any(char::is_control)
}
