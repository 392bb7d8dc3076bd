#![expect(
    clippy::arithmetic_side_effects,
    reason = "small numbers, of tests alone"
)]

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::{Arrival, Connections, Networks, Origin, Ticket};

/// A register whose handles are the tickets, and which of them have requests.
struct Book {
    register: Connections<Ticket>,
    busy: RefCell<HashSet<Ticket>>,
    present: BTreeMap<Ticket, IpAddr>,
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Placed(Ticket),
    Waits,
    Refused,
}

impl Book {
    fn new(most: usize, most_of_source: usize) -> Self {
        Self {
            register: Connections::new(most, most_of_source),
            busy: RefCell::default(),
            present: BTreeMap::new(),
        }
    }

    /// A connection arrives, and whoever has to go for it goes at once. Returns who that was.
    fn arrive_as(&mut self, from: &str, origin: Origin) -> (Seen, Vec<Ticket>) {
        let address: IpAddr = from.parse().unwrap();
        let ticket = self.register.ticket();
        let mut gone = Vec::new();
        loop {
            let busy = self.busy.borrow().clone();
            let whose = (Networks::of(address), origin);
            let arrival = self
                .register
                .arrive(ticket, whose, &ticket, |one| busy.contains(one));
            match arrival {
                Arrival::Placed(leaves) => {
                    self.present.insert(ticket, address);
                    gone.extend(leaves.inspect(|leaves| self.end(*leaves)));
                    return (Seen::Placed(ticket), gone);
                }
                Arrival::Full(Some(leaves)) => {
                    self.end(leaves);
                    gone.push(leaves);
                }
                Arrival::Full(None) => return (Seen::Waits, gone),
                Arrival::Refused => return (Seen::Refused, gone),
            }
        }
    }

    fn arrive(&mut self, from: &str) -> (Seen, Vec<Ticket>) {
        self.arrive_as(from, Origin::Client)
    }

    fn many(&mut self, from: &str, number: usize) -> Vec<Ticket> {
        let each = (0..number).map(|_| match self.arrive(from) {
            (Seen::Placed(ticket), gone) if gone.is_empty() => ticket,
            other => panic!("{from}: {other:?}"),
        });
        each.collect()
    }

    fn end(&mut self, ticket: Ticket) {
        assert!(self.present.remove(&ticket).is_some());
        self.busy.borrow_mut().remove(&ticket);
        self.register.depart(ticket);
    }

    fn of(&self, from: &str) -> usize {
        let from: IpAddr = from.parse().unwrap();
        self.present.values().filter(|one| **one == from).count()
    }

    fn busy(&self, tickets: &[Ticket]) {
        self.busy.borrow_mut().extend(tickets);
    }
}

#[test]
fn three_silent_sources_keep_nobody_out() {
    let mut book = Book::new(1000, usize::MAX);
    for (source, number) in [("192.0.2.1", 400), ("192.0.2.2", 400), ("192.0.2.3", 200)] {
        for _ in 0..number {
            assert!(matches!(book.arrive(source).0, Seen::Placed(_)));
        }
    }
    // What is left over is for callers who have proved who they are.
    assert_eq!(book.present.len(), 750);
    let (seen, gone) = book.arrive("198.51.100.1");
    assert!(matches!(seen, Seen::Placed(_)), "{seen:?}");
    assert_eq!(gone.len(), 1);
    assert_eq!(book.of("198.51.100.1"), 1);
    // As many as it needs, until it is as large as they are.
    for _ in 0..180 {
        assert!(matches!(book.arrive("198.51.100.1").0, Seen::Placed(_)));
    }
    assert_eq!(book.of("198.51.100.1"), 181);
}

#[test]
fn the_oldest_without_a_request_goes_first() {
    let mut book = Book::new(8, usize::MAX);
    let held = book.many("192.0.2.1", 5);
    book.many("192.0.2.2", 1);
    book.busy(&held[..2]);
    assert_eq!(book.arrive("192.0.2.3").1, [held[2]]);
    book.busy(&held);
    // All of them have requests, of people whom nobody knows.
    assert_eq!(book.arrive("192.0.2.4").1, [held[0]]);
}

#[test]
fn an_office_alone_has_all_but_a_quarter_and_its_newcomers_get_in() {
    let mut book = Book::new(1000, usize::MAX);
    let held = book.many("192.0.2.1", 750);
    let (seen, gone) = book.arrive("192.0.2.1");
    assert!(matches!(seen, Seen::Placed(_)));
    assert_eq!(gone, [held[0]]);
    // One who has proved who he is goes last.
    for ticket in &held[1..] {
        book.register.prove(*ticket);
    }
    let late = book.arrive("192.0.2.1").1;
    assert_eq!(book.of("192.0.2.1"), 750);
    assert!(!held.contains(&late[0]), "{late:?}");
    // And others come in beside it at no cost of its own.
    for _ in 0..200 {
        assert!(book.arrive("192.0.2.2").1.is_empty());
    }
}

#[test]
fn the_proven_have_what_strangers_may_not() {
    let mut book = Book::new(100, usize::MAX);
    let office = book.many("192.0.2.1", 60);
    for ticket in &office {
        book.register.prove(*ticket);
    }
    // A flood from everywhere takes nothing from it.
    for number in 0..200 {
        let (seen, gone) = book.arrive(&format!("198.51.100.{number}"));
        assert!(matches!(seen, Seen::Placed(_)));
        assert!(gone.iter().all(|gone| !office.contains(gone)));
    }
    assert_eq!(book.of("192.0.2.1"), 60);
    let (seen, gone) = book.arrive("192.0.2.1");
    assert!(matches!(seen, Seen::Placed(_)));
    assert_eq!(gone.len(), 1);
}

#[test]
fn who_is_being_served_is_never_taken() {
    let mut book = Book::new(8, usize::MAX);
    let held = book.many("192.0.2.1", 5);
    for ticket in &held {
        book.register.prove(*ticket);
    }
    let more = book.many("192.0.2.2", 3);
    for ticket in &more {
        book.register.prove(*ticket);
    }
    book.busy(&held);
    book.busy(&more);
    assert_eq!(book.arrive("192.0.2.3"), (Seen::Waits, vec![]));
    // One that is idle goes, though its source is not the largest.
    book.busy.borrow_mut().remove(&more[1]);
    assert_eq!(book.arrive("192.0.2.3").1, [more[1]]);
}

#[test]
fn a_balancer_has_no_limit_and_its_clients_have() {
    let mut book = Book::new(100, 10);
    let balancer = "10.0.0.1";
    let mut held = Vec::new();
    for _ in 0..75 {
        let (Seen::Placed(ticket), gone) = book.arrive_as(balancer, Origin::Balancer) else {
            panic!("refused");
        };
        assert!(gone.is_empty(), "{gone:?}");
        book.register.prove(ticket);
        held.push(ticket);
    }
    for _ in 0..25 {
        let (Seen::Placed(ticket), gone) = book.arrive_as(balancer, Origin::Balancer) else {
            panic!("refused");
        };
        assert!(gone.is_empty(), "{gone:?}");
        held.push(ticket);
    }
    let client = |text: &str| Networks::of(text.parse().unwrap());
    for (number, ticket) in held.iter().take(11).enumerate() {
        let moved = book
            .register
            .announce(*ticket, client("192.0.2.1"), |_| false);
        assert_eq!(moved.is_ok(), number < 10, "{number}");
    }
}

#[test]
fn a_48_counts_as_a_whole_and_goes_by_its_largest_parts() {
    let mut book = Book::new(40, usize::MAX);
    let spread: Vec<_> = (0..16)
        .map(|n| book.many(&format!("2001:db8:1:{n:x}00::1"), 1)[0])
        .collect();
    let thick = book.many("2001:db8:1:500::1", 3);
    let other = book.many("2001:db8:2::1", 9);
    book.many("192.0.2.1", 2);
    // The /48, in it the /56 that has four, in that its only /64.
    assert_eq!(book.arrive("192.0.2.2").1, [spread[5]]);
    assert_eq!(book.arrive("192.0.2.3").1, [thick[0]]);
    assert_eq!(book.arrive("192.0.2.4").1, [thick[1]]);
    // Its parts have one each now: the oldest.
    assert_eq!(book.arrive("192.0.2.5").1, [spread[0]]);
    assert_eq!(book.of("2001:db8:2::1"), other.len());
    // An address in the same /48 is no newcomer.
    let (_, gone) = book.arrive("2001:db8:1:ffff::1");
    assert_eq!(gone, [spread[1]]);
    // One written in IPv6 is what it is.
    assert_eq!(
        Networks::of("::ffff:192.0.2.1".parse().unwrap()),
        Networks::of("192.0.2.1".parse().unwrap())
    );
}

#[test]
fn many_who_have_one_each_take_turns() {
    let mut book = Book::new(8, usize::MAX);
    let held: Vec<_> = (0..6)
        .map(|n| book.many(&format!("192.0.2.{n}"), 1)[0])
        .collect();
    for (number, oldest) in held.iter().enumerate() {
        let (seen, gone) = book.arrive(&format!("198.51.100.{number}"));
        assert!(matches!(seen, Seen::Placed(_)));
        assert_eq!(gone, [*oldest]);
    }
}

#[test]
fn with_few_places_none_is_kept() {
    for most in 1..4 {
        let mut book = Book::new(most, usize::MAX);
        let held = book.many("192.0.2.1", most);
        assert_eq!(book.arrive("192.0.2.2").1, [held[0]]);
    }
    let mut book = Book::new(4, usize::MAX);
    let held = book.many("192.0.2.1", 3);
    assert_eq!(book.arrive("192.0.2.1").1, [held[0]]);
}

#[test]
fn used_up_descriptors_are_taken_from_the_largest() {
    let mut book = Book::new(1000, usize::MAX);
    let held = book.many("192.0.2.1", 100);
    book.many("192.0.2.2", 20);
    let leave = book.register.shrink(|_| false);
    assert_eq!(leave, held[..7]);
    assert!(book.register.shrink(|_| false).is_empty());
    for ticket in leave {
        book.end(ticket);
    }
    for ticket in held.iter().skip(7) {
        book.register.prove(*ticket);
    }
    let leave = book.register.shrink(|_| false);
    assert_eq!(leave.len(), 7);
    assert!(leave.iter().all(|ticket| *ticket > held[99]));
}

/// Draws numbers; the same ones for the same seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Random histories, with the rules as they are written above checked on lists.
#[test]
fn whatever_happens_the_rules_hold() {
    for seed in 0..40 {
        let mut draw = Draw(seed);
        let most = usize::try_from(1 + draw.below(40)).unwrap();
        let open = most - most / 4;
        let mut book = Book::new(most, usize::MAX);
        let mut proven = HashSet::new();
        for step in 0..500 {
            let any = |draw: &mut Draw, book: &Book| {
                let at = draw.below(book.present.len().max(1).try_into().unwrap());
                let at = usize::try_from(at).unwrap();
                book.present.keys().nth(at).copied()
            };
            match draw.below(10) {
                0..=5 => {
                    // A few sources come often, many seldom.
                    let source = match draw.below(4) {
                        0 => format!("192.0.2.{}", draw.below(200)),
                        1 => format!("2001:db8:{}:{}00::1", draw.below(3), draw.below(3)),
                        _ => format!("198.51.100.{}", draw.below(3)),
                    };
                    let before = book.present.clone();
                    let busy = book.busy.borrow().clone();
                    let (seen, gone) = book.arrive(&source);
                    let told = format!("seed {seed}, step {step}, {source}: {seen:?}, {gone:?}");
                    check(
                        &before,
                        &busy,
                        &proven,
                        (&source, &seen, &gone),
                        open,
                        &told,
                    );
                    assert!(book.present.len() <= most, "{told}");
                    let strangers = book.present.keys().filter(|one| !proven.contains(*one));
                    assert!(strangers.count() <= open, "{told}");
                }
                6 => {
                    if let Some(ticket) = any(&mut draw, &book) {
                        book.register.prove(ticket);
                        proven.insert(ticket);
                    }
                }
                7 => {
                    if let Some(ticket) = any(&mut draw, &book) {
                        book.busy(&[ticket]);
                    }
                }
                8 => {
                    if let Some(ticket) = any(&mut draw, &book) {
                        book.busy.borrow_mut().remove(&ticket);
                    }
                }
                _ => {
                    if let Some(ticket) = any(&mut draw, &book) {
                        book.end(ticket);
                    }
                }
            }
        }
        let left: Vec<_> = book.present.keys().copied().collect();
        for ticket in left {
            book.end(ticket);
        }
        assert_eq!(book.register.present, 0, "seed {seed}");
        assert!(book.register.members.is_empty(), "seed {seed}");
        let Connections {
            strangers, proven, ..
        } = &book.register;
        for crowd in [strangers, proven] {
            assert!(crowd.len == 0 && crowd.links.groups.is_empty());
            assert!(crowd.sites.order.is_empty() && crowd.subnets.order.is_empty());
        }
    }
}

/// What became of a newcomer, against what there was before.
fn check(
    before: &BTreeMap<Ticket, IpAddr>,
    busy: &HashSet<Ticket>,
    proven: &HashSet<Ticket>,
    (source, seen, gone): (&str, &Seen, &[Ticket]),
    open: usize,
    told: &str,
) {
    let site = |address: &IpAddr| Networks::of(*address).site();
    let own = Networks::of(source.parse().unwrap()).site();
    let of = |site_of: u128, trusted: bool| {
        let all = before.iter();
        all.filter(|(ticket, address)| {
            site(address) == site_of && proven.contains(*ticket) == trusted
        })
        .count()
    };
    // Nobody waits while there is anybody idle or unknown, and nobody has to go while there is room.
    let strangers = before.keys().filter(|one| !proven.contains(*one)).count();
    let idle = before.keys().any(|one| !busy.contains(one));
    if *seen == Seen::Waits {
        assert!(strangers == 0 && !idle, "{told}");
    }
    let own_share = of(own, true) + of(own, false);
    if *seen == Seen::Refused {
        assert!(own_share >= open, "{told}");
    }
    assert!(gone.len() <= 1, "{told}");
    for one in gone {
        let address = &before[one];
        let is_proven = proven.contains(one);
        assert!(
            !(is_proven && busy.contains(one)),
            "served, and taken: {told}"
        );
        let newcomer = |at: u128| usize::from(at == own);
        let its = of(site(address), is_proven) + newcomer(site(address));
        if is_proven {
            assert!(strangers == 0 || own_share >= open, "{told}");
        } else {
            // No source is larger than the one that gave way, but for one that has to make room
            // for its own.
            for other in before.values().map(site) {
                let theirs = of(other, false) + newcomer(other);
                assert!(its >= theirs || own_share >= open, "{told}");
            }
        }
        // A source with one connection gives way to another only if nobody has two.
        if its == 1 && !is_proven && site(address) != own {
            assert!(
                before.values().all(|other| of(site(other), false) <= 1),
                "{told}"
            );
        }
    }
}
