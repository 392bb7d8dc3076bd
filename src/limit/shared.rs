//! Places that all callers share, never taken without saying for whom: so that nobody shuts out
//! others by taking all of them.
//!
//! - A source is an IPv4 address or an IPv6 /64. Shares are counted by IPv4 address and by IPv6 /48,
//!   which bounds the sums of a /56 and a /64 too; turns go around the /48s, inside of one around
//!   its /56s, and inside of one of them around its /64s.
//! - No place stays free while somebody waits who may have it. So one source alone may have all but
//!   a quarter; that quarter is for callers who have proved who they are. With fewer than four
//!   places none is reserved.
//! - A place that becomes free goes to a source that has less than its share, a quarter and at
//!   least one place. Only when no such source waits, it goes to one that has more.
//! - Among those the proven go first, but every fourth place goes to a stranger.
//! - Of those who wait the number is bounded. When it is reached, the last comer of the source
//!   with the longest line has to leave, not the one who comes from elsewhere.
//!
//! Nothing here measures time: how long to wait is the caller's business.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use super::Source;

/// A source's share, and what is reserved: one of so many parts.
const PARTS: usize = 4;
/// Places that the proven get in a row while strangers wait for one, too.
const FAVOURS: u8 = 3;

/// Whether a caller has proved who they are: by a credential that was verified, or by a password
/// login of the same user from the same source a short time ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// They have.
    Proven,
    /// Not yet.
    Stranger,
}

/// For whom a place is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Where the request comes from.
    pub source: Source,
    /// Whether it is known from whom.
    pub trust: Trust,
}

impl Claimant {
    /// A caller who has proved who they are.
    pub fn proven(address: IpAddr) -> Self {
        Self::new(address, Trust::Proven)
    }

    /// A caller who has not.
    pub fn stranger(address: IpAddr) -> Self {
        Self::new(address, Trust::Stranger)
    }

    /// A caller at an address.
    pub fn new(address: IpAddr, trust: Trust) -> Self {
        Self {
            source: Source::of(address),
            trust,
        }
    }
}

/// No place, and no room to wait for one: 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many are waiting")]
pub struct Crowded;

/// How a resource is used at the moment, and was since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Places there are.
    pub places: usize,
    /// Places taken.
    pub taken: usize,
    /// Callers who wait for one.
    pub waiting: usize,
    /// How often one had to wait.
    pub waits: u64,
    /// How often there was no room to wait.
    pub refusals: u64,
}

/// A number of places, shared by all sources.
pub struct Shared {
    places: usize,
    room: usize,
    state: Mutex<State>,
}

/// A place, until it is dropped.
#[must_use]
pub struct Place {
    of: Arc<Shared>,
    whom: Claimant,
}

impl Shared {
    /// So many places, for which so many callers may wait.
    pub fn new(places: usize, waiting: usize) -> Arc<Self> {
        Arc::new(Self {
            places,
            room: waiting,
            state: Mutex::default(),
        })
    }

    /// Takes a place if there is one. Those who wait are not overtaken: while somebody waits, none
    /// is free that they may have.
    pub fn try_acquire(self: &Arc<Self>, whom: Claimant) -> Option<Place> {
        self.lock()
            .take(self.places, whom)
            .then(|| self.place(whom))
    }

    /// Whether there is a place for a caller just now.
    pub fn has_room(&self, trust: Trust) -> bool {
        self.lock().has_room(self.places, trust)
    }

    /// Waits for a place. Dropping the future leaves the line.
    pub async fn acquire(self: &Arc<Self>, whom: Claimant) -> Result<Place, Crowded> {
        let mut waiting = {
            let mut state = self.lock();
            if state.take(self.places, whom) {
                return Ok(self.place(whom));
            }
            let (number, verdict) = state.join(self.room, whom)?;
            Waiting {
                of: self,
                whom,
                number,
                verdict,
            }
        };
        match (&mut waiting.verdict).await {
            // Nothing is awaited from here on: the place is not lost.
            Ok(Verdict::Granted) => Ok(self.place(whom)),
            Ok(Verdict::Displaced) | Err(_) => Err(Crowded),
        }
    }

    /// How it is used.
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        Usage {
            places: self.places,
            taken: state.taken,
            waiting: state.waiting(&Network::ALL),
            waits: state.waits,
            refusals: state.refusals,
        }
    }

    fn place(self: &Arc<Self>, whom: Claimant) -> Place {
        Place {
            of: Arc::clone(self),
            whom,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Place {
    /// Notes that the caller has proved who they are in the meantime; their place is no longer one
    /// of those that strangers may have.
    pub fn prove(&mut self) {
        if self.whom.trust == Trust::Stranger {
            self.whom.trust = Trust::Proven;
            let mut state = self.of.lock();
            state.strangers = state.strangers.saturating_sub(1);
            state.hand_out(self.of.places);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        state.give_back(self.whom);
        state.hand_out(self.of.places);
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.whom).finish()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.usage().fmt(f)
    }
}

/// Someone in line. Dropped, they leave it, or give back the place that they did not come to know of.
struct Waiting<'a> {
    of: &'a Arc<Shared>,
    whom: Claimant,
    number: u64,
    verdict: oneshot::Receiver<Verdict>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        if state.leave(self.whom, self.number) {
            return;
        }
        // A verdict that was read is gone from here.
        if matches!(self.verdict.try_recv(), Ok(Verdict::Granted)) {
            state.give_back(self.whom);
            state.hand_out(self.of.places);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Granted,
    Displaced,
}

/// Addresses that are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    const ALL: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        bits: 0,
    };

    /// All networks that a source belongs to, the widest first.
    fn around(source: Source) -> impl DoubleEndedIterator<Item = Self> + Clone {
        let within = |bits: u8| match source.address() {
            IpAddr::V4(_) => (bits == 32).then_some(source.address()),
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(bits)));
                let first = v6.to_bits() & mask.unwrap_or(0);
                (bits != 32).then_some(IpAddr::V6(Ipv6Addr::from_bits(first)))
            }
        };
        let network = move |bits| within(bits).map(|address| Self { address, bits });
        let all = [
            Some(Self::ALL),
            network(32),
            network(48),
            network(56),
            network(64),
        ];
        all.into_iter().flatten()
    }
}

/// One value for the proven and one for strangers.
#[derive(Default)]
struct Each<T> {
    proven: T,
    stranger: T,
}

impl<T> Each<T> {
    fn of(&self, trust: Trust) -> &T {
        match trust {
            Trust::Proven => &self.proven,
            Trust::Stranger => &self.stranger,
        }
    }

    fn of_mut(&mut self, trust: Trust) -> &mut T {
        match trust {
            Trust::Proven => &mut self.proven,
            Trust::Stranger => &mut self.stranger,
        }
    }
}

/// Those of one network who wait.
#[derive(Default)]
struct Line {
    waiting: Each<usize>,
    /// Its place in the ring of the network around it.
    turn: Each<u64>,
    /// The networks inside that wait, the next in turn first. Empty for a source.
    ring: Each<BTreeMap<u64, Network>>,
    /// The callers of a source, the first comer first. Empty for all wider networks.
    callers: Each<BTreeMap<u64, oneshot::Sender<Verdict>>>,
}

impl Line {
    fn len(&self) -> usize {
        self.waiting.proven.saturating_add(self.waiting.stranger)
    }
}

#[derive(Default)]
struct State {
    /// Places taken by all.
    taken: usize,
    /// Places taken by some, by network.
    held: HashMap<Network, usize>,
    /// Places taken by strangers.
    strangers: usize,
    lines: HashMap<Network, Line>,
    /// Of the next caller or turn.
    number: u64,
    /// Places that went to the proven in a row while strangers waited.
    favours: u8,
    waits: u64,
    refusals: u64,
}

/// Why somebody leaves the line.
#[derive(Clone, Copy)]
enum Leaving {
    /// They got a place.
    Served,
    /// They gave up or had to go.
    Unserved,
}

/// Which sources a place may go to.
#[derive(Clone, Copy)]
enum Pass {
    /// Those that have less than their share.
    Below,
    /// All.
    Any,
}

impl State {
    fn held(&self, network: &Network) -> usize {
        self.held.get(network).copied().unwrap_or(0)
    }

    fn waiting(&self, network: &Network) -> usize {
        self.lines.get(network).map_or(0, Line::len)
    }

    fn next_number(&mut self) -> u64 {
        self.number = self.number.saturating_add(1);
        self.number
    }

    /// Whether a place is free that such a caller may have.
    fn has_room(&self, places: usize, trust: Trust) -> bool {
        let reserved = places.checked_div(PARTS).unwrap_or(0);
        self.taken < places
            && match trust {
                Trust::Proven => true,
                Trust::Stranger => self.strangers < places.saturating_sub(reserved),
            }
    }

    fn take(&mut self, places: usize, whom: Claimant) -> bool {
        let free = self.has_room(places, whom.trust);
        if free {
            self.count(whom);
        }
        free
    }

    fn count(&mut self, whom: Claimant) {
        self.taken = self.taken.saturating_add(1);
        for network in Network::around(whom.source).skip(1) {
            let held = self.held.entry(network).or_default();
            *held = held.saturating_add(1);
        }
        if whom.trust == Trust::Stranger {
            self.strangers = self.strangers.saturating_add(1);
        }
    }

    fn give_back(&mut self, whom: Claimant) {
        self.taken = self.taken.saturating_sub(1);
        for network in Network::around(whom.source).skip(1) {
            if let Entry::Occupied(mut held) = self.held.entry(network) {
                let left = held.get().saturating_sub(1);
                if left == 0 {
                    held.remove();
                } else {
                    held.insert(left);
                }
            }
        }
        if whom.trust == Trust::Stranger {
            self.strangers = self.strangers.saturating_sub(1);
        }
    }

    /// Hands out what is free to those who wait.
    fn hand_out(&mut self, places: usize) {
        // Mostly nobody waits.
        while !self.lines.is_empty()
            && let Some((whom, number)) = self.next(places)
        {
            let Some(caller) = self.remove(whom, number, Leaving::Served) else {
                return;
            };
            self.count(whom);
            if caller.send(Verdict::Granted).is_err() {
                self.give_back(whom);
            }
        }
    }

    /// Who gets the next place, if there is one.
    fn next(&mut self, places: usize) -> Option<(Claimant, u64)> {
        let share = places.checked_div(PARTS).unwrap_or(0).max(1);
        for pass in [Pass::Below, Pass::Any] {
            let first = |trust| {
                self.has_room(places, trust)
                    .then(|| self.first(trust, pass, share))
                    .flatten()
            };
            let (whom, favours) = match (first(Trust::Proven), first(Trust::Stranger)) {
                (None, None) => continue,
                (Some(proven), Some(_)) if self.favours < FAVOURS => {
                    (proven, self.favours.saturating_add(1))
                }
                (Some(_) | None, Some(other)) | (Some(other), None) => (other, 0),
            };
            self.favours = favours;
            return Some(whom);
        }
        None
    }

    /// The first in line: of the network whose turn it is, and so on inside of it.
    fn first(&self, trust: Trust, pass: Pass, share: usize) -> Option<(Claimant, u64)> {
        let eligible = |network: &&Network| match pass {
            Pass::Below => self.held(network) < share,
            Pass::Any => true,
        };
        let all = self.lines.get(&Network::ALL)?;
        let mut network = all.ring.of(trust).values().find(eligible)?;
        loop {
            let line = self.lines.get(network)?;
            let Some((_, inside)) = line.ring.of(trust).first_key_value() else {
                let (number, _) = line.callers.of(trust).first_key_value()?;
                return Some((Claimant::new(network.address, trust), *number));
            };
            network = inside;
        }
    }

    /// Puts a caller in line. When too many wait, somebody has to leave for it.
    fn join(
        &mut self,
        room: usize,
        whom: Claimant,
    ) -> Result<(u64, oneshot::Receiver<Verdict>), Crowded> {
        if self.waiting(&Network::ALL) >= room {
            self.refusals = self.refusals.saturating_add(1);
            let (other, number) = self.last_of_longest(whom).ok_or(Crowded)?;
            let other = self
                .remove(other, number, Leaving::Unserved)
                .ok_or(Crowded)?;
            // Gone already or not, the room is free.
            other.send(Verdict::Displaced).unwrap_or_default();
        }
        self.waits = self.waits.saturating_add(1);
        let (caller, verdict) = oneshot::channel();
        let number = self.next_number();
        let mut around = None;
        for network in Network::around(whom.source) {
            let turn = self.next_number();
            let line = self.lines.entry(network).or_default();
            let waiting = line.waiting.of_mut(whom.trust);
            let is_first = *waiting == 0;
            *waiting = waiting.saturating_add(1);
            if is_first {
                *line.turn.of_mut(whom.trust) = turn;
                let around = around.and_then(|around| self.lines.get_mut(&around));
                if let Some(around) = around {
                    around.ring.of_mut(whom.trust).insert(turn, network);
                }
            }
            around = Some(network);
        }
        let line = around.and_then(|source| self.lines.get_mut(&source));
        if let Some(line) = line {
            line.callers.of_mut(whom.trust).insert(number, caller);
        }
        Ok((number, verdict))
    }

    /// Takes a caller who leaves out of line; `false` if they are not in it.
    fn leave(&mut self, whom: Claimant, number: u64) -> bool {
        let source = Network::around(whom.source).next_back();
        let line = source.and_then(|source| self.lines.get(&source));
        let waits = line.is_some_and(|line| line.callers.of(whom.trust).contains_key(&number));
        waits && self.remove(whom, number, Leaving::Unserved).is_some()
    }

    /// Takes a caller out of line. Their networks go to the end of their rings if it was their turn.
    fn remove(
        &mut self,
        whom: Claimant,
        number: u64,
        why: Leaving,
    ) -> Option<oneshot::Sender<Verdict>> {
        let mut caller = None;
        let mut inside: Option<(Network, u64, Option<u64>)> = None;
        for network in Network::around(whom.source).rev() {
            let next = self.next_number();
            let line = self.lines.get_mut(&network)?;
            if let Some((network, old, new)) = inside {
                let ring = line.ring.of_mut(whom.trust);
                ring.remove(&old);
                if let Some(new) = new {
                    ring.insert(new, network);
                }
            } else {
                caller = Some(line.callers.of_mut(whom.trust).remove(&number)?);
            }
            let waiting = line.waiting.of_mut(whom.trust);
            *waiting = waiting.saturating_sub(1);
            let stays = *waiting > 0;
            let turn = line.turn.of_mut(whom.trust);
            let old_turn = *turn;
            let new_turn = match why {
                Leaving::Served => next,
                Leaving::Unserved => old_turn,
            };
            *turn = new_turn;
            inside = Some((network, old_turn, stays.then_some(new_turn)));
            if line.len() == 0 {
                self.lines.remove(&network);
            }
        }
        caller
    }

    /// Who has to leave when another comes, if anybody: the last comer of the network with the longest
    /// line, inside of it likewise, if that line is longer than the newcomer's would be. Where it is
    /// as long, strangers make room for the proven.
    fn last_of_longest(&self, newcomer: Claimant) -> Option<(Claimant, u64)> {
        const STRANGERS: &[Trust] = &[Trust::Stranger];
        let of_strangers = match newcomer.trust {
            Trust::Proven => self.last_of(STRANGERS, newcomer, 0),
            Trust::Stranger => None,
        };
        of_strangers.or_else(|| self.last_of(&[Trust::Stranger, Trust::Proven], newcomer, 1))
    }

    /// Likewise, of some only, in lines that are longer than the newcomer's by so much.
    fn last_of(&self, some: &[Trust], newcomer: Claimant, by: usize) -> Option<(Claimant, u64)> {
        let mut own = Network::around(newcomer.source).skip(1);
        let mut is_own = true;
        let mut network = Network::ALL;
        loop {
            let line = self.lines.get(&network)?;
            let inside = some.iter().flat_map(|trust| line.ring.of(*trust).values());
            let Some(longest) = inside.max_by_key(|inside| self.waiting(inside)) else {
                // A source. Of the newcomer's own, only strangers leave, and for the proven alone.
                let last = some.iter().find_map(|trust| {
                    let (number, _) = line.callers.of(*trust).last_key_value()?;
                    Some((Claimant::new(network.address, *trust), *number))
                });
                return last.filter(|_| !is_own || by == 0);
            };
            network = *longest;
            if is_own {
                let next = own.next()?;
                let least = self.waiting(&next).saturating_add(1).saturating_add(by);
                is_own = network == next || self.waiting(&network) < least;
                if is_own {
                    network = next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
