//! A stored hash as a value: read once when the file is loaded, so that nothing can be malformed
//! when a password is verified. The only module that computes password hashes.

use base64::Engine;
use base64::alphabet::BCRYPT;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{NO_PAD, STANDARD};
use sha_crypt::{Params, sha256_crypt, sha512_crypt};
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::apr1::apr1;
use super::bounds::{BCRYPT_PASSWORD, MAX_COST, MAX_ROUNDS, MIN_COST, MIN_ROUNDS, SOUND_COST};
use super::finding::{Problem, Weakness};

const BASE64: GeneralPurpose = GeneralPurpose::new(&BCRYPT, NO_PAD);
const APR1_SALT: usize = 8;
const SHA_SALT: usize = 16;

// The orders in which the crypt formats write the bytes of a digest.
const APR1_ORDER: [u8; 16] = [12, 6, 0, 13, 7, 1, 14, 8, 2, 15, 9, 3, 5, 10, 4, 11];
const SHA256_ORDER: [u8; 32] = [
    20, 10, 0, 11, 1, 21, 2, 22, 12, 23, 13, 3, 14, 4, 24, 5, 25, 15, 26, 16, 6, 17, 7, 27, 8, 28,
    18, 29, 19, 9, 30, 31,
];
const SHA512_ORDER: [u8; 64] = [
    42, 21, 0, 1, 43, 22, 23, 2, 44, 45, 24, 3, 4, 46, 25, 26, 5, 47, 48, 27, 6, 7, 49, 28, 29, 8,
    50, 51, 30, 9, 10, 52, 31, 32, 11, 53, 54, 33, 12, 13, 55, 34, 35, 14, 56, 57, 36, 15, 16, 58,
    37, 38, 17, 59, 60, 39, 18, 19, 61, 40, 41, 20, 62, 63,
];

/// A hash of one of the accepted kinds.
pub(super) enum Hash {
    Sha1 {
        digest: [u8; 20],
    },
    Apr1 {
        salt: Box<[u8]>,
        digest: [u8; 16],
    },
    Sha256 {
        rounds: Rounds,
        salt: Box<[u8]>,
        digest: [u8; 32],
    },
    Sha512 {
        rounds: Rounds,
        salt: Box<[u8]>,
        digest: [u8; 64],
    },
    Bcrypt {
        cost: Cost,
        salt: [u8; 16],
        digest: [u8; 23],
    },
}

/// A bcrypt cost within the band that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost(u32);

impl Cost {
    fn new(cost: u32) -> Result<Self, Problem> {
        match cost {
            0..MIN_COST => Err(Problem::CostTooLow(cost)),
            MIN_COST..=MAX_COST => Ok(Self(cost)),
            _ => Err(Problem::CostTooHigh(cost)),
        }
    }
}

/// A number of SHA-crypt rounds within the band that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rounds(u32);

impl Rounds {
    /// What a hash has that names no number.
    const DEFAULT: Self = Self(Params::RECOMMENDED_ROUNDS);

    fn new(rounds: u32) -> Result<Self, Problem> {
        match rounds {
            0..MIN_ROUNDS => Err(Problem::RoundsTooFew(rounds)),
            MIN_ROUNDS..=MAX_ROUNDS => Ok(Self(rounds)),
            _ => Err(Problem::RoundsTooMany(rounds)),
        }
    }

    fn params(self) -> Params {
        // Within the band, so the default is never taken.
        Params::new(self.0).unwrap_or_default()
    }
}

/// How much work a hash is; later is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effort {
    Sha1,
    Apr1,
    Sha256(Rounds),
    Sha512(Rounds),
    Bcrypt(Cost),
}

impl Hash {
    /// Reads what stands behind the colon.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let end = text.find([' ', '\t', ':']).unwrap_or(text.len());
        let (text, rest) = text.split_at_checked(end).unwrap_or((text, ""));
        let hash = Self::parse_whole(text)?;
        if rest.is_empty() {
            Ok(hash)
        } else {
            Err(Problem::Trailing)
        }
    }

    fn parse_whole(text: &str) -> Result<Self, Problem> {
        if let Some(digest) = text.strip_prefix("{SHA}") {
            return parse_sha1(digest).ok_or(Problem::Malformed("{SHA}"));
        }
        let Some((kind, rest)) = text.strip_prefix('$').and_then(|text| text.split_once('$'))
        else {
            return Err(without_dollar(text));
        };
        match kind {
            "2y" | "2a" | "2b" => parse_bcrypt(rest),
            "2x" => Err(Problem::Bcrypt2x),
            "apr1" => parse_apr1(rest).ok_or(Problem::Malformed("apr1")),
            "5" => {
                let (rounds, salt, digest) = parse_sha_crypt(rest, "SHA-256-crypt")?;
                let digest =
                    decode(digest, SHA256_ORDER).ok_or(Problem::Malformed("SHA-256-crypt"))?;
                Ok(Self::Sha256 {
                    rounds,
                    salt,
                    digest,
                })
            }
            "6" => {
                let (rounds, salt, digest) = parse_sha_crypt(rest, "SHA-512-crypt")?;
                let digest =
                    decode(digest, SHA512_ORDER).ok_or(Problem::Malformed("SHA-512-crypt"))?;
                Ok(Self::Sha512 {
                    rounds,
                    salt,
                    digest,
                })
            }
            "1" => Err(Problem::Md5Crypt),
            "y" | "gy" | "7" => Err(Problem::Yescrypt),
            _ => Err(Problem::Unknown),
        }
    }

    /// A hash that is as much work as others of this effort, and which no password is known to fit.
    pub(super) fn stand_in(effort: Effort) -> Self {
        let salt = |length| vec![b'.'; length].into();
        match effort {
            Effort::Sha1 => Self::Sha1 { digest: [0; 20] },
            Effort::Apr1 => Self::Apr1 {
                salt: salt(APR1_SALT),
                digest: [0; 16],
            },
            Effort::Sha256(rounds) => Self::Sha256 {
                rounds,
                salt: salt(SHA_SALT),
                digest: [0; 32],
            },
            Effort::Sha512(rounds) => Self::Sha512 {
                rounds,
                salt: salt(SHA_SALT),
                digest: [0; 64],
            },
            Effort::Bcrypt(cost) => Self::Bcrypt {
                cost,
                salt: [0; 16],
                digest: [0; 23],
            },
        }
    }

    /// How much work verifying is.
    pub(super) fn effort(&self) -> Effort {
        match self {
            Self::Sha1 { .. } => Effort::Sha1,
            Self::Apr1 { .. } => Effort::Apr1,
            Self::Sha256 { rounds, .. } => Effort::Sha256(*rounds),
            Self::Sha512 { rounds, .. } => Effort::Sha512(*rounds),
            Self::Bcrypt { cost, .. } => Effort::Bcrypt(*cost),
        }
    }

    /// Why the hash should be renewed, if it should.
    pub(super) fn weakness(&self) -> Option<Weakness> {
        match self {
            Self::Sha1 { .. } => Some(Weakness::Unsalted),
            Self::Apr1 { .. } => Some(Weakness::Apr1),
            Self::Bcrypt {
                cost: Cost(cost), ..
            } if *cost < SOUND_COST => Some(Weakness::LowCost(*cost)),
            Self::Sha256 { .. } | Self::Sha512 { .. } | Self::Bcrypt { .. } => None,
        }
    }

    /// Whether every byte of such a password would count.
    pub(super) fn reads_whole(&self, password: &[u8]) -> bool {
        match self {
            Self::Bcrypt { .. } => password.len() <= BCRYPT_PASSWORD,
            Self::Sha1 { .. } | Self::Apr1 { .. } | Self::Sha256 { .. } | Self::Sha512 { .. } => {
                true
            }
        }
    }

    /// Hashes the password, and says in constant time whether the digests are the same.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        #[cfg(test)]
        tests::note(self.effort());
        match self {
            Self::Sha1 { digest } => {
                let found: [u8; 20] = Sha1::digest(password).into();
                digest.ct_eq(&found)
            }
            Self::Apr1 { salt, digest } => digest.ct_eq(&apr1(password, salt)),
            Self::Sha256 {
                rounds,
                salt,
                digest,
            } => digest.ct_eq(&sha256_crypt(password, salt, rounds.params())),
            Self::Sha512 {
                rounds,
                salt,
                digest,
            } => digest.ct_eq(&sha512_crypt(password, salt, rounds.params())),
            Self::Bcrypt { cost, salt, digest } => {
                let found = bcrypt::bcrypt(cost.0, *salt, &bcrypt_key(password));
                found.get(..digest.len()).unwrap_or_default().ct_eq(digest)
            }
        }
        .into()
    }
}

/// Hashes a new password with bcrypt, as `$2y$`, which every reader of htpasswd files knows.
///
/// The salt is the system's randomness; an error says that there is none.
pub(super) fn bcrypt_line(password: &[u8], cost: u32) -> Result<String, bcrypt::BcryptError> {
    let parts = bcrypt::hash_with_result(password, cost)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoY))
}

/// The password as bcrypt takes it: with a NUL behind it, if there is room for that.
fn bcrypt_key(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut key = Zeroizing::new(Vec::with_capacity(BCRYPT_PASSWORD));
    key.extend(password.iter().copied().chain([0]).take(BCRYPT_PASSWORD));
    key
}

fn parse_sha1(digest: &str) -> Option<Hash> {
    let digest = STANDARD.decode(digest).ok()?.try_into().ok()?;
    Some(Hash::Sha1 { digest })
}

fn parse_bcrypt(rest: &str) -> Result<Hash, Problem> {
    let malformed = || Problem::Malformed("bcrypt");
    let (cost, rest) = rest.split_once('$').ok_or_else(malformed)?;
    let cost = parse_number(cost)
        .filter(|_| cost.len() == 2)
        .ok_or_else(malformed)?;
    let cost = Cost::new(cost)?;
    let (salt, digest) = rest.split_at_checked(22).ok_or_else(malformed)?;
    let array = |text| BASE64.decode(text).ok();
    let salt = array(salt)
        .and_then(|salt| salt.try_into().ok())
        .ok_or_else(malformed)?;
    let digest = array(digest)
        .and_then(|digest| digest.try_into().ok())
        .ok_or_else(malformed)?;
    Ok(Hash::Bcrypt { cost, salt, digest })
}

fn parse_apr1(rest: &str) -> Option<Hash> {
    let (salt, digest) = rest.split_once('$')?;
    let salt = parse_salt(salt, APR1_SALT)?;
    Some(Hash::Apr1 {
        salt,
        digest: decode(digest, APR1_ORDER)?,
    })
}

fn parse_sha_crypt<'a>(
    rest: &'a str,
    kind: &'static str,
) -> Result<(Rounds, Box<[u8]>, &'a str), Problem> {
    let malformed = || Problem::Malformed(kind);
    let (rounds, rest) = match rest.strip_prefix("rounds=") {
        Some(rest) => {
            let (digits, rest) = rest.split_once('$').ok_or_else(malformed)?;
            (
                Rounds::new(parse_number(digits).ok_or_else(malformed)?)?,
                rest,
            )
        }
        None => (Rounds::DEFAULT, rest),
    };
    let (salt, digest) = rest.split_once('$').ok_or_else(malformed)?;
    let salt = parse_salt(salt, SHA_SALT).ok_or_else(malformed)?;
    Ok((rounds, salt, digest))
}

fn parse_number(digits: &str) -> Option<u32> {
    // `u32` alone would also read a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

fn parse_salt(salt: &str, longest: usize) -> Option<Box<[u8]>> {
    let sound = salt.len() <= longest && salt.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then(|| salt.as_bytes().into())
}

/// Decodes the base 64 of the crypt formats: lowest bits first, and the bytes of the digest in the
/// order given. Exactly one text decodes to a digest.
fn decode<const N: usize>(text: &str, order: [u8; N]) -> Option<[u8; N]> {
    if text.len() != N.saturating_mul(8).div_ceil(6) {
        return None;
    }
    let mut digest = [0; N];
    let mut places = order.into_iter();
    for chunk in text.as_bytes().chunks(4) {
        let bits = chunk
            .iter()
            .rev()
            .try_fold(0_u32, |bits, char| Some((bits << 6) | sextet(*char)?))?;
        for byte in bits.to_le_bytes().into_iter().take(3) {
            match places.next() {
                Some(place) => *digest.get_mut(usize::from(place))? = byte,
                None if byte == 0 => {}
                None => return None,
            }
        }
    }
    Some(digest)
}

fn sextet(char: u8) -> Option<u32> {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    ALPHABET
        .iter()
        .zip(0..)
        .find_map(|(letter, value)| (*letter == char).then_some(value))
}

/// What a text that does not begin like a modular hash most likely is.
fn without_dollar(text: &str) -> Problem {
    let crypt = |text: &str| text.bytes().all(|byte| sextet(byte).is_some());
    match text.strip_prefix('_') {
        _ if text.is_empty() => Problem::NoHash,
        _ if text.len() == 13 && crypt(text) => Problem::Des,
        Some(rest) if rest.len() == 19 && crypt(rest) => Problem::Bsdi,
        Some(_) | None => Problem::Unknown,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;

    use super::{APR1_ORDER, Effort, SHA256_ORDER, SHA512_ORDER};

    thread_local! {
        static DONE: RefCell<Vec<Effort>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn note(effort: Effort) {
        DONE.with_borrow_mut(|done| done.push(effort));
    }

    /// The hashes that this thread has computed since the last call.
    pub(in super::super) fn hashes_done() -> Vec<Effort> {
        DONE.take()
    }

    #[test]
    fn the_orders_name_each_byte_once() {
        let sorted = |order: &[u8]| {
            let mut order = order.to_vec();
            order.sort_unstable();
            order
        };
        assert_eq!(sorted(&APR1_ORDER), (0..16).collect::<Vec<_>>());
        assert_eq!(sorted(&SHA256_ORDER), (0..32).collect::<Vec<_>>());
        assert_eq!(sorted(&SHA512_ORDER), (0..64).collect::<Vec<_>>());
    }
}
