//! The suppressor: counts refusals and requests that were given up, beyond the budget that their source
//! has of the trail. One record has their number, and the users and repositories that they named.
//!
//! Only what got no permit comes here, so nothing that was done or seen is ever without a record of its
//! own. Suppressed requests are counted by source, event, outcome and status. Names of what exists are
//! always recorded; of other names the first few and a sample. Pure; the caller has the clock.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::budget::Budget;
use super::record::event::{Event, Outcome};
use super::record::fields::Fields;
use crate::identity::Authentication;
use crate::limit::Source;

/// Time for which refusals are counted before their record is written.
const WINDOW: Duration = Duration::from_secs(10);
/// The same for requests that were challenged for a credential, as most logins begin.
const CHALLENGED_WINDOW: Duration = Duration::from_mins(1);
/// Runs counted at a time. Refusals beyond that are counted without their source.
const RUNS: usize = 4096;
/// Names that do not exist, in one record: the first ones, and a sample of the others.
const FIRST: usize = 8;
const SAMPLE: usize = 8;
/// Names that exist, in one record; then it is written and another one begun.
const KNOWN: usize = 64;
/// Reasons in the record of one run.
const REASONS: usize = 8;

/// The key of a run: refusals that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    /// The address, or the /64 of an IPv6 one; `None` for those of too many sources.
    pub(super) source: Option<IpAddr>,
    pub(super) event: Event,
    pub(super) outcome: Outcome,
    pub(super) status: Option<u16>,
    /// True for failures without any credential, which are told apart from guesses.
    pub(super) is_anonymous: bool,
}

/// A refusal, as far as the suppressor needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal<'a> {
    pub(super) client: IpAddr,
    pub(super) event: Event,
    pub(super) outcome: Outcome,
    pub(super) status: Option<u16>,
    pub(super) is_anonymous: bool,
    pub(super) reference: &'a str,
    pub(super) user: Option<Named<'a>>,
    pub(super) repository: Option<Named<'a>>,
    pub(super) reason: Option<&'a str>,
    /// Bytes that its own record would have.
    pub(super) bytes: u64,
    /// True if it is always suppressed, whatever the budget of its source.
    pub(super) is_one_of_many: bool,
}

/// Marks of a refusal that are not in its record.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    /// The user exists.
    pub(super) is_of_somebody: bool,
    /// It is always suppressed, whatever the budget of its source.
    pub(super) is_one_of_many: bool,
}

/// A name that was used, and true if it exists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    pub(super) exists: bool,
}

/// The suppressor's decision about a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has a record of its own.
    Record,
    /// It is counted in the record of this reference, with others.
    Suppress {
        reference: String,
        /// This record, if it must be written now.
        full: Option<Box<Suppressed>>,
    },
}

/// Refusals of one kind that have no record of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    pub(super) kind: Kind,
    pub(super) count: u64,
    /// The reference that the clients were given.
    pub(super) reference: String,
    pub(super) users: Vec<String>,
    pub(super) repositories: Vec<String>,
    /// The reasons, each with its count.
    pub(super) reasons: Vec<(String, u64)>,
}

/// The budget of the trail, and the runs that are going on.
#[derive(Debug)]
pub(super) struct Suppressor {
    budget: Budget,
    runs: HashMap<Kind, Run>,
    rng: SampleRng,
}

#[derive(Debug)]
struct Run {
    began: Duration,
    count: u64,
    reference: String,
    users: Names,
    repositories: Names,
    reasons: Vec<(String, u64)>,
}

impl Suppressor {
    /// `seed` decides which names make the sample.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            budget: Budget::default(),
            runs: HashMap::new(),
            rng: SampleRng(seed),
        }
    }

    /// Decides whether a refusal has a record of its own, and counts it if not.
    pub(super) fn judge(&mut self, refusal: &Refusal<'_>, now: Duration) -> Verdict {
        if !refusal.is_one_of_many && self.budget.take(refusal.client, refusal.bytes, now) {
            return Verdict::Record;
        }
        let mut kind = Kind {
            source: Some(Source::of(refusal.client).address()),
            event: refusal.event,
            outcome: refusal.outcome,
            status: refusal.status,
            is_anonymous: refusal.is_anonymous && refusal.outcome == Outcome::Failed,
        };
        if self.runs.len() >= RUNS && !self.runs.contains_key(&kind) {
            kind.source = None;
        }
        let run = self.runs.entry(kind.clone()).or_insert_with(|| Run {
            began: now,
            count: 0,
            reference: refusal.reference.to_owned(),
            users: Names::default(),
            repositories: Names::default(),
            reasons: Vec::new(),
        });
        run.count = run.count.saturating_add(1);
        run.users.add(refusal.user, &mut self.rng);
        run.repositories.add(refusal.repository, &mut self.rng);
        run.reason(refusal.reason);
        let reference = run.reference.clone();
        let full = if run.users.is_full() || run.repositories.is_full() {
            let run = self.runs.remove(&kind);
            run.map(|run| Box::new(run.suppressed(kind)))
        } else {
            None
        };
        Verdict::Suppress { reference, full }
    }

    /// Removes the runs whose time is over, or all of them (`None`), to be recorded.
    pub(super) fn take(&mut self, now: Option<Duration>) -> Vec<Suppressed> {
        let is_over = |kind: &Kind, run: &Run| {
            let window = if kind.outcome == Outcome::Challenged {
                CHALLENGED_WINDOW
            } else {
                WINDOW
            };
            now.is_none_or(|now| now.saturating_sub(run.began) >= window)
        };
        let over = self.runs.extract_if(|kind, run| is_over(kind, run));
        over.map(|(kind, run)| run.suppressed(kind)).collect()
    }

    /// Charges the record of a permitted request.
    pub(super) fn charge(&mut self, client: IpAddr, bytes: u64, now: Duration) {
        self.budget.charge(client, bytes, now);
    }

    /// The time that a source has to wait until its next permitted request.
    pub(super) fn debt(&self, client: IpAddr, now: Duration) -> Duration {
        self.budget.debt(client, now)
    }
}

impl Suppressed {
    /// The members of their record.
    pub(super) fn fields(&self) -> Fields {
        let Self {
            kind,
            count,
            reference,
            users,
            repositories,
            reasons,
        } = self;
        let event = kind.event.as_str();
        let whence = if kind.source.is_some() {
            ""
        } else {
            " from many sources"
        };
        let mut reason = format!("{count} {event} records like this one{whence}");
        for (number, (why, times)) in reasons.iter().enumerate() {
            let mark = if number == 0 { ": " } else { ", " };
            reason.extend([mark, why, &format!(" ({times})")]);
        }
        let only = |names: &[String]| match names {
            [one] => Some(one.clone()),
            _ => None,
        };
        Fields {
            reference_id: reference.clone(),
            client: kind.source,
            user: only(users),
            repository: only(repositories),
            users: users.clone(),
            repositories: repositories.clone(),
            status: kind.status,
            auth: kind
                .is_anonymous
                .then(|| Authentication::Anonymous.as_str()),
            count: Some(*count),
            ..Fields::of_our_own(Event::Suppressed, kind.outcome, &reason)
        }
    }
}

impl Run {
    fn reason(&mut self, reason: Option<&str>) {
        let Some(reason) = reason else { return };
        if let Some((_, count)) = self.reasons.iter_mut().find(|(known, _)| known == reason) {
            *count = count.saturating_add(1);
        } else if self.reasons.len() < REASONS {
            self.reasons.push((reason.to_owned(), 1));
        }
    }

    fn suppressed(self, kind: Kind) -> Suppressed {
        let Self {
            began: _,
            count,
            reference,
            users,
            repositories,
            reasons,
        } = self;
        Suppressed {
            kind,
            count,
            reference,
            users: users.into_list(),
            repositories: repositories.into_list(),
            reasons,
        }
    }
}

/// Names that were used in one run, each once.
#[derive(Debug, Default)]
struct Names {
    known: BTreeSet<String>,
    first: Vec<String>,
    sample: Vec<String>,
    /// The number of names drawn for the sample.
    drawn: u64,
}

impl Names {
    fn add(&mut self, named: Option<Named<'_>>, rng: &mut SampleRng) {
        let Some(Named { name, exists }) = named else {
            return;
        };
        let is_there = |names: &[String]| names.iter().any(|known| known == name);
        if exists {
            if !self.known.contains(name) {
                self.known.insert(name.to_owned());
            }
            return;
        }
        if is_there(&self.first) || is_there(&self.sample) {
            return;
        }
        if self.first.len() < FIRST {
            self.first.push(name.to_owned());
            return;
        }
        // Each one so far is in the sample with the same probability (Vitter, algorithm R).
        self.drawn = self.drawn.saturating_add(1);
        if self.sample.len() < SAMPLE {
            self.sample.push(name.to_owned());
        } else if let Some(place) = rng
            .below(self.drawn)
            .and_then(|place| usize::try_from(place).ok())
            && let Some(place) = self.sample.get_mut(place)
        {
            name.clone_into(place);
        }
    }

    fn is_full(&self) -> bool {
        self.known.len() >= KNOWN
    }

    fn into_list(self) -> Vec<String> {
        let rest = self.first.into_iter().chain(self.sample);
        self.known.into_iter().chain(rest).collect()
    }
}

/// A generator of numbers for the sample alone (splitmix64); no secret depends on it.
#[derive(Debug)]
struct SampleRng(u64);

impl SampleRng {
    /// A number below `end`; `None` where there is none.
    fn below(&mut self, end: u64) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)).checked_rem(end)
    }
}

#[cfg(test)]
mod tests;
