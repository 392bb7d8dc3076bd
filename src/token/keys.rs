//! Signing and verifying: ES256 with one key, verifying with older ones as well. Which keys and which
//! algorithm are ours to say (RFC 8725 sections 3.1 and 3.10): of a token's header only `kid` is read,
//! which chooses among our own.

use std::sync::Arc;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use moka::sync::Cache;

use super::{Claims, Kind};
use crate::hash::sha256;
use crate::identity::{Grant, Subject};

/// Tokens whose signature has been checked lately. A check costs some 45 µs, a look-up 0.2 µs.
const VERIFIED: u64 = 10_000;

/// Why a key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a P-256 private key.
    #[error(
        "it does not hold a P-256 private key in PEM; make one with: \
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
    )]
    NotP256,
}

/// Why a token is not accepted. For the log and the audit record only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not signed by us, or not a token at all.
    #[error("token not signed by this proxy")]
    Signature,
    /// Ended, or not yet begun.
    #[error("token expired")]
    Expired,
    /// Bound to a client certificate that this connection has not shown.
    #[error("token bound to another client certificate")]
    Binding,
    /// For another service or another purpose.
    #[error("token for another service")]
    Audience,
    /// For somebody who cannot be.
    #[error("token of nobody")]
    Subject,
}

/// A token whose signature is ours.
#[derive(Debug)]
pub struct Verified {
    /// Everything it says.
    pub claims: Claims,
    /// What it was minted for.
    pub grants: Arc<[Grant]>,
    /// For whom.
    pub subject: Subject,
    signer: Arc<Known>,
}

impl Verified {
    /// The key under which this token names the state of its user's credential.
    pub fn credential_key(&self) -> &[u8; 32] {
        &self.signer.credential_key
    }
}

/// The signing key, and older ones whose tokens are still good.
pub struct Keys {
    encoding: EncodingKey,
    signer: Arc<Known>,
    older: Vec<Arc<Known>>,
    validation: Validation,
    verified: Cache<[u8; 32], Arc<Verified>>,
}

/// What follows from a key.
struct Known {
    /// The key's name in the headers of its tokens.
    id: String,
    decoding: DecodingKey,
    session_key: [u8; 32],
    credential_key: [u8; 32],
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Known({})", self.id)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(****)")
    }
}

/// The `iss` of every token: tokens of other issuers are not ours to accept.
const ISSUER: &str = "portcullis";

impl Keys {
    /// Takes a P-256 private key in PKCS #8 or SEC 1 (DER).
    pub fn new(der: &[u8]) -> Result<Self, KeyError> {
        let (signer, encoding) = Known::read(der)?;
        let mut validation = Validation::new(Algorithm::ES256);
        // Times are judged in `verify`, at the moment the caller names.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        Ok(Self {
            encoding,
            signer: Arc::new(signer),
            older: Vec::new(),
            validation,
            verified: Cache::new(VERIFIED),
        })
    }

    /// Also takes tokens that another key has signed.
    pub fn and_older(mut self, der: &[u8]) -> Result<Self, KeyError> {
        self.older.push(Arc::new(Known::read(der)?.0));
        Ok(self)
    }

    /// The keys that open upload sessions, and first the one that seals them; the same wherever the
    /// same keys are configured.
    pub fn session_keys(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.known().map(|known| &known.session_key)
    }

    /// The key under which new tokens name the state of their user's credential.
    pub fn credential_key(&self) -> &[u8; 32] {
        &self.signer.credential_key
    }

    fn known(&self) -> impl Iterator<Item = &Arc<Known>> {
        std::iter::once(&self.signer).chain(&self.older)
    }

    /// The issuer to put into claims.
    pub fn issuer(&self) -> &'static str {
        ISSUER
    }

    /// Signs claims.
    pub fn mint(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = Header {
            kid: Some(self.signer.id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        jsonwebtoken::encode(&header, claims, &self.encoding).map_err(|_cause| KeyError::NotP256)
    }

    /// Verifies a token for a service and a purpose; it must be good at one of the moments.
    pub fn verify(
        &self,
        token: &str,
        kind: Kind,
        service: &str,
        at: &[Timestamp],
    ) -> Result<Arc<Verified>, TokenError> {
        let verified = self.signed(token)?;
        let claims = &verified.claims;
        if claims.kind != kind || claims.aud != service {
            return Err(TokenError::Audience);
        }
        if !at.iter().any(|at| claims.covers(*at)) {
            return Err(TokenError::Expired);
        }
        Ok(verified)
    }

    fn signed(&self, token: &str) -> Result<Arc<Verified>, TokenError> {
        let key = *blake3::hash(token.as_bytes()).as_bytes();
        if let Some(verified) = self.verified.get(&key) {
            return Ok(verified);
        }
        // What an earlier edition minted names no key.
        let id = jsonwebtoken::decode_header(token)
            .map_err(|_cause| TokenError::Signature)?
            .kid;
        let named = |known: &&Arc<Known>| id.as_ref().is_none_or(|id| *id == known.id);
        let read = self.known().filter(named).find_map(|known| {
            let read = jsonwebtoken::decode::<Claims>(token, &known.decoding, &self.validation);
            Some((Arc::clone(known), read.ok()?.claims))
        });
        let (signer, claims) = read.ok_or(TokenError::Signature)?;
        let verified = Arc::new(Verified {
            signer,
            subject: claims.subject().ok_or(TokenError::Subject)?,
            grants: claims.grants().into(),
            claims,
        });
        self.verified.insert(key, Arc::clone(&verified));
        Ok(verified)
    }
}

impl Known {
    fn read(der: &[u8]) -> Result<(Self, EncodingKey), KeyError> {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, der)
            .or_else(|_not_pkcs8| EcdsaKeyPair::from_private_key_der(algorithm, der))
            .map_err(|_not_sec1| KeyError::NotP256)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_cause| KeyError::NotP256)?;
        let public = pair.public_key().as_ref();
        let known = Self {
            id: URL_SAFE_NO_PAD.encode(sha256(public)),
            decoding: DecodingKey::from_ec_der(public),
            session_key: blake3::derive_key("portcullis 2026 upload session", pkcs8.as_ref()),
            credential_key: blake3::derive_key("portcullis 2026 credential", pkcs8.as_ref()),
        };
        Ok((known, EncodingKey::from_ec_der(pkcs8.as_ref())))
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, TokenError};
    use crate::identity::{Grant, SubjectKind};
    use crate::registry::{Action, RepoName};
    use crate::token::{Claims, Kind};
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jiff::Timestamp;
    use proptest::prelude::*;

    fn keys() -> Keys {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Keys::new(pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
    }

    fn claims() -> Claims {
        let grant = Grant::Repository {
            name: RepoName::parse("a/b").unwrap(),
            actions: vec![Action::Pull, Action::Push],
        };
        Claims {
            iss: "portcullis".to_owned(),
            sub: "alice".to_owned(),
            who: Some("person".to_owned()),
            aud: "host:443".to_owned(),
            exp: 2000,
            nbf: 1000,
            iat: 1000,
            jti: "1".to_owned(),
            kind: Kind::Access,
            access: vec![(&grant).into()],
            credential: None,
            cnf: None,
            session: None,
            auth_time: None,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_token_says_what_it_was_minted_with() {
        let keys = keys();
        let token = keys.mint(&claims()).unwrap();
        for _from_cache in 0..2 {
            let read = keys
                .verify(&token, Kind::Access, "host:443", &[at(1500)])
                .unwrap();
            assert_eq!(read.claims, claims());
            assert_eq!(read.claims.scope(), "repository:a/b:pull,push");
        }
    }

    #[test]
    fn an_older_key_still_verifies_and_no_longer_signs() {
        let der = || {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            pair.to_pkcs8v1().unwrap().as_ref().to_vec()
        };
        let (old, new) = (der(), der());
        let before = Keys::new(&old).unwrap();
        let alone = Keys::new(&new).unwrap();
        let both = Keys::new(&new).unwrap().and_older(&old).unwrap();
        let verify = |keys: &Keys, token: &str| {
            let read = keys.verify(token, Kind::Access, "host:443", &[at(1500)]);
            read.map(|read| *read.credential_key())
        };
        let issued = before.mint(&claims()).unwrap();
        assert_eq!(verify(&alone, &issued), Err(TokenError::Signature));
        assert_eq!(verify(&both, &issued), Ok(*before.credential_key()));
        // As an earlier edition wrote it, without the name of a key.
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        let nameless = jsonwebtoken::encode(&header, &claims(), &before.encoding).unwrap();
        assert_eq!(verify(&both, &nameless), Ok(*before.credential_key()));
        let fresh = both.mint(&claims()).unwrap();
        assert_eq!(verify(&alone, &fresh), Ok(*alone.credential_key()));
        assert_eq!(verify(&before, &fresh), Err(TokenError::Signature));
        let seals: Vec<_> = both.session_keys().collect();
        let old = before.session_keys().next().unwrap();
        assert_eq!(seals, [alone.session_keys().next().unwrap(), old]);
    }

    #[test]
    fn a_token_is_good_for_its_time_service_and_purpose_only() {
        let keys = keys();
        let token = keys.mint(&claims()).unwrap();
        let verify =
            |kind, service, second| keys.verify(&token, kind, service, &[at(second)]).err();
        assert_eq!(verify(Kind::Access, "host:443", 1000), None);
        assert_eq!(
            verify(Kind::Access, "host:443", 939),
            Some(TokenError::Expired)
        );
        assert_eq!(
            verify(Kind::Access, "host:443", 2000),
            Some(TokenError::Expired)
        );
        assert_eq!(
            verify(Kind::Access, "other", 1500),
            Some(TokenError::Audience)
        );
        assert_eq!(
            verify(Kind::Refresh, "host:443", 1500),
            Some(TokenError::Audience)
        );
    }

    #[test]
    fn a_clock_that_jumps_ends_no_token_early_and_revives_none_for_good() {
        let keys = keys();
        let token = keys.mint(&claims()).unwrap();
        let good = |second| {
            let verified = keys.verify(&token, Kind::Access, "host:443", &[at(second)]);
            verified.is_ok()
        };
        // Set back by a minute after it was minted, far back, ahead, and right again.
        for (second, expected) in [
            (1001, true),
            (941, true),
            (0, false),
            (1_000_000, false),
            (1999, true),
            (2000, false),
        ] {
            assert_eq!(good(second), expected, "{second}");
        }
    }

    #[test]
    fn a_token_says_what_its_user_is_and_one_of_the_first_edition_is_read_as_it_was_meant() {
        let keys = keys();
        let read = |who: Option<&str>, sub: &str| {
            let claims = Claims {
                sub: sub.to_owned(),
                who: who.map(str::to_owned),
                ..claims()
            };
            let token = keys.mint(&claims).unwrap();
            let verified = keys.verify(&token, Kind::Access, "host:443", &[at(1500)]);
            verified.map(|verified| verified.subject.kind())
        };
        for (who, sub, kind) in [
            (None, "", SubjectKind::Nobody),
            (None, "alice", SubjectKind::Person),
            (None, "spiffe://example.org/ci", SubjectKind::Person),
            (None, "key:ci", SubjectKind::Robot),
            (Some("nobody"), "", SubjectKind::Nobody),
            (Some("person"), "alice", SubjectKind::Person),
            (Some("robot"), "key:ci", SubjectKind::Robot),
            (Some("workload"), "github:a/b", SubjectKind::Workload),
        ] {
            assert_eq!(read(who, sub), Ok(kind), "{who:?} {sub}");
        }
        for (who, sub) in [
            (None, "KEY:ci"),
            (None, "key\u{ff1a}ci"),
            (None, "al\u{200b}ice"),
            (Some("person"), "key:ci"),
            (Some("person"), ""),
            (Some("robot"), "ci"),
            (Some("machine"), "alice"),
        ] {
            assert_eq!(read(who, sub), Err(TokenError::Subject), "{who:?} {sub}");
        }
    }

    #[test]
    fn other_keys_and_algorithms_are_not_accepted() {
        let (ours, theirs) = (keys(), keys());
        let refused = |token: &str| {
            ours.verify(token, Kind::Access, "host:443", &[at(1500)])
                .err()
        };
        assert_eq!(
            refused(&theirs.mint(&claims()).unwrap()),
            Some(TokenError::Signature)
        );
        let body = URL_SAFE_NO_PAD.encode(serde_json::to_string(&claims()).unwrap());
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256"}"#,
            r#"{"alg":"ES256","kid":"../x"}"#,
        ] {
            let token = format!("{}.{body}.", URL_SAFE_NO_PAD.encode(header));
            assert_eq!(refused(&token), Some(TokenError::Signature), "{header}");
        }
        let good = ours.mint(&claims()).unwrap();
        let (head, signature) = good.rsplit_once('.').unwrap();
        let (header, _) = head.split_once('.').unwrap();
        let forged = claims_with_sub("admin");
        assert_eq!(
            refused(&format!("{header}.{forged}.{signature}")),
            Some(TokenError::Signature)
        );
    }

    fn claims_with_sub(sub: &str) -> String {
        let changed = Claims {
            sub: sub.to_owned(),
            ..claims()
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_string(&changed).unwrap())
    }

    proptest! {
        #[test]
        fn no_token_panics(text in "[A-Za-z0-9._-]{0,80}") {
            let keys = keys();
            prop_assert!(keys.verify(&text, Kind::Access, "host:443", &[at(1500)]).is_err());
        }
    }
}
