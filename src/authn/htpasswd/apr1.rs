//! Apache's variant of MD5 crypt, as `apr_md5_encode` computes it.

use md5::{Digest, Md5};

/// The digest of a password; 1000 rounds, whatever the password.
pub(super) fn apr1(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let mut digest = first(password, salt);
    for round in 0..1000_u32 {
        let mut hasher = Md5::new();
        let odd = round & 1 == 1;
        hasher.update(if odd { password } else { &digest });
        if !round.is_multiple_of(3) {
            hasher.update(salt);
        }
        if !round.is_multiple_of(7) {
            hasher.update(password);
        }
        hasher.update(if odd { &digest } else { password });
        digest = hasher.finalize().into();
    }
    digest
}

fn first(password: &[u8], salt: &[u8]) -> [u8; 16] {
    let inner: [u8; 16] = Md5::new()
        .chain_update(password)
        .chain_update(salt)
        .chain_update(password)
        .finalize()
        .into();
    let mut hasher = Md5::new();
    hasher.update(password);
    hasher.update(b"$apr1$");
    hasher.update(salt);
    for chunk in password.chunks(inner.len()) {
        hasher.update(inner.get(..chunk.len()).unwrap_or(&inner));
    }
    let mut length = password.len();
    while length > 0 {
        // The original meant something else here, but this is what all of them compute.
        let letter = if length & 1 == 1 {
            &[0]
        } else {
            password.get(..1).unwrap_or_default()
        };
        hasher.update(letter);
        length >>= 1;
    }
    hasher.finalize().into()
}
