//! Sums over the records of a trail. Bytes in, values out: no clock.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufReader, Read};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use jiff::Timestamp;

use super::bounded::{Bounded, SampleSet, Sum};
use super::counts::{Counts, Traffic};
use super::time::{Timeline, Week};
use crate::audit::{Entry, Event, Flaw, Lines, Outcome};

/// Bytes read at a time.
const BUFFER_SIZE: usize = 256 * 1024;
/// Lines between two reports of progress.
const PROGRESS_LINES: u64 = 4096;
/// Names that are surely kept of each kind.
const MAX_NAMES: usize = 10_000;
/// Users whose last use is remembered.
const MAX_LAST_USES: usize = 200_000;
/// Places of lines that are no records.
const MAX_PLACES: usize = 5;
/// Different pairs of event and outcome; there are fewer.
const MAX_KINDS: usize = 256;

/// An authenticated user, or all anonymous callers.
#[derive(Clone, Debug, Default)]
pub(super) struct Person {
    pub(super) logins: u64,
    pub(super) counts: Counts,
    pub(super) traffic: Traffic,
    pub(super) methods: SampleSet<String>,
    pub(super) networks: SampleSet<IpNet>,
    pub(super) last: Option<Timestamp>,
}

impl Sum for Person {
    fn weight(&self) -> u64 {
        self.counts.total()
    }

    fn absorb(&mut self, other: Self) {
        self.logins = self.logins.saturating_add(other.logins);
        self.counts.absorb(other.counts);
        self.traffic.absorb(other.traffic);
        self.methods.absorb(other.methods);
        self.networks.absorb(other.networks);
        self.last = self.last.max(other.last);
    }
}

/// A network: an IPv4 /24 or an IPv6 /64.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    pub(super) logins: u64,
    pub(super) counts: Counts,
    pub(super) bytes: u64,
    pub(super) users: SampleSet<String>,
    pub(super) last: Option<Timestamp>,
}

impl Sum for Network {
    fn weight(&self) -> u64 {
        self.counts.total()
    }

    fn absorb(&mut self, other: Self) {
        self.logins = self.logins.saturating_add(other.logins);
        self.counts.absorb(other.counts);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.users.absorb(other.users);
        self.last = self.last.max(other.last);
    }
}

/// User and network of a login that succeeded.
pub(super) type Login = (String, Option<IpNet>);

#[derive(Clone, Debug, Default)]
pub(super) struct Logins {
    pub(super) count: u64,
    pub(super) methods: SampleSet<String>,
    pub(super) last: Option<Timestamp>,
}

impl Sum for Logins {
    fn weight(&self) -> u64 {
        self.count
    }

    fn absorb(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.methods.absorb(other.methods);
        self.last = self.last.max(other.last);
    }
}

/// A kind of refusal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Refusal {
    pub(super) outcome: &'static str,
    /// Authenticated or merely claimed; `None` without a name.
    pub(super) user: Option<String>,
    pub(super) network: Option<IpNet>,
    pub(super) reason: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Refused {
    pub(super) count: u64,
    pub(super) last: Option<Timestamp>,
    /// Of the last one, to look further.
    pub(super) reference: String,
    pub(super) repository: Option<String>,
}

impl Sum for Refused {
    fn weight(&self) -> u64 {
        self.count
    }

    fn absorb(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.last = self.last.max(other.last);
    }
}

/// A repository with an allowed request, or with a denied one of an authenticated user.
#[derive(Clone, Debug, Default)]
pub(super) struct Repository {
    pub(super) requests: u64,
    pub(super) denied: u64,
    pub(super) traffic: Traffic,
    pub(super) last: Option<Timestamp>,
}

impl Sum for Repository {
    fn weight(&self) -> u64 {
        self.traffic
            .pulls
            .saturating_add(self.traffic.pushes)
            .saturating_mul(1_000_000)
            .saturating_add(self.requests)
    }

    fn absorb(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.denied = self.denied.saturating_add(other.denied);
        self.traffic.absorb(other.traffic);
        self.last = self.last.max(other.last);
    }
}

/// Lines that were no records.
#[derive(Clone, Debug, Default)]
pub(super) struct Skipped {
    pub(super) torn: u64,
    pub(super) foreign: u64,
    pub(super) too_long: u64,
    /// The first few, `FILE:LINE: why`.
    pub(super) places: Vec<String>,
}

/// From when to when; both ends optional, the second exclusive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    /// The first moment that counts.
    pub since: Option<Timestamp>,
    /// The first moment after those that count.
    pub until: Option<Timestamp>,
}

/// Content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Not one line.
    Nothing,
    /// Lines.
    Lines {
        /// The number of those that are records.
        records: u64,
    },
}

impl Found {
    fn and(self, more: u64) -> Self {
        let records = match self {
            Self::Nothing => more,
            Self::Lines { records } => records.saturating_add(more),
        };
        Self::Lines { records }
    }
}

/// Sums over all records read so far.
#[derive(Debug)]
pub struct Gathered {
    pub(super) files: Vec<String>,
    pub(super) records: u64,
    /// Records outside of the period that was asked for.
    pub(super) outside: u64,
    pub(super) first: Option<Timestamp>,
    pub(super) last: Option<Timestamp>,
    pub(super) kinds: BTreeMap<(String, &'static str), u64>,
    pub(super) logins: u64,
    pub(super) challenges: u64,
    pub(super) suppressed: u64,
    pub(super) lockouts: u64,
    pub(super) counts: Counts,
    pub(super) traffic: Traffic,
    /// `None` stands for all anonymous callers.
    pub(super) users: Bounded<Option<String>, Person>,
    pub(super) networks: Bounded<IpNet, Network>,
    pub(super) logins_from: Bounded<Login, Logins>,
    pub(super) refusals: Bounded<Refusal, Refused>,
    pub(super) repositories: Bounded<String, Repository>,
    pub(super) timeline: Timeline,
    pub(super) week: Week,
    pub(super) skipped: Skipped,
    pub(super) last_use: HashMap<String, Timestamp>,
    period: Period,
}

impl Gathered {
    /// Counts the records of a period.
    pub fn new(period: Period) -> Self {
        Self {
            files: Vec::new(),
            records: 0,
            outside: 0,
            first: None,
            last: None,
            kinds: BTreeMap::new(),
            logins: 0,
            challenges: 0,
            suppressed: 0,
            lockouts: 0,
            counts: Counts::default(),
            traffic: Traffic::default(),
            users: Bounded::new(MAX_NAMES),
            networks: Bounded::new(MAX_NAMES),
            logins_from: Bounded::new(MAX_NAMES),
            refusals: Bounded::new(MAX_NAMES),
            repositories: Bounded::new(MAX_NAMES),
            timeline: Timeline::default(),
            week: Week::default(),
            skipped: Skipped::default(),
            last_use: HashMap::new(),
            period,
        }
    }

    /// Counts the records of the file called `name`. Lines that are no records are counted separately.
    /// `progress` is called now and then with the number of bytes read.
    pub fn read(
        &mut self,
        name: &str,
        from: impl Read,
        mut progress: impl FnMut(u64),
    ) -> io::Result<Found> {
        self.files.push(name.to_owned());
        let mut found = Found::Nothing;
        let mut lines = Lines::new(BufReader::with_capacity(BUFFER_SIZE, from));
        while let Some(line) = lines.read()? {
            found = found.and(u64::from(line.is_ok()));
            match line {
                Ok(entry) => self.add(&entry),
                Err(flaw) => self.skip(name, lines.number(), flaw),
            }
            if lines.number().is_multiple_of(PROGRESS_LINES) {
                progress(lines.bytes());
            }
        }
        Ok(found)
    }

    /// Returns true if no line has been read.
    pub fn is_empty(&self) -> bool {
        let Skipped {
            torn,
            foreign,
            too_long,
            ..
        } = self.skipped;
        [self.records, self.outside, torn, foreign, too_long] == [0; 5]
    }

    /// Counts a line that is no record.
    pub(super) fn skip(&mut self, file: &str, line: u64, flaw: Flaw) {
        let count = match flaw {
            Flaw::Foreign => &mut self.skipped.foreign,
            Flaw::TooLong => &mut self.skipped.too_long,
            Flaw::Torn => &mut self.skipped.torn,
        };
        *count = count.saturating_add(1);
        if self.skipped.places.len() < MAX_PLACES {
            self.skipped.places.push(format!("{file}:{line}: {flaw}"));
        }
    }

    /// Counts a record.
    pub(super) fn add(&mut self, entry: &Entry) {
        let before = self.period.since.is_some_and(|since| entry.time < since);
        if before || self.period.until.is_some_and(|until| entry.time >= until) {
            self.outside = self.outside.saturating_add(1);
            return;
        }
        self.records = self.records.saturating_add(1);
        self.first = Some(self.first.map_or(entry.time, |first| first.min(entry.time)));
        self.last = self.last.max(Some(entry.time));
        self.kind(entry);
        let suppressed = entry.suppressed();
        self.suppressed = self.suppressed.saturating_add(suppressed);
        let locked = entry.is(Event::Lockout) && entry.outcome == Outcome::Limited;
        self.lockouts = self.lockouts.saturating_add(locked.into());
        let about_requests = [
            Event::Login,
            Event::Request,
            Event::Suppressed,
            Event::Token,
        ];
        if !about_requests.into_iter().any(|event| entry.is(event)) {
            return;
        }
        let times = suppressed.max(1);
        // Of the first edition's records, those that tell of many do not say whether it was that.
        let says =
            suppressed == 0 || entry.outcome == Outcome::Challenged || entry.schema.is_some();
        if (entry.is_challenge() && says) || entry.is_step_up() {
            self.challenges = self.challenges.saturating_add(times);
            if let Some(user) = entry.is_proven().then(|| entry.listed_user()).flatten() {
                self.used(&user, entry.time);
            }
            return;
        }
        let traffic = Traffic::of(entry);
        self.counts.add(entry.outcome, times);
        self.traffic.absorb(traffic);
        self.timeline.add(entry, times, traffic);
        // A flood would hide everything else.
        self.week.add(entry.time, u64::from(suppressed == 0));
        self.who(entry, times, traffic);
        self.refusal(entry, times);
        self.repository(entry, traffic);
    }

    fn kind(&mut self, entry: &Entry) {
        let kind = (entry.event.clone(), entry.outcome.as_str());
        if self.kinds.len() < MAX_KINDS || self.kinds.contains_key(&kind) {
            let count = self.kinds.entry(kind).or_default();
            *count = count.saturating_add(1);
        }
    }

    fn who(&mut self, entry: &Entry, times: u64, traffic: Traffic) {
        let network = entry.client.map(network_of);
        let proven = entry.is_proven().then(|| entry.listed_user()).flatten();
        let proven = proven.map(Cow::into_owned);
        let proven = proven.as_ref();
        let logs_in = is_login(entry);
        self.logins = self.logins.saturating_add(logs_in.into());
        if let Some(network) = network {
            let sum = self.networks.at(network);
            sum.counts.add(entry.outcome, times);
            sum.logins = sum.logins.saturating_add(logs_in.into());
            sum.bytes = sum.bytes.saturating_add(traffic.bytes());
            sum.last = sum.last.max(Some(entry.time));
            sum.users.insert_all(proven.cloned());
        }
        if let (true, Some(user)) = (logs_in, proven) {
            let sum = self.logins_from.at((user.clone(), network));
            sum.count = sum.count.saturating_add(1);
            sum.last = sum.last.max(Some(entry.time));
            sum.methods.insert_all(entry.auth.clone());
        }
        let is_anonymous = entry.user.is_none() && entry.auth.as_deref() == Some("anonymous");
        if proven.is_none() && !is_anonymous {
            return;
        }
        if let Some(user) = proven {
            self.used(user, entry.time);
        }
        let sum = self.users.at(proven.cloned());
        sum.logins = sum.logins.saturating_add(logs_in.into());
        sum.counts.add(entry.outcome, times);
        sum.traffic.absorb(traffic);
        sum.methods.insert_all(entry.auth.clone());
        sum.networks.insert_all(network);
        sum.last = sum.last.max(Some(entry.time));
    }

    fn used(&mut self, user: &str, time: Timestamp) {
        if let Some(last) = self.last_use.get_mut(user) {
            *last = time.max(*last);
        } else if self.last_use.len() < MAX_LAST_USES {
            self.last_use.insert(user.to_owned(), time);
        }
    }

    fn refusal(&mut self, entry: &Entry, times: u64) {
        match entry.outcome {
            Outcome::Denied | Outcome::Failed | Outcome::Limited => {}
            Outcome::Aborted | Outcome::Allowed | Outcome::Challenged | Outcome::Error => return,
        }
        let reason = entry.reason.as_deref().unwrap_or("no reason told");
        // A flood's reason begins with how many there were.
        let reason = if entry.is(Event::Suppressed) {
            reason.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
        } else {
            reason
        };
        let sum = self.refusals.at(Refusal {
            outcome: entry.outcome.as_str(),
            user: entry.listed_user().map(Cow::into_owned),
            network: entry.client.map(network_of),
            reason: reason.to_owned(),
        });
        sum.count = sum.count.saturating_add(times);
        if Some(entry.time) >= sum.last {
            sum.last = Some(entry.time);
            sum.reference.clone_from(&entry.reference_id);
            sum.repository.clone_from(&entry.repository);
        }
    }

    fn repository(&mut self, entry: &Entry, traffic: Traffic) {
        let Some(name) = &entry.repository else {
            return;
        };
        let (in_it, kept_out) = match entry.outcome {
            Outcome::Denied => (false, entry.is_proven()),
            Outcome::Challenged | Outcome::Failed | Outcome::Limited => (false, false),
            Outcome::Aborted | Outcome::Allowed | Outcome::Error => (entry.rule.is_some(), false),
        };
        // Names that a caller without rights has made up do not count.
        if in_it || kept_out {
            let sum = self.repositories.at(name.clone());
            sum.requests = sum.requests.saturating_add(in_it.into());
            sum.denied = sum.denied.saturating_add(kept_out.into());
            sum.traffic.absorb(traffic);
            sum.last = sum.last.max(Some(entry.time));
        }
    }
}

/// Returns true if a credential was presented to log in, and was right.
fn is_login(entry: &Entry) -> bool {
    entry.outcome == Outcome::Allowed
        && entry.is_proven()
        && (entry.is(Event::Login) || entry.is(Event::Token))
}

/// The IPv4 /24 or IPv6 /64: one connection or one office.
fn network_of(address: IpAddr) -> IpNet {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            Ipv4Net::new(address, 24).map_or(IpAddr::V4(address).into(), IpNet::V4)
        }
        IpAddr::V6(address) => {
            Ipv6Net::new(address, 64).map_or(IpAddr::V6(address).into(), IpNet::V6)
        }
    }
    .trunc()
}

#[cfg(test)]
mod tests;
