//! The defence against guessing passwords: wrong ones are counted for each user and network, and
//! when there were too many, that user is refused from that network for a while, right or wrong.
//!
//! ```text
//!               a wrong password                the `count`-th within `per`
//!   ┌──────┐   not seen before   ┌──────────┐  ───────────────────────────►  ┌────────┐
//!   │ free │  ─────────────────► │ counting │                                │ locked │
//!   └──────┘                     └──────────┘                                └────────┘
//!      ▲    the right password, or `per` since the first    │                     │
//!      ├────────────────────────────────────────────────────┘                     │
//!      └──────────────────────────────────────────────────────────────────────────┘
//!                     `per` later, or a right password that was already being verified
//! ```
//!
//! - **Distinct** wrong passwords are counted, since clients repeat the same wrong one by
//!   themselves, also when the right one has come in between. Passwords are known by a hash under a key
//!   of this process.
//! - A directory takes many spellings for one user, more than any list of ours. The name of the entry
//!   that it found counts as well as the one that was typed; for the network that is one guess.
//! - An attempt whose password is still being verified counts until its answer is known, so that
//!   sending many guesses at once is no way around.
//! - A lock holds for one user from one network (an IPv4 address, an IPv6 /64): nobody can lock out
//!   a user elsewhere. Whether the user exists is not asked.
//! - Over all users a network has [`SOURCE_FACTOR`] times as many; right passwords do not reset
//!   that, otherwise one good account would be a licence to try all others.
//! - What is remembered is bounded: [`BUCKETS`] × [`WAYS`] pairs and as many networks, some
//!   15 MiB in all. Where there is no room, whoever has the fewest wrong passwords is forgotten first, and
//!   a lock only where everything around it is a lock too.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::identity::{Password, Subject, SubjectKind};

/// How many times the wrong passwords of one user a network has over all users.
pub const SOURCE_FACTOR: u32 = 50;
/// Groups of entries; a key decides which, so nobody can aim at one.
pub const BUCKETS: usize = 2048;
/// Entries of a group.
pub const WAYS: usize = 8;
/// Wrong passwords that are told apart for one user and network; with a `count` above, an older one
/// counts anew.
pub const REMEMBERED: usize = 32;
/// When to come back if only attempts under way are in the way.
const ATTEMPT_RETRY: Duration = Duration::from_secs(1);

/// What is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Distinct wrong passwords; 0 is no limit.
    pub count: u32,
    /// In what time, and how long a lock holds.
    pub per: Duration,
}

/// Trust in the connection that a password comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTrust {
    /// Nothing that was verified.
    Stranger,
    /// A verified client certificate that names the very user: such guesses are not counted.
    VerifiedCertificate,
}

/// One attempt: who, from where, with which password, as keyed hashes.
#[derive(Clone, Debug)]
pub struct Attempt {
    user: Box<str>,
    network: IpNet,
    pair: u128,
    source: u128,
    tag: u64,
    counts: Counts,
}

/// For whom an attempt that was wrong counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// The user from that network, and the network over all users.
    ForBoth,
    /// The user alone: the network has been charged for another spelling of the name.
    ForUser,
}

impl Attempt {
    /// The same guess by another spelling of the user, which counts for the network only once.
    #[must_use]
    pub fn for_user_alone(self) -> Self {
        Self {
            counts: Counts::ForUser,
            ..self
        }
    }

    /// For whom it counts.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether two are counted for one user from one network.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        self.pair == other.pair
    }

    /// The user, in the one spelling that all are counted by.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The network.
    pub fn network(&self) -> IpNet {
        self.network
    }

    /// What its password is known by under a key that replicas have in common.
    pub fn tag(&self, key: &[u8; 32], password: &Password) -> u64 {
        narrow(&keyed(key, &["password", &self.user, password.expose()]))
    }
}

/// Whom a lock is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// One user, from one network.
    User,
    /// Every user, from one network.
    Everybody,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The password is right.
    Right,
    /// It is not, or there is no such user.
    Wrong,
    /// Nobody knows: an outage, or the client has gone.
    Unknown,
}

/// A change worth a line in the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who is concerned; `None` for every user from that network.
    pub user: Option<Box<str>>,
    /// From where.
    pub network: IpNet,
    /// What became of it.
    pub to: Became,
}

/// What an entry became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// Refused for so long.
    Locked(Duration),
    /// Free to try again.
    Free,
}

/// Everything that is remembered. Times are since any one moment in the past, never going back.
#[derive(Debug)]
pub struct Lockout {
    secret: [u8; 32],
    names: (RandomState, RandomState),
    pairs: Table,
    sources: Table,
    changes: Vec<Change>,
}

impl Lockout {
    /// Remembers nothing yet. `secret` must be random.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            names: (RandomState::new(), RandomState::new()),
            pairs: Table::new(BUCKETS),
            sources: Table::new(BUCKETS),
            changes: Vec::new(),
        }
    }

    /// What an attempt is known by here; `None` if it is not to be counted.
    pub fn attempt(
        &self,
        trust: ClientTrust,
        who: &Subject,
        from: IpAddr,
        password: &Password,
    ) -> Option<Attempt> {
        match trust {
            ClientTrust::Stranger => {}
            ClientTrust::VerifiedCertificate => return None,
        }
        let network = network(from);
        let user = same_for_all(who);
        Some(Attempt {
            pair: self.name(&(Some((who.kind(), &*user)), network)),
            source: self.name(&(None::<(SubjectKind, &str)>, network)),
            // The user is part of it, so that nobody sees two users with the same password.
            tag: narrow(&keyed(
                &self.secret,
                &["password", &user, password.expose()],
            )),
            user,
            network,
            counts: Counts::ForBoth,
        })
    }

    /// Lets an attempt be verified, or says how long to wait. Each one let in is to be ended.
    pub fn begin(
        &mut self,
        attempt: &Attempt,
        setting: Setting,
        now: Duration,
    ) -> Result<(), Duration> {
        if setting.count == 0 {
            return Ok(());
        }
        let locked = self.sources.locked(attempt.source, now);
        if let Some(wait) = locked.or_else(|| self.pairs.locked(attempt.pair, now)) {
            return Err(wait);
        }
        let entry = self.pairs.entry(attempt.pair, now, &mut self.changes);
        entry.forget_old(setting, now);
        entry.admit(attempt.tag, setting)
    }

    /// Takes an attempt's end in. Gives the changes since the last time.
    pub fn end(
        &mut self,
        attempt: &Attempt,
        judged: Judged,
        setting: Setting,
        now: Duration,
    ) -> Vec<Change> {
        match judged {
            Judged::Right => self.right(attempt),
            Judged::Unknown => {
                if let Some(entry) = self.pairs.find(attempt.pair) {
                    entry.leave(attempt.tag);
                }
            }
            Judged::Wrong if setting.count > 0 => self.wrong(attempt, setting, now),
            Judged::Wrong => {}
        }
        std::mem::take(&mut self.changes)
    }

    /// Takes over a lock that others have come to. It holds here for that time, whatever becomes of
    /// them.
    pub fn adopt(
        &mut self,
        attempt: &Attempt,
        whom: Whom,
        time: Duration,
        now: Duration,
    ) -> Vec<Change> {
        let changes = &mut self.changes;
        let (entry, user) = match whom {
            Whom::User => (
                self.pairs.entry(attempt.pair, now, changes),
                Some(attempt.user.clone()),
            ),
            Whom::Everybody => (self.sources.entry(attempt.source, now, changes), None),
        };
        if entry.lock.is_none() {
            let for_that_time = Setting {
                count: 0,
                per: time,
            };
            changes.push(entry.lock(user, attempt.network, for_that_time, now));
        }
        std::mem::take(&mut self.changes)
    }

    /// Takes over that there were no more wrong passwords than so many: a right one elsewhere clears
    /// the count here as well.
    pub fn agree(&mut self, attempt: &Attempt, wrong: u32) {
        if let Some(entry) = self.pairs.find(attempt.pair) {
            entry.count = entry.count.min(wrong);
        }
    }

    /// The changes since the last time, with the locks that have ended meanwhile.
    pub fn changes(&mut self, now: Duration) -> Vec<Change> {
        for table in [&mut self.pairs, &mut self.sources] {
            table.end_locks(now, &mut self.changes);
        }
        std::mem::take(&mut self.changes)
    }

    /// The count begins anew. What is known to be wrong stays known: otherwise a forgotten job that
    /// repeats an old password would count against its network each time that somebody logs in.
    fn right(&mut self, attempt: &Attempt) {
        let Some(entry) = self.pairs.find(attempt.pair) else {
            return;
        };
        entry.count = 0;
        entry.pending.clear();
        self.changes
            .extend(entry.lock.take().map(Lock::into_change));
        if entry.wrong.is_empty() {
            self.pairs.remove(attempt.pair);
        }
    }

    fn wrong(&mut self, attempt: &Attempt, setting: Setting, now: Duration) {
        let changes = &mut self.changes;
        let entry = self.pairs.entry(attempt.pair, now, changes);
        entry.leave(attempt.tag);
        entry.forget_old(setting, now);
        if entry.lock.is_some() || entry.wrong.contains(&attempt.tag) {
            return;
        }
        entry.remember(attempt.tag);
        if entry.count_one(now) >= setting.count {
            let user = Some(attempt.user.clone());
            changes.push(entry.lock(user, attempt.network, setting, now));
        }
        match attempt.counts {
            Counts::ForBoth => {}
            Counts::ForUser => return,
        }
        let entry = self.sources.entry(attempt.source, now, changes);
        entry.forget_old(setting, now);
        let most = setting.count.saturating_mul(SOURCE_FACTOR);
        if entry.lock.is_none() && entry.count_one(now) >= most {
            changes.push(entry.lock(None, attempt.network, setting, now));
        }
    }

    /// Two hashes under keys of this process: nobody can aim at another's place.
    fn name(&self, of: &impl Hash) -> u128 {
        let (high, low) = (self.names.0.hash_one(of), self.names.1.hash_one(of));
        u128::from(high) << 64 | u128::from(low)
    }
}

fn keyed(key: &[u8; 32], parts: &[&str]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(&part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

/// One spelling for all that a directory may take for the same user: without regard to case, to
/// compatible characters and to superfluous spaces (RFC 4518 section 2). Whatever else it takes for the
/// same is counted by the name of the entry that it finds.
fn same_for_all(who: &Subject) -> Box<str> {
    let folded = match who {
        Subject::Person(name) | Subject::Workload(name) => name.folded().to_string(),
        Subject::Nobody | Subject::Robot(_) => who.as_str().unwrap_or_default().to_lowercase(),
    };
    if folded.bytes().all(|byte| byte.is_ascii_graphic()) {
        return folded.into();
    }
    let words: Vec<_> = folded.split_whitespace().collect();
    words.join(" ").into()
}

/// What an address counts as: one IPv4 address, or the IPv6 /64 that a single line has.
fn network(address: IpAddr) -> IpNet {
    let address = address.to_canonical();
    let length = if address.is_ipv4() { 32 } else { 64 };
    IpNet::new(address, length).map_or_else(|_never| address.into(), |network| network.trunc())
}

fn narrow(hash: &[u8; 32]) -> u64 {
    hash.first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A bounded map: a key's entry is in one bucket, and a full bucket forgets before it grows.
#[derive(Debug)]
struct Table(Vec<Vec<Entry>>);

impl Table {
    /// `buckets` is not 0.
    fn new(buckets: usize) -> Self {
        Self((0..buckets).map(|_| Vec::new()).collect())
    }

    /// The entry of a key, made if there is none. A lock that has ended, or that had to be forgotten
    /// to make room, is told.
    fn entry(&mut self, key: u128, now: Duration, changes: &mut Vec<Change>) -> &mut Entry {
        let bucket = self.bucket(key);
        let found = bucket.iter().position(|entry| entry.key == key);
        let at = found.unwrap_or_else(|| {
            if bucket.len() >= WAYS {
                changes.extend(forget_least(bucket, now).and_then(Entry::into_change));
            }
            bucket.push(Entry::new(key));
            bucket.len().saturating_sub(1)
        });
        #[expect(clippy::indexing_slicing, reason = "found or pushed just above")]
        let entry = &mut bucket[at];
        changes.extend(entry.end_lock(now));
        entry
    }

    fn remove(&mut self, key: u128) {
        self.bucket(key).retain(|entry| entry.key != key);
    }

    fn find(&mut self, key: u128) -> Option<&mut Entry> {
        self.bucket(key).iter_mut().find(|entry| entry.key == key)
    }

    /// How long a key is still locked.
    fn locked(&mut self, key: u128, now: Duration) -> Option<Duration> {
        let lock = self.find(key)?.lock.as_ref()?;
        let left = lock.until.saturating_sub(now);
        (!left.is_zero()).then_some(left)
    }

    fn end_locks(&mut self, now: Duration, changes: &mut Vec<Change>) {
        for entry in self.0.iter_mut().flatten() {
            changes.extend(entry.end_lock(now));
        }
    }

    fn bucket(&mut self, key: u128) -> &mut Vec<Entry> {
        let buckets = u128::try_from(self.0.len()).unwrap_or(u128::MAX);
        let index = key.checked_rem(buckets).unwrap_or_default();
        #[expect(
            clippy::indexing_slicing,
            reason = "a remainder is less than the divisor"
        )]
        &mut self.0[usize::try_from(index).unwrap_or_default()]
    }
}

/// Who is not locked, has the fewest wrong passwords and began first is forgotten first.
fn forget_least(bucket: &mut Vec<Entry>, now: Duration) -> Option<Entry> {
    let worth = |entry: &Entry| match &entry.lock {
        Some(lock) => (lock.until > now, 0, lock.until),
        None => (false, entry.count, entry.since),
    };
    let (least, _) = bucket
        .iter()
        .enumerate()
        .min_by_key(|(_, entry)| worth(entry))?;
    Some(bucket.swap_remove(least))
}

/// What is known of one user and network, or of one network.
#[derive(Debug)]
struct Entry {
    key: u128,
    /// Distinct wrong passwords, and when the first of them came.
    count: u32,
    since: Duration,
    /// Those counted last.
    wrong: Vec<u64>,
    /// Those being verified, and how often each.
    pending: Vec<(u64, usize)>,
    lock: Option<Lock>,
}

#[derive(Debug)]
struct Lock {
    until: Duration,
    user: Option<Box<str>>,
    network: IpNet,
}

impl Entry {
    fn new(key: u128) -> Self {
        Self {
            key,
            count: 0,
            since: Duration::ZERO,
            wrong: Vec::new(),
            pending: Vec::new(),
            lock: None,
        }
    }

    /// A count that began more than `per` ago is over.
    fn forget_old(&mut self, setting: Setting, now: Duration) {
        if now.saturating_sub(self.since) >= setting.per {
            self.count = 0;
            self.wrong.clear();
        }
    }

    /// Lets a password be verified if it is known to be wrong or being verified already, or if
    /// there may be one more.
    fn admit(&mut self, tag: u64, setting: Setting) -> Result<(), Duration> {
        if self.wrong.contains(&tag) {
            return Ok(());
        }
        if let Some((_, times)) = self.pending.iter_mut().find(|(known, _)| *known == tag) {
            *times = times.saturating_add(1);
            return Ok(());
        }
        let pending = u32::try_from(self.pending.len()).unwrap_or(u32::MAX);
        if self.count.saturating_add(pending) >= setting.count {
            return Err(ATTEMPT_RETRY);
        }
        self.pending.push((tag, 1));
        Ok(())
    }

    fn leave(&mut self, tag: u64) {
        if let Some((_, times)) = self.pending.iter_mut().find(|(known, _)| *known == tag) {
            *times = times.saturating_sub(1);
        }
        self.pending.retain(|(_, times)| *times > 0);
    }

    fn remember(&mut self, tag: u64) {
        if self.wrong.len() >= REMEMBERED {
            self.wrong.remove(0);
        }
        self.wrong.push(tag);
    }

    fn count_one(&mut self, now: Duration) -> u32 {
        if self.count == 0 {
            self.since = now;
        }
        self.count = self.count.saturating_add(1);
        self.count
    }

    fn lock(
        &mut self,
        user: Option<Box<str>>,
        network: IpNet,
        setting: Setting,
        now: Duration,
    ) -> Change {
        self.count = 0;
        self.wrong.clear();
        self.lock = Some(Lock {
            until: now.saturating_add(setting.per),
            user: user.clone(),
            network,
        });
        Change {
            user,
            network,
            to: Became::Locked(setting.per),
        }
    }

    /// Ends a lock whose time is over, and tells it.
    fn end_lock(&mut self, now: Duration) -> Option<Change> {
        let over = self.lock.as_ref().is_some_and(|lock| lock.until <= now);
        if over {
            self.lock.take().map(Lock::into_change)
        } else {
            None
        }
    }

    /// What is to be told when this is forgotten.
    fn into_change(self) -> Option<Change> {
        self.lock.map(Lock::into_change)
    }
}

impl Lock {
    fn into_change(self) -> Change {
        Change {
            user: self.user,
            network: self.network,
            to: Became::Free,
        }
    }
}

#[cfg(test)]
mod tests;
