//! Robot keys: made, recognised and verified.
//!
//! A key is `pcl_`, 33 random letters and digits (196 bits), and a checksum of 6 more, so that
//! scanners of repositories find it and a mistyped one is known without a look-up. Stored is its
//! SHA-256. A slow hash is for secrets that can be guessed: trying 2^196 keys is out of reach
//! however fast the hash is, and a fast one lets every request of a robot be verified anew, so that
//! nothing is remembered and a revoked key ends at once.
//!
//! The file is looked at whenever a key is used or the status is asked for, and read again when it is
//! another one. If it cannot be read then, or is empty, perhaps because it is being written, the keys
//! known so far stay in force and the log says so. A thread of its own looks at it: whoever asks waits
//! for the next look, and for nothing while the file system hangs.

mod file;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex, MutexGuard};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use file::read_digest;
pub use file::{RobotKey, check_key_name, key_pattern, robot_keys, write_digest};

use super::{Outcome, Rejection};
use crate::document::{Diagnostic, Errors};
use crate::hash::{hex, sha256};
use crate::identity::{Identity, KEY_PREFIX, Password, SHORTEST_KEY, Secret};
use crate::policy::Roles;
use crate::whole_file;

const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Random letters of a key: 33 × log2(62) is 196 bits.
const RANDOM: usize = 33;
/// Letters of the checksum: 62^6 is more than 2^32.
const CHECKSUM: usize = 6;
/// No file of keys is longer.
const MAX_FILE: u64 = 16 << 20;
/// How long a look at the file may take before nobody waits for it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an empty file may be one that is being written, at a reload.
const SETTLING: Duration = Duration::from_secs(1);
const SETTLING_INTERVAL: Duration = Duration::from_millis(20);

/// A new key. It is nowhere else.
pub fn new_key() -> io::Result<Secret<String>> {
    let mut key = Zeroizing::new(String::with_capacity(64));
    key.push_str(KEY_PREFIX);
    let mut bytes = Zeroizing::new([0; RANDOM]);
    while key.len() < KEY_PREFIX.len().saturating_add(RANDOM) {
        aws_lc_rs::rand::fill(bytes.as_mut())
            .map_err(|_cause| io::Error::other("the system has no randomness"))?;
        // 248 is the greatest multiple of 62 in a byte: beyond it some letters would be likelier.
        let fair = bytes.iter().filter(|byte| **byte < 248);
        let missing = KEY_PREFIX
            .len()
            .saturating_add(RANDOM)
            .saturating_sub(key.len());
        key.extend(fair.take(missing).map(|byte| letter(u32::from(*byte))));
    }
    let checksum = checksum(&key);
    key.push_str(&checksum);
    Ok(Secret::new(key.to_string()))
}

/// What is stored of a key.
pub fn digest(key: &str) -> [u8; 32] {
    sha256(key.as_bytes())
}

/// What names one state of the file of keys, in hexadecimal digits.
pub fn digest_of_file(text: &[u8]) -> String {
    hex(&sha256(text))
}

/// Whether a password is meant to be a robot key; whether it is one is another question.
pub fn is_meant(password: &Password) -> bool {
    password
        .expose()
        .strip_prefix(KEY_PREFIX)
        .is_some_and(|rest| {
            rest.len() >= SHORTEST_KEY && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        })
}

fn is_whole(key: &str) -> bool {
    let length = KEY_PREFIX.len().saturating_add(RANDOM);
    key.len() == length.saturating_add(CHECKSUM)
        && key
            .split_at_checked(length)
            .is_some_and(|(body, end)| checksum(body) == end)
}

/// CRC-32 (the one of zip and PNG) in letters, the most significant first: what other makers of
/// such keys have, so that scanners need nothing new.
fn checksum(body: &str) -> String {
    let mut crc = u32::MAX;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= 0xEDB8_8320;
            }
        }
    }
    let crc = !crc;
    let place = |power| letter(crc.checked_div(62_u32.saturating_pow(power)).unwrap_or(0));
    (0..6).rev().map(place).collect()
}

/// The letter of a number, modulo 62.
fn letter(number: u32) -> char {
    let index = usize::try_from(number.checked_rem(62).unwrap_or(0)).unwrap_or_default();
    LETTERS.get(index).copied().map_or('0', char::from)
}

/// The keys of one file, as they are now.
pub struct Keyring {
    path: PathBuf,
    looks: Arc<Looks>,
}

/// Meeting point of those who ask and the thread that looks at the file.
struct Looks {
    latest: Mutex<Latest>,
    asked: Condvar,
    answered: Condvar,
}

struct Latest {
    reading: Reading,
    /// Somebody waits for a look that has not begun.
    wanted: bool,
    /// Looks that have begun, and those that are done.
    begun: u64,
    done: u64,
    /// The last one takes too long: nobody waits for it.
    hangs: bool,
    /// Nobody asks any more.
    ended: bool,
}

/// What was read last.
#[derive(Clone)]
struct Reading {
    seen: Stamp,
    keys: Arc<Keys>,
    /// Of the text that the keys are from; `None` if there was no file.
    text: Option<[u8; 32]>,
    /// Why what is there now could not be read; the keys are then older.
    trouble: Option<Box<str>>,
}

/// State of the file that is in force, for commands that have changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringState {
    /// The file.
    pub file: PathBuf,
    /// How many keys there are.
    pub keys: usize,
    /// SHA-256 of the text that they are from; `None` if there was no file.
    pub text: Option<[u8; 32]>,
    /// Why what is there now could not be read; older keys are in force then.
    pub trouble: Option<Box<str>>,
}

/// What tells one state of a file from another: every way of replacing or changing it shows here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stamp {
    Absent,
    Unreadable,
    File {
        device: u64,
        inode: u64,
        size: u64,
        is_regular: bool,
        modified: (i64, i64),
        changed: (i64, i64),
    },
}

/// The keys of one moment.
#[derive(Debug, Default)]
pub struct Keys(HashMap<Box<str>, RobotKey>);

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// It is another key now, or may do something else.
    Changed,
    /// It is there now.
    Made,
    /// It is there no more.
    Revoked,
}

impl KeyChange {
    /// The words of the audit record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "key changed",
            Self::Made => "key made",
            Self::Revoked => "key revoked",
        }
    }
}

impl Keyring {
    /// Reads the file. None at all is a file without keys: `portcullis key create` makes it.
    pub fn open(path: &Path, roles: &Roles) -> Result<Self, Errors> {
        Self::from_read(path, roles, read(path, roles)?)
    }

    /// Reads the file that a new configuration names. An empty one in the place of keys in force is
    /// waited for, as it may be being written, and then an error.
    pub fn reopen(&self, path: &Path, roles: &Roles) -> Result<Self, Errors> {
        let has_keys = path == self.path && !self.looks.latest.lock().reading.keys.0.is_empty();
        let begun = Instant::now();
        loop {
            let found = read(path, roles)?;
            if !(has_keys && found.0.is_empty_file()) {
                return Self::from_read(path, roles, found);
            }
            if begun.elapsed() >= SETTLING {
                return Err(Diagnostic::about_file(path, EMPTY).into());
            }
            thread::sleep(SETTLING_INTERVAL);
        }
    }

    fn from_read(path: &Path, roles: &Roles, found: Found) -> Result<Self, Errors> {
        let (seen, text, keys) = found;
        let looks = Arc::new(Looks {
            latest: Mutex::new(Latest {
                reading: Reading {
                    seen,
                    keys: Arc::new(keys),
                    text,
                    trouble: None,
                },
                wanted: false,
                begun: 0,
                done: 0,
                hangs: false,
                ended: false,
            }),
            asked: Condvar::new(),
            answered: Condvar::new(),
        });
        let (at, roles, its) = (path.to_owned(), roles.clone(), Arc::clone(&looks));
        let thread = thread::Builder::new().name("robot-keys".to_owned());
        let started = thread.spawn(move || its.look_when_asked(&at, &roles));
        started.map_err(|error| {
            let message = format!("no thread can be started to watch the robot keys: {error}");
            Errors::from(Diagnostic::about_file(path, message))
        })?;
        Ok(Self {
            path: path.to_owned(),
            looks,
        })
    }

    /// The keys as the file has them now.
    pub fn current(&self) -> Arc<Keys> {
        self.looks.renewed().keys
    }

    /// State of the file that these are.
    pub fn state(&self) -> KeyringState {
        let last = self.looks.renewed();
        KeyringState {
            file: self.path.clone(),
            keys: last.keys.0.len(),
            text: last.text,
            trouble: last.trouble,
        }
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        self.looks.latest.lock().ended = true;
        self.looks.asked.notify_one();
    }
}

impl Looks {
    /// What a look finds that begins from now on; what is known already if the file system hangs.
    fn renewed(&self) -> Reading {
        let mut latest = self.latest.lock();
        let own = latest.begun.saturating_add(1);
        latest.wanted = true;
        self.asked.notify_one();
        let begun = Instant::now();
        while latest.done < own && !latest.hangs {
            let left = LOOK_TIMEOUT.saturating_sub(begun.elapsed());
            let waited = self.answered.wait_for(&mut latest, left);
            if waited.timed_out() && latest.done < own && !latest.hangs {
                latest.hangs = true;
                tracing::error!(
                    "the file of robot keys does not answer, the old ones stay in force: NOTHING \
                     THAT WAS REVOKED OR CHANGED IN THE FILE IS IN FORCE"
                );
            }
        }
        let mut reading = latest.reading.clone();
        if latest.hangs {
            reading.trouble = Some("the file system does not answer".into());
        }
        reading
    }

    /// Looks at the file as long as somebody may ask.
    fn look_when_asked(&self, path: &Path, roles: &Roles) {
        let mut latest = self.latest.lock();
        while !latest.ended {
            if !latest.wanted {
                self.asked.wait(&mut latest);
                continue;
            }
            latest.wanted = false;
            latest.begun = latest.begun.saturating_add(1);
            let mut reading = latest.reading.clone();
            MutexGuard::unlocked(&mut latest, || reading.renew(path, roles));
            latest.reading = reading;
            latest.done = latest.begun;
            if std::mem::take(&mut latest.hangs) {
                tracing::info!("the file of robot keys answers again");
            }
            self.answered.notify_all();
        }
    }
}

impl Reading {
    fn renew(&mut self, path: &Path, roles: &Roles) {
        let now = stamp(path);
        if self.seen == now {
            return;
        }
        // Remembered also when it cannot be read, so that it is told once and not at each use.
        self.seen = now;
        let read = if now.is_empty_file() && !self.keys.0.is_empty() {
            Err(Diagnostic::about_file(path, EMPTY).into())
        } else {
            read(path, roles)
        };
        match read {
            // Written in between: the next look will see more.
            Ok((seen, _, _)) if seen.is_empty_file() && !self.keys.0.is_empty() => {}
            Ok((seen, text, keys)) => {
                let (before, after) = (self.keys.0.len(), keys.0.len());
                tracing::info!(before, after, "robot keys read again");
                *self = Self {
                    seen,
                    keys: Arc::new(keys),
                    text,
                    trouble: None,
                };
            }
            Err(errors) => {
                tracing::error!(
                    %errors,
                    "robot keys cannot be read, the old ones stay in force: NOTHING THAT WAS \
                     REVOKED OR CHANGED IN THE FILE IS IN FORCE"
                );
                // Without the lines that are quoted.
                let first = errors.diagnostics().iter().find(|one| !one.is_warning());
                self.trouble = Some(first.map_or("", Diagnostic::message).into());
            }
        }
    }
}

impl Keys {
    /// A key by its name.
    pub fn get(&self, name: &str) -> Option<&RobotKey> {
        self.0.get(name)
    }

    /// What became of the keys that there were before, and which are new; by their names.
    pub fn changes_since(&self, before: &Self) -> Vec<(Box<str>, KeyChange)> {
        let now = self.0.values().filter_map(|key| {
            let change = match before.get(&key.name) {
                None => KeyChange::Made,
                Some(old) if old.is_same(key) => return None,
                Some(_) => KeyChange::Changed,
            };
            Some((key.name.clone(), change))
        });
        let gone = before.0.keys().filter(|name| self.get(name).is_none());
        let gone = gone.map(|name| (name.clone(), KeyChange::Revoked));
        let mut changes: Vec<_> = now.chain(gone).collect();
        changes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        changes
    }

    /// Verifies what was presented as the key called `name`. A wrong, expired or misplaced key is
    /// the same to whoever presents it.
    pub fn verify(&self, name: &str, key: &Password, from: IpAddr, now: Timestamp) -> Outcome {
        let key = key.expose();
        if !is_whole(key) {
            return Outcome::Reject(Rejection::MistypedKey.into());
        }
        let presented = digest(key);
        let stored = self.get(name);
        // An unknown name is compared too; nothing has this digest.
        let expected = stored.map_or(&[0; 32], |stored| &stored.digest);
        let same = bool::from(presented.ct_eq(expected));
        let why = match stored {
            None => Rejection::UnknownKey,
            Some(_) if !same => Rejection::WrongKey,
            Some(stored) if stored.confinement.is_over(now) => Rejection::ExpiredKey,
            Some(stored) if !stored.confinement.admits(from) => Rejection::KeyElsewhere,
            Some(stored) => {
                let confinement = Arc::clone(&stored.confinement);
                return Outcome::Accept(Identity::verified_key(name, confinement));
            }
        };
        Outcome::Reject(why.into())
    }

    /// What a token made for a key names it by, under a secret key: another key with the same name
    /// has another.
    pub fn fingerprint(&self, name: &str, secret: &[u8; 32]) -> Option<[u8; 16]> {
        let key = self.get(name)?;
        let mut hasher = blake3::Hasher::new_keyed(secret);
        hasher.update(b"robot key");
        hasher.update(&key.digest);
        let mut half = [0; 16];
        hasher.finalize_xof().fill(&mut half);
        Some(half)
    }
}

fn stamp(path: &Path) -> Stamp {
    match std::fs::metadata(path) {
        Ok(metadata) => Stamp::of(&metadata),
        Err(error) => Stamp::without(&error),
    }
}

impl Stamp {
    fn is_empty_file(self) -> bool {
        matches!(
            self,
            Self::File {
                size: 0,
                is_regular: true,
                ..
            }
        )
    }

    fn of(file: &std::fs::Metadata) -> Self {
        Self::File {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            is_regular: file.is_file(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }

    fn without(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Absent
        } else {
            Self::Unreadable
        }
    }
}

/// What stands in a file: its stamp, the SHA-256 of its text if there is one, and the keys.
type Found = (Stamp, Option<[u8; 32]>, Keys);

/// Why an empty file is none without keys.
const EMPTY: &str = "the file of robot keys is empty, perhaps while it is being written; to have no keys, \
     remove it or leave a comment in it";

/// Reads a file, with the stamp and SHA-256 of exactly what was read.
fn read(path: &Path, roles: &Roles) -> Result<Found, Errors> {
    let failed = |error: io::Error| {
        let message = format!("the robot keys cannot be read: {error}");
        Errors::from(Diagnostic::about_file(path, message))
    };
    let file = match whole_file::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Stamp::Absent, None, Keys::default()));
        }
        Err(error) => return Err(failed(error)),
    };
    let stamp = Stamp::of(&file.metadata().map_err(failed)?);
    let bytes = whole_file::read_open(&file, MAX_FILE).map_err(failed)?;
    let digest = sha256(&bytes);
    let text =
        String::from_utf8(bytes).map_err(|_cause| failed(io::ErrorKind::InvalidData.into()))?;
    let keys = robot_keys(&text, path, roles)?;
    let by_name = keys.into_iter().map(|key| (key.name.clone(), key));
    Ok((stamp, Some(digest), Keys(by_name.collect())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::Instant;

    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::{KeyChange, Keyring, checksum, digest, is_meant, is_whole, new_key};
    use super::{LOOK_TIMEOUT, write_digest};
    use crate::authn::{Outcome, Rejection};
    use crate::identity::Password;
    use crate::policy::Roles;
    use crate::registry::Action;

    /// A file of keys of a test's own.
    struct KeyFile {
        _folder: TempDir,
        path: PathBuf,
    }

    impl KeyFile {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self {
                path: folder.path().join("keys.toml"),
                _folder: folder,
            }
        }

        /// Replaces it in one step.
        fn write(&self, text: &str) {
            let beside = self.path.with_extension("new");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, &self.path).unwrap();
        }

        fn open(&self) -> Keyring {
            let roles = Roles::from([("guest".into(), vec![Action::Pull])]);
            Keyring::open(&self.path, &roles).unwrap()
        }
    }

    fn entry(name: &str, key: &str, more: &str) -> String {
        let hash = write_digest(&digest(key));
        format!(
            "[[key]]\nname = \"{name}\"\nhash = \"{hash}\"\nrole = \"guest\"\n\
             repositories = [\"a/**\"]\n{more}\n"
        )
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    fn verify(keyring: &Keyring, name: &str, key: &str, from: &str) -> Result<(), Rejection> {
        let key = Password::new(key).unwrap();
        match keyring
            .current()
            .verify(name, &key, from.parse().unwrap(), now())
        {
            Outcome::Accept(who) => {
                assert_eq!(who.user(), Some(&*format!("key:{name}")));
                assert!(!who.has_password() && !who.cached());
                Ok(())
            }
            Outcome::Reject(rejected) => Err(rejected.why),
            Outcome::Fail(failure) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn an_empty_file_is_one_that_is_being_written() {
        let file = KeyFile::new();
        let key = new_key().unwrap();
        let text = entry("ci", key.expose(), "");
        fs::write(&file.path, &text).unwrap();
        let keyring = file.open();
        let tried = |keyring: &Keyring| verify(keyring, "ci", key.expose(), "10.0.0.1");
        fs::write(&file.path, "").unwrap();
        assert_eq!(tried(&keyring), Ok(()));
        let trouble = keyring.state().trouble.unwrap();
        assert!(
            trouble.contains("empty") && trouble.contains("remove it"),
            "{trouble}"
        );
        let roles = Roles::from([("guest".into(), vec![Action::Pull])]);
        assert!(keyring.reopen(&file.path, &roles).is_err());
        // As soon as there is something in it, it counts.
        fs::write(&file.path, &text).unwrap();
        assert_eq!(keyring.state().trouble, None);
        assert_eq!(tried(&keyring.reopen(&file.path, &roles).unwrap()), Ok(()));
        fs::write(&file.path, "# none\n").unwrap();
        assert_eq!(tried(&keyring), Err(Rejection::UnknownKey));
        fs::write(&file.path, "").unwrap();
        assert_eq!(keyring.reopen(&file.path, &roles).unwrap().state().keys, 0);
    }

    #[test]
    fn a_file_system_that_hangs_holds_up_nobody_twice() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let file = KeyFile::new();
        let key = new_key().unwrap();
        file.write(&entry("ci", key.expose(), ""));
        // By this way even a pipe is opened, which waits for a writer.
        let root = PathBuf::from("/proc/self/root");
        let path = root.join(file.path.strip_prefix("/").unwrap());
        let roles = Roles::from([("guest".into(), vec![Action::Pull])]);
        let keyring = Keyring::open(&path, &roles).unwrap();
        let tried = || verify(&keyring, "ci", key.expose(), "10.0.0.1");
        assert_eq!(tried(), Ok(()));
        fs::remove_file(&file.path).unwrap();
        mknodat(CWD, &file.path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(tried(), Ok(()));
        let begun = Instant::now();
        assert_eq!(tried(), Ok(()));
        assert!(begun.elapsed() < LOOK_TIMEOUT / 2, "it waited again");
        let trouble = keyring.state().trouble.unwrap();
        assert!(trouble.contains("does not answer"), "{trouble}");
        // The look ends, and the next one finds what is there then.
        drop(fs::OpenOptions::new().write(true).open(&file.path).unwrap());
        file.write("# none\n");
        while keyring.state().trouble.is_some() {
            std::thread::yield_now();
        }
        assert_eq!(tried(), Err(Rejection::UnknownKey));
    }

    #[test]
    fn new_keys_are_whole_and_different() {
        let keys: Vec<_> = (0..200).map(|_| new_key().unwrap()).collect();
        let mut seen: Vec<&str> = keys.iter().map(|key| key.expose().as_str()).collect();
        for key in &seen {
            assert_eq!(key.len(), 43, "{key}");
            assert!(is_whole(key) && is_meant(&Password::new(key).unwrap()));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 200);
        // Every letter comes up.
        let all: String = seen.concat();
        assert!(super::LETTERS.iter().all(|l| all.contains(char::from(*l))));
    }

    #[test]
    fn the_checksum_is_crc_32() {
        // 0xCBF43926, the check value of CRC-32/ISO-HDLC, is 3421780262.
        let number = checksum("123456789").bytes().fold(0_u64, |number, byte| {
            let digit = super::LETTERS.iter().position(|l| *l == byte).unwrap();
            number * 62 + u64::try_from(digit).unwrap()
        });
        assert_eq!(number, 0xCBF4_3926);
    }

    #[test]
    fn typing_errors_are_found_and_passwords_left_alone() {
        let key = new_key().unwrap();
        let key = key.expose();
        for at in 4..key.len() {
            let other = if key.as_bytes()[at] == b'x' { "y" } else { "x" };
            let mut typo = key.clone();
            typo.replace_range(at..=at, other);
            assert!(!is_whole(&typo), "{typo}");
            assert!(is_meant(&Password::new(&typo).unwrap()));
        }
        for (text, meant) in [
            (key.split_at(30).0, true),
            ("pcl_short", false),
            ("pcl_this is a sentence and no key at all", false),
            ("hunter2", false),
            ("PCL_0123456789012345678901234567890123456789", false),
        ] {
            assert_eq!(is_meant(&Password::new(text).unwrap()), meant, "{text}");
            assert!(!is_whole(text));
        }
    }

    #[test]
    fn a_key_is_good_under_its_name_in_its_time_and_place() {
        let file = KeyFile::new();
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        let (one, two) = (one.expose().as_str(), two.expose().as_str());
        file.write(
            &[
                entry("one", one, "networks = [\"10.0.0.0/8\"]"),
                entry("old", two, "expires = \"2026-06-01T00:00:00Z\""),
                entry("young", two, "expires = \"2026-06-01T00:00:01Z\""),
            ]
            .concat(),
        );
        let keyring = file.open();
        for (name, key, from, expected) in [
            ("one", one, "10.1.2.3", Ok(())),
            ("one", one, "::ffff:10.1.2.3", Ok(())),
            ("one", one, "192.0.2.1", Err(Rejection::KeyElsewhere)),
            ("one", two, "10.1.2.3", Err(Rejection::WrongKey)),
            ("two", one, "10.1.2.3", Err(Rejection::UnknownKey)),
            ("key", one, "10.1.2.3", Err(Rejection::UnknownKey)),
            (
                "one",
                one.split_at(42).0,
                "10.1.2.3",
                Err(Rejection::MistypedKey),
            ),
            ("old", two, "10.1.2.3", Err(Rejection::ExpiredKey)),
            ("young", two, "10.1.2.3", Ok(())),
        ] {
            assert_eq!(verify(&keyring, name, key, from), expected, "{name} {from}");
        }
    }

    #[test]
    fn a_change_of_the_file_is_in_force_at_the_next_use() {
        let file = KeyFile::new();
        let keyring = file.open();
        let key = new_key().unwrap();
        let here = "127.0.0.1";
        let tried = || verify(&keyring, "ci", key.expose(), here);
        assert_eq!(tried(), Err(Rejection::UnknownKey));
        file.write(&entry("ci", key.expose(), ""));
        assert_eq!(tried(), Ok(()));
        let other = new_key().unwrap();
        file.write(&entry("ci", other.expose(), ""));
        assert_eq!(tried(), Err(Rejection::WrongKey));
        file.write(&entry("ci", key.expose(), ""));
        assert_eq!(tried(), Ok(()));
        // What is broken changes nothing.
        file.write("[[key]\n");
        assert_eq!(tried(), Ok(()));
        assert_eq!(tried(), Ok(()));
        file.write("# none\n");
        assert_eq!(tried(), Err(Rejection::UnknownKey));
        file.write(&entry("ci", key.expose(), ""));
        assert_eq!(tried(), Ok(()));
        fs::remove_file(&file.path).unwrap();
        assert_eq!(tried(), Err(Rejection::UnknownKey));
    }

    #[test]
    fn which_state_of_the_file_is_in_force_is_known() {
        let file = KeyFile::new();
        let keyring = file.open();
        assert_eq!(keyring.state().text, None);
        let text = entry("ci", "pcl_x", "");
        file.write(&text);
        let good = keyring.state();
        assert_eq!((good.keys, good.text), (1, Some(digest(&text))));
        assert_eq!((&good.file, good.trouble.as_deref()), (&file.path, None));
        file.write(&text.replace("guest", "no such role"));
        let bad = keyring.state();
        assert_eq!((bad.keys, bad.text), (1, good.text), "the older ones stay");
        let trouble = bad.trouble.unwrap();
        assert!(
            !trouble.is_empty() && !trouble.contains("sha256"),
            "{trouble}"
        );
        file.write("# none\n");
        assert_eq!(keyring.state().text, Some(digest("# none\n")));
        assert_eq!(keyring.state().trouble, None);
    }

    #[test]
    fn what_became_of_the_keys_is_known() {
        let file = KeyFile::new();
        let keyring = file.open();
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        let (one, two) = (one.expose().as_str(), two.expose().as_str());
        let mut before = keyring.current();
        let mut changes = |text: &str| {
            file.write(text);
            let now = keyring.current();
            let changes = now.changes_since(&before);
            before = now;
            let words = |(name, change): &(Box<str>, KeyChange)| format!("{name}: {change:?}");
            changes.iter().map(words).collect::<Vec<_>>().join(", ")
        };
        let both = entry("a", one, "") + &entry("b", one, "");
        assert_eq!(changes(&both), "a: Made, b: Made");
        assert_eq!(changes(&format!("# moved\n{both}")), "");
        let other = entry("b", two, "") + &entry("c", one, "");
        assert_eq!(changes(&other), "a: Revoked, b: Changed, c: Made");
        let other = entry("b", two, "networks = [\"10.0.0.0/8\"]");
        assert_eq!(changes(&other), "b: Changed, c: Revoked");
    }

    #[test]
    fn a_key_with_the_same_name_has_another_fingerprint() {
        let file = KeyFile::new();
        let keyring = file.open();
        let secret = [3; 32];
        let fingerprint = || keyring.current().fingerprint("ci", &secret);
        assert_eq!(fingerprint(), None);
        let (one, two) = (new_key().unwrap(), new_key().unwrap());
        file.write(&entry("ci", one.expose(), ""));
        let first = fingerprint();
        assert!(first.is_some());
        file.write(&entry("ci", one.expose(), "networks = [\"10.0.0.0/8\"]"));
        assert_eq!(fingerprint(), first);
        file.write(&entry("ci", two.expose(), ""));
        assert_ne!(fingerprint(), first);
    }
}
