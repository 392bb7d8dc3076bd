//! Client certificates as credentials: admitted by the CA in force now, joined with what else the
//! request presents.
//!
//! Where certificates name users, whatever is presented besides must name the same one; where they
//! are only a gate, a password or token says who. A certificate is looked at again at the first
//! request after each reload and every minute, also on connections that are open already.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;

use crate::identity::{
    CertificateField, ClientCertificate, Group, Identity, Name, Peer, PeerCertificate, Subject,
};
use crate::tls::{ClientCertificateMode, ClientCertificates};

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
        if self.username.is_empty() {
            return Ok(who.beside_certificate(Vec::new()));
        }
        // Where certificates name users, one that names nobody is nobody's: it does not turn a
        // stolen password into password and certificate.
        let Some((named, groups)) = self.named(shown) else {
            return Ok(who);
        };
        match who.subject() {
            Subject::Person(user) if user.is(&named) => Ok(who.beside_certificate(groups)),
            Subject::Nobody if !who.is_limited() => {
                Ok(Identity::verified_certificate(named, groups))
            }
            Subject::Person(_) | Subject::Robot(_) | Subject::Workload(_) | Subject::Nobody => {
                Err(CertificateError::NamesAnother)
            }
        }
    }

    /// The user a certificate names under these rules.
    pub fn user(&self, shown: &ClientCertificate) -> Option<Name> {
        self.named(shown).map(|(user, _)| user)
    }

    /// Whether a certificate names somebody else than a password is given for. Then the answer does
    /// not depend on the password: a certificate of one's own is no means to try those of others.
    pub fn contradicts(&self, shown: Option<&ClientCertificate>, user: &Subject) -> bool {
        let named = shown.and_then(|shown| self.user(shown));
        named.is_some_and(|named| !Subject::Person(named).is(user))
    }

    /// User that a certificate names, with the groups.
    fn named(&self, shown: &ClientCertificate) -> Option<(Name, Vec<Group>)> {
        let user = shown.user(&self.username)?;
        let groups = match self.groups {
            Some(field) => shown.groups(field)?,
            None => Vec::new(),
        };
        Some((user, groups))
    }

    fn accepts(&self, shown: &ClientCertificate, now: Timestamp) -> bool {
        if shown.accepted.holds(self.generation, now) {
            return true;
        }
        let (Some(verifier), Some((first, rest))) = (&self.verifier, shown.chain.split_first())
        else {
            return false;
        };
        let rest: Vec<_> = rest
            .iter()
            .map(|der| CertificateDer::from(&**der))
            .collect();
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let first = CertificateDer::from(&**first);
        let accepted = verifier.verify_client_cert(&first, &rest, time).is_ok();
        if accepted {
            shown.accepted.set(self.generation, now);
        }
        accepted
    }
}

#[cfg(test)]
mod tests {
    use super::{CertificateError, Certificates};
    use crate::identity::{
        Accepted, CertificateField, ClientCertificate, Peer, PeerCertificate, TlsSession,
    };
    use crate::tls::{ClientCertificateMode, ClientCertificates};
    use jiff::Timestamp;
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams,
        ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber,
        date_time_ymd,
    };
    use rustls::RootCertStore;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::CertificateRevocationListDer;
    use rustls::server::WebPkiClientVerifier;
    use std::sync::Arc;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// The certificate of a CA whose revocation list is good to the end of January 2030.
    fn made() -> (
        RootCertStore,
        CertificateRevocationListDer<'static>,
        Box<[u8]>,
    ) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(params.self_signed(&key).unwrap().der().clone())
            .unwrap();
        let issuer = Issuer::new(params, key);
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2030, 1, 1),
            next_update: date_time_ymd(2030, 2, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&issuer).unwrap().der().clone();
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let client = params.signed_by(&key, &issuer).unwrap();
        (roots, list, client.der().as_ref().into())
    }

    fn rules(
        roots: RootCertStore,
        crl: CertificateRevocationListDer<'static>,
        generation: u64,
    ) -> Certificates {
        let config = ClientCertificates {
            mode: ClientCertificateMode::Optional,
            username: vec![CertificateField::SubjectCn],
            ..ClientCertificates::default()
        };
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls([crl])
            .enforce_revocation_expiration()
            .build()
            .unwrap();
        Certificates::new(&config, Some(verifier), generation)
    }

    #[test]
    fn what_a_certificate_hangs_on_may_end_before_it() {
        let (roots, crl, der) = made();
        let certificate = ClientCertificate {
            chain: vec![der],
            subject: "CN=alice".into(),
            fingerprint: [7; 32],
            not_after: at("2031-01-01T00:00:00Z"),
            names: vec![(CertificateField::SubjectCn, Some("alice".to_owned()))],
            accepted: Accepted::default(),
        };
        let peer = Peer {
            address: [127, 0, 0, 1].into(),
            certificate: PeerCertificate::Shown(Arc::new(certificate)),
            tls: Arc::new(TlsSession {
                description: "".into(),
            }),
            witness: Arc::new(()),
        };
        let admits = |rules: &Certificates, time: &str| match rules.admit(&peer, at(time)) {
            Ok(shown) => shown.is_some(),
            Err(error) => {
                assert_eq!(error, CertificateError::NotAccepted);
                false
            }
        };
        let first = rules(roots.clone(), crl.clone(), 1);
        assert!(admits(&first, "2030-01-31T23:58:30Z"));
        assert!(admits(&first, "2030-01-31T23:59:45Z"));
        // The list has ended, and within a minute so has what rests on it.
        assert!(!admits(&first, "2030-02-01T00:00:50Z"));
        assert!(admits(&first, "2030-01-31T23:59:45Z"));
        // Other rules look for themselves.
        let (other_roots, other_crl, _) = made();
        let second = rules(other_roots, other_crl, 2);
        assert!(!admits(&second, "2030-01-15T00:00:00Z"));
        assert!(admits(&first, "2030-01-15T00:00:00Z"));
        assert!(!admits(&first, "2031-01-01T00:00:00Z"));
    }
}
