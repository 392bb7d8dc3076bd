//! Client certificates as credentials: admitted by the CA in force now, joined with what else the
//! request presents.
//!
//! Where certificates name users, whatever is presented besides must name the same one; where they
//! are only a gate, a password or token says who. A certificate is looked at again at the first
//! request after each reload, also on connections that are open already.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use crate::config::{ClientCertificateMode, ClientCertificates};
use crate::identity::{CertificateField, ClientCertificate, Identity, Peer, PeerCertificate};

/// Why a certificate, or the lack of one, keeps a request out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// One is required, and none was shown.
    #[error("no client certificate")]
    Missing,
    /// It names somebody else than the credential beside it.
    #[error("client certificate and credential name different users")]
    NamesAnother,
    /// It has ended, was revoked, or its CA is not trusted any more.
    #[error("client certificate not accepted any more")]
    NotAccepted,
}

/// The certificates of one configuration.
#[derive(Debug)]
pub struct Certificates {
    mode: ClientCertificateMode,
    username: Vec<CertificateField>,
    groups: Option<CertificateField>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    generation: u64,
}

impl Certificates {
    /// `generation` counts the configurations; `verifier` is the listener's.
    pub fn new(
        config: &ClientCertificates,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
        generation: u64,
    ) -> Self {
        Self {
            mode: config.mode,
            username: config.username.clone(),
            groups: config.groups,
            verifier,
            generation,
        }
    }

    /// The certificate of a connection, if it is one that these rules accept.
    pub fn admit<'p>(
        &self,
        peer: &'p Peer,
        now: Timestamp,
    ) -> Result<Option<&'p ClientCertificate>, CertificateError> {
        let shown = match (self.mode, &peer.certificate) {
            (ClientCertificateMode::Off, _)
            | (
                ClientCertificateMode::Optional,
                PeerCertificate::NotAsked | PeerCertificate::NotShown,
            ) => return Ok(None),
            (
                ClientCertificateMode::Required,
                PeerCertificate::NotAsked | PeerCertificate::NotShown,
            ) => return Err(CertificateError::Missing),
            (_, PeerCertificate::Shown(certificate)) => certificate,
        };
        if now >= shown.not_after || !self.accepts(shown, now) {
            return Err(CertificateError::NotAccepted);
        }
        Ok(Some(shown))
    }

    /// Joins what a request presents with the certificate of its connection.
    pub fn join(
        &self,
        who: Identity,
        shown: Option<&ClientCertificate>,
    ) -> Result<Identity, CertificateError> {
        let Some(shown) = shown else { return Ok(who) };
        let Some(named) = shown.user(&self.username) else {
            return Ok(who.beside_certificate(Vec::new()));
        };
        let groups = self
            .groups
            .map(|field| shown.groups(field))
            .unwrap_or_default();
        match who.user() {
            Some(user) if *user == *named => Ok(who.beside_certificate(groups)),
            None if !who.is_limited() => Ok(Identity::verified_certificate(named, groups)),
            Some(_) | None => Err(CertificateError::NamesAnother),
        }
    }

    /// The user a certificate names under these rules.
    pub fn user(&self, shown: &ClientCertificate) -> Option<Arc<str>> {
        shown.user(&self.username)
    }

    fn accepts(&self, shown: &ClientCertificate, now: Timestamp) -> bool {
        if shown.accepted_by.is(self.generation) {
            return true;
        }
        let (Some(verifier), Some((first, rest))) = (&self.verifier, shown.chain.split_first())
        else {
            return false;
        };
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let rest: Vec<_> = rest
            .iter()
            .map(|der| CertificateDer::from(&**der))
            .collect();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let first = CertificateDer::from(&**first);
        let accepted = verifier.verify_client_cert(&first, &rest, now).is_ok();
        if accepted {
            shown.accepted_by.set(self.generation);
        }
        accepted
    }
}
