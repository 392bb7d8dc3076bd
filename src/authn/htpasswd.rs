//! Users and hashes from an htpasswd file, as Apache's `htpasswd` and `portcullis passwd` write it.
//!
//! A file is read strictly: each line that is not understood is reported, and who takes over a
//! changed file takes it whole or not at all. Accepted are bcrypt (`$2y$`, `$2a$`, `$2b$`), SHA-crypt
//! (`$5$`, `$6$`), apr1 and `{SHA}`; verifying any of them takes a bounded time. An unknown user
//! costs as much as one of the known ones, so time does not tell who exists.

mod apr1;
mod bounds;
mod edit;
mod finding;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod hash;
mod line;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use super::Rejection;
use super::fingerprint::Fingerprint;
use crate::identity::{Name, Origin, Password};
use crate::whole_file;

pub use bounds::{BCRYPT_PASSWORD, MAX_COST, SOUND_COST};
pub use edit::{removed, replaced};
pub use finding::{Finding, LineError, LineWarning, Problem, Weakness, check_user};

use hash::{Effort, Hash};
use line::{Line, lines};

/// The users of one file. There is at least one.
pub struct Users {
    entries: HashMap<Box<str>, Entry>,
    /// Users whose lines are damaged: known, so that no later back end's namesake is taken for them,
    /// and let in by no password.
    damaged: HashMap<Box<str>, Fingerprint>,
    /// How a directory would spell those names that it would spell otherwise.
    folded: HashSet<Arc<str>>,
    /// The efforts of all hashes, in order: the stand-in for an unknown user has one of them.
    efforts: Box<[Effort]>,
}

/// Draws an unknown user's effort. Of the process, so that a reload does not change what is drawn.
static DRAW: LazyLock<RandomState> = LazyLock::new(RandomState::new);

struct Entry {
    hash: Hash,
    fingerprint: Fingerprint,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users")
            .field("count", &self.entries.len())
            .finish_non_exhaustive()
    }
}

impl Users {
    /// Reads a file's content; `file` is its name for the findings, which are in line order.
    pub fn parse(text: &[u8], file: &Path) -> Result<(Self, Vec<LineWarning>), Vec<LineError>> {
        match Self::salvage(text, file)? {
            (users, warnings, errors) if errors.is_empty() => Ok((users, warnings)),
            (_, _, errors) => Err(errors),
        }
    }

    /// Reads the lines that can be read; an error only where none is left. Users of the others
    /// cannot log in.
    pub fn salvage(
        text: &[u8],
        file: &Path,
    ) -> Result<(Self, Vec<LineWarning>, Vec<LineError>), Vec<LineError>> {
        let file = Arc::from(file);
        if whole_file::is_utf16(text) {
            return Err(vec![LineError::of_file(&file, Problem::Utf16)]);
        }
        let (mut entries, mut seen) = (HashMap::new(), HashMap::new());
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        for line in lines(text) {
            match enter(&mut entries, &mut seen, &line) {
                Ok((_, None)) => {}
                Ok((user, Some(weak))) => warnings.push(LineWarning::new(&file, &line, user, weak)),
                // Earlier versions let such names in: the rest of a file must not fail with them.
                Err(Problem::UserUnfit(unfit)) => {
                    warnings.push(LineWarning::skipped(&file, &line, unfit));
                }
                Err(problem) => errors.push(LineError::new(&file, &line, problem)),
            }
        }
        if entries.is_empty() {
            if errors.is_empty() {
                errors.push(LineError::of_file(&file, Problem::NoUsers));
            }
            return Err(errors);
        }
        let damaged: HashMap<_, _> = lines(text)
            .filter_map(|line| line.user.zip(line.hash))
            .filter(|(user, _)| !entries.contains_key(*user) && check_user(user).is_ok())
            .map(|(user, text)| (user.into(), Fingerprint::of_line(user, text)))
            .collect();
        let mut efforts: Vec<_> = entries.values().map(|entry| entry.hash.effort()).collect();
        efforts.sort_unstable();
        let users = Self {
            folded: folded(entries.keys().chain(damaged.keys())),
            entries,
            damaged,
            efforts: efforts.into(),
        };
        Ok((users, warnings, errors))
    }

    /// Verifies a password. It occupies a core for up to a second: call it on the hashing pool.
    ///
    /// Exactly one hash is computed, of a stand-in where the user is unknown; none at all where the
    /// password is longer than the hash can read.
    pub fn verify(&self, user: &str, password: &Password) -> Result<(), Rejection> {
        let entry = self.entries.get(user);
        let stand_in;
        let hash = if let Some(entry) = entry {
            &entry.hash
        } else {
            stand_in = self.stand_in(user);
            &stand_in
        };
        let password = password.expose().as_bytes();
        if !hash.reads_whole(password) {
            return Err(Rejection::PasswordTooLong);
        }
        let matches = hash.matches(password);
        match (entry, matches) {
            (Some(_), true) => Ok(()),
            (Some(_), false) => Err(Rejection::WrongPassword),
            (None, _) if self.damaged.contains_key(user) => Err(Rejection::WrongPassword),
            (None, _) => Err(Rejection::UnknownUser),
        }
    }

    /// What an unknown user's password is verified against: as much work as the hash of one of the
    /// users, always the same one's, so that time tells nobody from somebody.
    fn stand_in(&self, user: &str) -> Hash {
        let drawn = u128::from(DRAW.hash_one(user));
        let count = u128::try_from(self.efforts.len()).unwrap_or_default();
        let at = usize::try_from(drawn.saturating_mul(count) >> u64::BITS).unwrap_or_default();
        let effort = self.efforts.get(at).or_else(|| self.efforts.first());
        Hash::stand_in(effort.copied().unwrap_or(Effort::Sha1))
    }

    /// The fingerprint of a user's entry; `None` for unknown users.
    pub fn fingerprint(&self, user: &str) -> Option<Fingerprint> {
        let entry = self.entries.get(user).map(|entry| entry.fingerprint);
        entry.or_else(|| self.damaged.get(user).copied())
    }

    /// Whether there is a user of that name; of a directory's, in any spelling.
    pub fn knows(&self, name: &Name) -> bool {
        let folded = name.folded();
        let stands =
            |user: &str| self.entries.contains_key(user) || self.damaged.contains_key(user);
        stands(name.as_str())
            || (name.is_folded() && (stands(folded) || self.folded.contains(folded)))
    }

    /// All names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(AsRef::as_ref)
    }

    /// How many users there are.
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Hashes a new password for a file, with bcrypt. `cost` is [`SOUND_COST`] to [`MAX_COST`].
pub fn hash_password(password: &Password, cost: u32) -> Result<String, UnfitPassword> {
    if !(SOUND_COST..=MAX_COST).contains(&cost) {
        return Err(UnfitPassword::Cost);
    }
    let password = password.expose().as_bytes();
    if password.len() > BCRYPT_PASSWORD {
        return Err(UnfitPassword::TooLong);
    }
    hash::bcrypt_line(password, cost).map_err(UnfitPassword::Bcrypt)
}

/// Why a password was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum UnfitPassword {
    /// The system has no randomness for a salt.
    #[error("no salt could be made")]
    Bcrypt(#[source] bcrypt::BcryptError),
    /// Outside of the band.
    #[error("the cost must be {SOUND_COST} to {MAX_COST}")]
    Cost,
    /// bcrypt would ignore the end of it.
    #[error("the password is longer than the {BCRYPT_PASSWORD} bytes that bcrypt reads")]
    TooLong,
}

/// How a directory would spell the names that it would spell otherwise.
fn folded<'a>(users: impl Iterator<Item = &'a Box<str>>) -> HashSet<Arc<str>> {
    let names = users.filter_map(|user| Name::parse(user, Origin::Password).ok());
    names
        .filter(|name| name.folded() != name.shown())
        .map(|name| Arc::clone(name.folded()))
        .collect()
}

/// Puts a line's user into the table, and says whether the hash is weak. `seen` also remembers the
/// users whose lines are broken.
fn enter<'a>(
    entries: &mut HashMap<Box<str>, Entry>,
    seen: &mut HashMap<&'a str, usize>,
    line: &Line<'a>,
) -> Result<(&'a str, Option<Weakness>), Problem> {
    if !line.utf8 {
        return Err(Problem::NotUtf8);
    }
    let (user, text) = line.user.zip(line.hash).ok_or(Problem::NoColon)?;
    check_user(user)?;
    let first = *seen.entry(user).or_insert(line.number);
    if first != line.number {
        return Err(Problem::Duplicate(first));
    }
    let hash = Hash::parse(text)?;
    let weakness = hash.weakness();
    let fingerprint = Fingerprint::of_line(user, text);
    entries.insert(user.into(), Entry { hash, fingerprint });
    Ok((user, weakness))
}

#[cfg(test)]
mod tests;
