//! When certificates, authorities and revocation lists end.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{TlsError, certificates, read_certificate, revocation_ends};

/// Something that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What it is.
    pub what: &'static str,
    /// Where it stands.
    pub file: PathBuf,
    /// When it ends; of several in a file the first.
    pub ends: Timestamp,
}

impl Ending {
    /// The first of the certificates in a file.
    pub fn of_certificates(what: &'static str, file: &Path) -> Result<Self, TlsError> {
        first_end(file).map(|ends| Self::new(what, file, ends))
    }

    /// A file of revocation lists.
    pub fn of_revocations(what: &'static str, file: &Path) -> Result<Self, TlsError> {
        revocation_ends(file).map(|ends| Self::new(what, file, ends))
    }

    fn new(what: &'static str, file: &Path, ends: Timestamp) -> Self {
        let file = file.to_owned();
        Self { what, file, ends }
    }
}

fn first_end(file: &Path) -> Result<Timestamp, TlsError> {
    let all = certificates(file)?;
    let ends = all
        .iter()
        .filter_map(|one| read_certificate(std::slice::from_ref(one)))
        .map(|one| one.not_after);
    ends.min()
        .ok_or_else(|| TlsError::NoCertificate(file.to_owned()))
}
