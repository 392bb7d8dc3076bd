//! Which connection goes when there is no room for another one.
//!
//! A connection cannot wait for its place: what a client does not get at once it takes for an
//! outage. So each new one is let in as long as another one can go instead.
//!
//! - Connections on which nobody has proved yet who they are have three quarters of all places. When
//!   these are taken, the oldest such connection of the largest source goes, one without a request
//!   before one with a request.
//! - When all places are taken and every caller has proved who they are, the oldest connection of
//!   the largest source goes that has no request in progress. One that has is never taken.
//! - A source is an IPv4 address or an IPv6 /48, in which the largest /56 and in that the largest
//!   /64 is looked for. The newcomer counts as well, so nobody gains anything from coming again.
//! - While others want none, one source may have all places but a quarter, and makes room for its
//!   newcomers itself above that. With fewer than four places no quarter is kept.
//! - A balancer that is trusted has many clients, and no limit of its own.
//!
//! Order of arrival is the only time there is here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use super::Trust;

/// What is kept for the proven, and no source has alone: one of so many parts.
const PARTS: usize = 4;
/// How many of a source's oldest connections are looked at for one without a request.
const LOOKED_AT: usize = 64;
/// Of connections that are there, one in so many goes when descriptors are used up: a request needs
/// more of them than its connection.
const SPARE: usize = 16;

/// A connection's number; later ones are higher.
pub type Ticket = u64;

/// What an address counts for: an IPv4 address for itself, an IPv6 address for its /48, its /56 and
/// its /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Networks([u128; 3]);

impl Networks {
    /// Those of an address. An IPv4 address written as IPv6 is an IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => [v4.to_ipv6_mapped().to_bits(); 3],
            IpAddr::V6(v6) => [48, 56, 64].map(|length| prefix(v6, length)),
        })
    }

    fn site(self) -> u128 {
        let Self([site, ..]) = self;
        site
    }

    fn subnet(self) -> u128 {
        let Self([_, subnet, _]) = self;
        subnet
    }

    fn link(self) -> u128 {
        let Self([.., link]) = self;
        link
    }
}

fn prefix(address: Ipv6Addr, length: u32) -> u128 {
    let host = 128_u32.saturating_sub(length);
    address.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0)
}

/// What a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// One client.
    Client,
    /// A balancer that is trusted, with all of its clients.
    Balancer,
}

/// What becomes of a new connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// It has a place; the other one, if there is one, has to go for it.
    Placed(Option<T>),
    /// It has to wait until somebody has gone: this one, if anybody can.
    Full(Option<T>),
    /// Its source has too many.
    Refused,
}

/// All connections, each with a handle by which its owner finds it.
#[derive(Debug)]
pub struct Connections<T> {
    most: usize,
    most_of_source: usize,
    next: Ticket,
    /// Those that are there, with those that have been told to go.
    present: usize,
    /// Those that have not.
    members: BTreeMap<Ticket, Member<T>>,
    strangers: Crowd,
    proven: Crowd,
}

#[derive(Debug)]
struct Member<T> {
    networks: Networks,
    trust: Trust,
    handle: T,
}

impl<T: Clone> Connections<T> {
    /// So many in all, and of one IPv4 address or IPv6 /64, whatever room there is.
    pub fn new(most: usize, most_of_source: usize) -> Self {
        Self {
            most,
            most_of_source,
            next: 0,
            present: 0,
            members: BTreeMap::new(),
            strangers: Crowd::default(),
            proven: Crowd::default(),
        }
    }

    /// The number of the next connection.
    pub fn ticket(&mut self) -> Ticket {
        self.next = self.next.saturating_add(1);
        self.next
    }

    /// Lets a connection in, which has its number already, or says what has to happen first.
    pub fn arrive(
        &mut self,
        ticket: Ticket,
        (from, origin): (Networks, Origin),
        handle: &T,
        is_busy: impl Fn(&T) -> bool,
    ) -> Arrival<T> {
        let leaves = match origin {
            Origin::Balancer => None,
            Origin::Client => match self.within_share(from, &is_busy) {
                Ok(leaves) => leaves,
                Err(TooMany) => return Arrival::Refused,
            },
        };
        let is_crowded = self.strangers.len >= self.open();
        let leaves = match leaves {
            None if is_crowded => self.stranger_leaves(Some(from), &is_busy),
            leaves => leaves,
        };
        if self.present < self.most {
            self.present = self.present.saturating_add(1);
            let member = Member {
                networks: from,
                trust: Trust::Stranger,
                handle: handle.clone(),
            };
            self.strangers.add(from, ticket);
            self.members.insert(ticket, member);
            return Arrival::Placed(leaves);
        }
        // Whoever has been told to go will.
        if leaves.is_some() || self.members.len() < self.present {
            return Arrival::Full(leaves);
        }
        let leaves = self.stranger_leaves(Some(from), &is_busy);
        Arrival::Full(leaves.or_else(|| self.proven_leaves(Some(from), &is_busy)))
    }

    /// A caller on a connection has proved who they are, or has begun to change something.
    pub fn prove(&mut self, ticket: Ticket) {
        let Some(member) = self.members.get_mut(&ticket) else {
            return;
        };
        if member.trust == Trust::Stranger {
            member.trust = Trust::Proven;
            self.strangers.remove(member.networks, ticket);
            self.proven.add(member.networks, ticket);
        }
    }

    /// A balancer has said whom its connection is for, who needs the place from now on. `Ok` is who
    /// has to go for it.
    pub fn announce(
        &mut self,
        ticket: Ticket,
        client: Networks,
        is_busy: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, TooMany> {
        let leaves = self.within_share(client, &is_busy)?;
        if let Some(member) = self.members.get_mut(&ticket) {
            let crowd = match member.trust {
                Trust::Stranger => &mut self.strangers,
                Trust::Proven => &mut self.proven,
            };
            crowd.remove(member.networks, ticket);
            crowd.add(client, ticket);
            member.networks = client;
        }
        Ok(leaves)
    }

    /// A connection is gone.
    pub fn depart(&mut self, ticket: Ticket) {
        self.present = self.present.saturating_sub(1);
        drop(self.dismiss(ticket));
    }

    /// Who has to go when descriptors are used up before places are: so many that there are some to
    /// spare, but of the proven only one.
    pub fn shrink(&mut self, is_busy: impl Fn(&T) -> bool) -> Vec<T> {
        if self.members.len() < self.present {
            // Those who have been told to go give theirs back first.
            return Vec::new();
        }
        let some = self.present.checked_div(SPARE).unwrap_or(0).max(1);
        let strangers = (0..some).map_while(|_| self.stranger_leaves(None, &is_busy));
        let mut leave: Vec<T> = strangers.collect();
        if leave.is_empty() {
            leave.extend(self.proven_leaves(None, &is_busy));
        }
        leave
    }

    /// What strangers may have together, and one source.
    fn open(&self) -> usize {
        let kept = self.most.checked_div(PARTS).unwrap_or(0);
        self.most.saturating_sub(kept)
    }

    /// Makes sure that a source has no more than it may; `Ok` is who has to go for that.
    fn within_share(
        &mut self,
        from: Networks,
        is_busy: &impl Fn(&T) -> bool,
    ) -> Result<Option<T>, TooMany> {
        let count = |level: fn(&Crowd) -> &Level, network| {
            let of = |crowd| level(crowd).count(network);
            of(&self.strangers).saturating_add(of(&self.proven))
        };
        if count(Crowd::links, from.link()) >= self.most_of_source {
            return Err(TooMany);
        }
        if self.open() == self.most || count(Crowd::sites, from.site()) < self.open() {
            return Ok(None);
        }
        let ticket = self
            .stranger(self.strangers.heaviest_within(from.site()), is_busy)
            .or_else(|| self.idle(self.proven.heaviest_within(from.site()), is_busy));
        let leaves = ticket.and_then(|ticket| self.dismiss(ticket));
        leaves.map(Some).ok_or(TooMany)
    }

    fn stranger_leaves(
        &mut self,
        for_whom: Option<Networks>,
        is_busy: &impl Fn(&T) -> bool,
    ) -> Option<T> {
        let ticket = self.stranger(self.strangers.heaviest(for_whom), is_busy)?;
        self.dismiss(ticket)
    }

    fn proven_leaves(
        &mut self,
        for_whom: Option<Networks>,
        is_busy: &impl Fn(&T) -> bool,
    ) -> Option<T> {
        let of_the_largest = self.idle(self.proven.heaviest(for_whom), is_busy);
        let ticket = of_the_largest.or_else(|| {
            let mut all = self.members.iter();
            let idle =
                all.find(|(_, member)| member.trust == Trust::Proven && !is_busy(&member.handle));
            idle.map(|(ticket, _)| *ticket)
        })?;
        self.dismiss(ticket)
    }

    /// The oldest of a source's connections on which nobody has proved anything.
    fn stranger(
        &self,
        of: Option<&BTreeSet<Ticket>>,
        is_busy: &impl Fn(&T) -> bool,
    ) -> Option<Ticket> {
        let of = of?;
        let mut oldest = of.iter().take(LOOKED_AT);
        let idle = oldest.find(|ticket| self.is_idle(**ticket, is_busy));
        idle.or_else(|| of.first()).copied()
    }

    /// The oldest of a source's connections that has no request.
    fn idle(&self, of: Option<&BTreeSet<Ticket>>, is_busy: &impl Fn(&T) -> bool) -> Option<Ticket> {
        let mut oldest = of?.iter();
        oldest
            .find(|ticket| self.is_idle(**ticket, is_busy))
            .copied()
    }

    fn is_idle(&self, ticket: Ticket, is_busy: &impl Fn(&T) -> bool) -> bool {
        let member = self.members.get(&ticket);
        member.is_some_and(|member| !is_busy(&member.handle))
    }

    /// Takes one off the list of those who could be told to go.
    fn dismiss(&mut self, ticket: Ticket) -> Option<T> {
        let member = self.members.remove(&ticket)?;
        match member.trust {
            Trust::Stranger => self.strangers.remove(member.networks, ticket),
            Trust::Proven => self.proven.remove(member.networks, ticket),
        }
        Some(member.handle)
    }
}

/// A source has as many connections as it may, and none of them can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Connections by network.
#[derive(Debug, Default)]
struct Crowd {
    len: usize,
    sites: Level,
    subnets: Level,
    links: Level,
}

impl Crowd {
    fn add(&mut self, at: Networks, ticket: Ticket) {
        self.len = self.len.saturating_add(1);
        self.change(at, |group| {
            group.insert(ticket);
        });
    }

    fn remove(&mut self, at: Networks, ticket: Ticket) {
        self.len = self.len.saturating_sub(1);
        self.change(at, |group| {
            group.remove(&ticket);
        });
    }

    fn change(&mut self, at: Networks, how: impl Fn(&mut BTreeSet<Ticket>)) {
        let Networks([site, subnet, link]) = at;
        self.sites.change(0, site, &how);
        self.subnets.change(site, subnet, &how);
        self.links.change(subnet, link, &how);
    }

    fn sites(&self) -> &Level {
        &self.sites
    }

    fn links(&self) -> &Level {
        &self.links
    }

    /// Connections of the largest source, if the newcomer's is counted with the newcomer.
    fn heaviest(&self, newcomer: Option<Networks>) -> Option<&BTreeSet<Ticket>> {
        let site = self.sites.heaviest(0, newcomer.map(Networks::site))?;
        self.heaviest_in(site, newcomer)
    }

    fn heaviest_within(&self, site: u128) -> Option<&BTreeSet<Ticket>> {
        self.heaviest_in(site, None)
    }

    fn heaviest_in(&self, site: u128, newcomer: Option<Networks>) -> Option<&BTreeSet<Ticket>> {
        let own = newcomer.filter(|newcomer| newcomer.site() == site);
        let subnet = self.subnets.heaviest(site, own.map(Networks::subnet))?;
        let own = own.filter(|newcomer| newcomer.subnet() == subnet);
        let link = self.links.heaviest(subnet, own.map(Networks::link))?;
        self.links.groups.get(&link)
    }
}

/// Networks of one length, each with its connections.
#[derive(Debug, Default)]
struct Level {
    groups: HashMap<u128, BTreeSet<Ticket>>,
    /// By the network around, by their number, and of as many the one with the oldest last.
    order: BTreeSet<(u128, usize, Reverse<Ticket>, u128)>,
}

impl Level {
    fn change(&mut self, around: u128, network: u128, how: impl Fn(&mut BTreeSet<Ticket>)) {
        let group = self.groups.entry(network).or_default();
        let place = |group: &BTreeSet<Ticket>| {
            let oldest = group.first()?;
            Some((around, group.len(), Reverse(*oldest), network))
        };
        if let Some(before) = place(group) {
            self.order.remove(&before);
        }
        how(group);
        if let Some(now) = place(group) {
            self.order.insert(now);
        } else {
            self.groups.remove(&network);
        }
    }

    fn count(&self, network: u128) -> usize {
        self.groups.get(&network).map_or(0, BTreeSet::len)
    }

    /// The network with most connections, which may be the newcomer's own if that has as many with
    /// the newcomer.
    fn heaviest(&self, around: u128, newcomers: Option<u128>) -> Option<u128> {
        let least = (around, 0, Reverse(Ticket::MAX), 0);
        let most = (around, usize::MAX, Reverse(0), u128::MAX);
        let (_, count, _, network) = self.order.range(least..=most).next_back()?;
        let own = newcomers.filter(|own| {
            let present = self.count(*own);
            present > 0 && present.saturating_add(1) >= *count
        });
        Some(own.unwrap_or(*network))
    }
}

#[cfg(test)]
mod tests;
