//! Signatures of checkpoints: ES256 or Ed25519, as the key is.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::chain::short;
use crate::audit::record::checkpoint::Checkpoint;

/// Most records from one checkpoint to the next; after a minute it comes earlier.
pub(in crate::audit) const CHECKPOINT_EVERY: u64 = 1000;

/// A key that cannot sign or verify checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The file holds no private key of a kind that signs checkpoints.
    #[error(
        "it does not hold an Ed25519 or P-256 private key in PEM; make one with: \
         openssl genpkey -algorithm ED25519 -out FILE"
    )]
    NotPrivate,
    /// The file holds no public key of such a kind.
    #[error(
        "it does not hold an Ed25519 or P-256 public key in PEM; get it with: \
         openssl pkey -in FILE -pubout"
    )]
    NotPublic,
}

/// The signed text: number and hash of the record before the checkpoint. The hash covers everything
/// before.
pub(in crate::audit) fn signed_text(seq: u64, hash: &str) -> String {
    format!("portcullis audit checkpoint\n{seq}\n{hash}\n")
}

enum Pair {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
}

/// A private key that signs checkpoints.
pub struct Signer {
    pair: Pair,
    name: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.name)
    }
}

impl Signer {
    /// Takes a private key in PKCS #8, or P-256 in SEC 1 (DER).
    pub fn new(der: &[u8]) -> Result<Self, SigningError> {
        let es256 = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(Pair::EdDsa)
            .or_else(|_other| EcdsaKeyPair::from_pkcs8(es256, der).map(Pair::Es256))
            .or_else(|_other| EcdsaKeyPair::from_private_key_der(es256, der).map(Pair::Es256))
            .map_err(|_cause| SigningError::NotPrivate)?;
        let public = match &pair {
            Pair::EdDsa(pair) => pair.public_key().as_ref(),
            Pair::Es256(pair) => pair.public_key().as_ref(),
        };
        let name = name_of(public);
        Ok(Self { pair, name })
    }

    /// The name of the public key.
    pub(in crate::audit) fn name(&self) -> &str {
        &self.name
    }

    /// The checkpoint after a record; `None` if the system has no randomness.
    pub(in crate::audit) fn checkpoint(&self, seq: u64, hash: &str) -> Option<Checkpoint> {
        let text = signed_text(seq, hash);
        let (algorithm, signature) = match &self.pair {
            Pair::EdDsa(pair) => ("EdDSA", pair.sign(text.as_bytes())),
            Pair::Es256(pair) => (
                "ES256",
                pair.sign(&SystemRandom::new(), text.as_bytes()).ok()?,
            ),
        };
        Some(Checkpoint {
            algorithm: algorithm.to_owned(),
            key: self.name.clone(),
            signature: URL_SAFE_NO_PAD.encode(signature),
        })
    }
}

/// A public key that verifies checkpoints.
pub struct PublicKey {
    key: ParsedPublicKey,
    name: String,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.name)
    }
}

impl PublicKey {
    /// Takes a public key in X.509 (DER).
    pub fn new(der: &[u8]) -> Result<Self, SigningError> {
        // The key itself stands at the end of the structure: 32 bytes, or 65 of a P-256 point.
        let ed25519 = ParsedPublicKey::new(&ED25519, der).map(|key| (key, 32));
        let (key, length) = ed25519
            .or_else(|_other| {
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der).map(|key| (key, 65))
            })
            .map_err(|_cause| SigningError::NotPublic)?;
        let raw = der.len().checked_sub(length).and_then(|at| der.get(at..));
        let name = name_of(raw.ok_or(SigningError::NotPublic)?);
        Ok(Self { key, name })
    }

    /// The name of the key, as checkpoints have it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if a checkpoint is signed with this key, for the record before it.
    pub(in crate::audit) fn accepts(&self, checkpoint: &Checkpoint, seq: u64, hash: &str) -> bool {
        let Ok(signature) = URL_SAFE_NO_PAD.decode(&checkpoint.signature) else {
            return false;
        };
        let text = signed_text(seq, hash);
        self.key.verify_sig(text.as_bytes(), &signature).is_ok()
    }
}

fn name_of(public: &[u8]) -> String {
    short(blake3::hash(public))
}
