#![expect(
    clippy::arithmetic_side_effects,
    reason = "small numbers, of tests alone"
)]

use super::{Claimant, Crowded, Network, Place, Shared, State, Trust};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

const ROOM: usize = 1000;

type Wait = Pin<Box<dyn Future<Output = Result<Place, Crowded>>>>;

fn v4(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 | number))
}

/// An address in a /48, a /56 of it and a /64 of that.
fn v6(site: u16, part: u8, subnet: u8) -> IpAddr {
    let fourth = (u16::from(part) << 8) | u16::from(subnet);
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, fourth, 0, 0, 0, 7))
}

fn stranger(number: u32) -> Claimant {
    Claimant::stranger(v4(number))
}

fn proven(number: u32) -> Claimant {
    Claimant::proven(v4(number))
}

fn taken(shared: &Arc<Shared>, whom: Claimant) -> Vec<Place> {
    std::iter::from_fn(|| shared.try_acquire(whom)).collect()
}

fn poll(wait: &mut Wait) -> Poll<Result<Place, Crowded>> {
    wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Joins the line.
fn wait(shared: &Arc<Shared>, whom: Claimant) -> Wait {
    let shared = Arc::clone(shared);
    let mut wait: Wait = Box::pin(async move { shared.acquire(whom).await });
    assert!(poll(&mut wait).is_pending());
    wait
}

/// Gives places back one at a time, and tells which of those in line got one each time.
fn served<T>(places: Vec<Place>, line: &mut Vec<(T, Wait)>) -> Vec<T> {
    let mut served = Vec::new();
    let mut kept = Vec::new();
    for place in places {
        drop(place);
        let mut at = 0;
        while at < line.len() {
            match poll(&mut line[at].1) {
                Poll::Ready(place) => {
                    kept.push(place.unwrap());
                    served.push(line.remove(at).0);
                }
                Poll::Pending => at += 1,
            }
        }
    }
    served
}

fn is_empty(state: &State) -> bool {
    state.taken == 0 && state.held.is_empty() && state.lines.is_empty() && state.strangers == 0
}

#[test]
fn one_source_alone_has_all_but_the_reserve() {
    for (places, strangers) in [(32, 24), (7, 6), (4, 3), (3, 3), (2, 2), (1, 1)] {
        let shared = Shared::new(places, ROOM);
        let of_strangers = taken(&shared, stranger(1));
        assert_eq!(of_strangers.len(), strangers, "{places}");
        let of_proven = taken(&shared, proven(2));
        assert_eq!(of_proven.len(), places - strangers, "{places}");
        drop(of_strangers);
        drop(of_proven);
        assert_eq!(taken(&shared, proven(1)).len(), places);
        assert!(is_empty(&shared.lock()));
    }
}

#[test]
fn what_becomes_free_goes_to_those_below_their_share() {
    let shared = Shared::new(8, ROOM);
    let greedy = taken(&shared, stranger(1));
    assert_eq!(greedy.len(), 6);
    let mut line: Vec<_> = (0..6).map(|_| (1, wait(&shared, stranger(1)))).collect();
    line.extend((0..4).map(|_| (2, wait(&shared, stranger(2)))));
    // The second has a quarter at once; from then on both are served in turn.
    assert_eq!(served(greedy, &mut line), [2, 2, 1, 2, 1, 2]);
}

#[test]
fn turns_go_around_the_sources() {
    let shared = Shared::new(1, ROOM);
    let place = shared.try_acquire(stranger(0)).unwrap();
    let mut line = Vec::new();
    for (source, callers) in [(1, 5), (2, 1), (3, 2)] {
        line.extend((0..callers).map(|_| (source, wait(&shared, stranger(source)))));
    }
    let mut order = Vec::new();
    let mut places = vec![place];
    while !line.is_empty() {
        places.clear();
        let at = line.iter_mut().position(|(source, wait)| {
            let Poll::Ready(place) = poll(wait) else {
                return false;
            };
            order.push(*source);
            places.push(place.unwrap());
            true
        });
        drop(line.remove(at.unwrap()));
    }
    assert_eq!(order, [1, 2, 3, 1, 3, 1, 1, 1]);
}

#[test]
fn the_subnets_of_a_site_are_one_source_to_all_others() {
    let shared = Shared::new(8, ROOM);
    // A hundred /64s, of ten /56s, of one /48.
    let mut site: Vec<_> = Vec::new();
    for number in 0..100 {
        let from = v6(1, number / 10, number);
        site.extend(shared.try_acquire(Claimant::stranger(from)));
    }
    assert_eq!(site.len(), 6);
    let mut line: Vec<_> = (0..100)
        .map(|number| {
            (
                0,
                wait(&shared, Claimant::stranger(v6(1, number / 10, number))),
            )
        })
        .collect();
    line.push((1, wait(&shared, Claimant::stranger(v6(2, 0, 0)))));
    line.push((1, wait(&shared, stranger(1))));
    line.push((2, wait(&shared, stranger(1))));
    line.push((2, wait(&shared, Claimant::stranger(v6(2, 0, 0)))));
    assert_eq!(served(site.split_off(2), &mut line), [1, 1, 2, 2]);

    // Inside of it, turns go around the /56s and their /64s.
    let shared = Shared::new(1, ROOM);
    let mut line = Vec::new();
    let place = shared.try_acquire(stranger(1)).unwrap();
    for (part, subnet) in [(0, 0), (0, 1), (0, 2), (0, 0), (1, 0), (1, 0)] {
        let from = Claimant::stranger(v6(1, part, subnet));
        line.push(((part, subnet), wait(&shared, from)));
    }
    let mut order = Vec::new();
    let mut places = vec![place];
    for _ in 0..6 {
        drop(places.pop());
        for (who, wait) in &mut line {
            if order.len() > 5 || !places.is_empty() {
                break;
            }
            if let Poll::Ready(Ok(place)) = poll_once(wait) {
                order.push(*who);
                places.push(place);
            }
        }
    }
    assert_eq!(order, [(0, 0), (1, 0), (0, 1), (1, 0), (0, 2), (0, 0)]);
}

/// A future that was ready is never polled again.
fn poll_once(wait: &mut Wait) -> Poll<Result<Place, Crowded>> {
    let answer = poll(wait);
    if answer.is_ready() {
        *wait = Box::pin(std::future::pending());
    }
    answer
}

#[test]
fn the_proven_go_first_and_every_fourth_place_is_a_strangers() {
    let shared = Shared::new(1, ROOM);
    let mut places = taken(&shared, stranger(0));
    let mut line: Vec<_> = (1..=4).map(|n| ("s", wait(&shared, stranger(n)))).collect();
    line.extend((10..=17).map(|n| ("p", wait(&shared, proven(n)))));
    let mut order = Vec::new();
    for _ in 0..12 {
        places.clear();
        for (who, wait) in &mut line {
            if let Poll::Ready(Ok(place)) = poll_once(wait) {
                order.push(*who);
                places.push(place);
            }
        }
    }
    assert_eq!(order.concat(), "pppspppsppss");
}

#[test]
fn the_reserve_is_for_the_proven_alone() {
    let shared = Shared::new(4, ROOM);
    let _greedy = taken(&shared, stranger(1));
    let mut refused = wait(&shared, stranger(2));
    // Nobody is overtaken: a stranger could not have had it.
    let place = shared.try_acquire(proven(1)).unwrap();
    assert!(shared.try_acquire(proven(3)).is_none());
    drop(place);
    assert!(poll(&mut refused).is_pending());
    assert!(shared.try_acquire(proven(1)).is_some());
}

#[test]
fn who_proves_who_they_are_leaves_a_strangers_place() {
    let shared = Shared::new(4, ROOM);
    let mut greedy = taken(&shared, stranger(1));
    let mut next = wait(&shared, stranger(2));
    greedy[0].prove();
    greedy[0].prove();
    let next = poll(&mut next);
    assert!(next.is_ready());
    assert_eq!(shared.usage().taken, 4);
    drop((greedy, next));
    assert!(is_empty(&shared.lock()));
}

#[test]
fn a_full_line_displaces_the_last_of_the_longest() {
    let shared = Shared::new(1, 10);
    let _place = shared.try_acquire(stranger(0)).unwrap();
    let mut flood: Vec<_> = (0..10).map(|_| wait(&shared, stranger(1))).collect();
    let acquire = |whom| {
        let shared = Arc::clone(&shared);
        let mut wait: Wait = Box::pin(async move { shared.acquire(whom).await });
        match poll(&mut wait) {
            Poll::Ready(Err(Crowded)) => None,
            Poll::Ready(Ok(_)) => panic!("there was no place"),
            Poll::Pending => Some(wait),
        }
    };
    assert!(acquire(stranger(1)).is_none());
    let others: Vec<_> = (0..5).map(|_| acquire(stranger(2)).unwrap()).collect();
    // Both lines are as long as each other now.
    assert!(acquire(stranger(2)).is_none());
    assert!(acquire(stranger(1)).is_none());
    // The first comers stay.
    for (number, wait) in flood.iter_mut().enumerate() {
        assert_eq!(poll(wait).is_ready(), number >= 5, "{number}");
    }
    drop(acquire(stranger(3)).unwrap());
    // The proven go before strangers of their own source, also when all lines are as short.
    drop((flood, others));
    let lone: Vec<_> = (1..=10).map(|n| acquire(stranger(n)).unwrap()).collect();
    assert!(acquire(stranger(11)).is_none());
    let mut known: Vec<_> = (11..=20).map(|n| acquire(proven(n)).unwrap()).collect();
    assert!(acquire(proven(21)).is_none());
    assert!(known.iter_mut().all(|wait| poll(wait).is_pending()));
    let usage = shared.usage();
    assert_eq!((usage.waiting, usage.taken, usage.places), (10, 1, 1));
    assert!(usage.refusals > 0 && usage.waits > 20);
    drop((lone, known));
    assert_eq!(shared.usage().waiting, 0);
}

#[test]
fn leaving_costs_the_neighbours_no_turn() {
    let shared = Shared::new(1, ROOM);
    let place = shared.try_acquire(stranger(0)).unwrap();
    let mut neighbour = wait(&shared, Claimant::stranger(v6(1, 0, 0)));
    let _other = wait(&shared, stranger(1));
    for _ in 0..10 {
        drop(wait(&shared, Claimant::stranger(v6(1, 0, 1))));
    }
    drop(place);
    assert!(poll(&mut neighbour).is_ready());
}

#[test]
fn a_place_that_nobody_came_to_know_of_is_not_lost() {
    let shared = Shared::new(1, ROOM);
    let place = shared.try_acquire(stranger(0)).unwrap();
    let first = wait(&shared, stranger(1));
    let mut second = wait(&shared, stranger(2));
    drop(place);
    // Granted, but not looked at.
    drop(first);
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
    assert!(is_empty(&shared.lock()));
}

#[test]
fn networks_around_a_source() {
    let around = |address| {
        Network::around(Claimant::stranger(address).source)
            .map(|network| format!("{}/{}", network.address, network.bits))
            .collect::<Vec<_>>()
    };
    assert_eq!(around(v4(7)), ["0.0.0.0/0", "10.0.0.7/32"]);
    assert_eq!(
        around(v6(1, 2, 3)),
        [
            "0.0.0.0/0",
            "2001:db8:1::/48",
            "2001:db8:1:200::/56",
            "2001:db8:1:203::/64"
        ]
    );
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(IpAddr, Trust),
    Try(IpAddr, Trust),
    Return(usize),
    GiveUp(usize),
    Prove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let address = prop_oneof![
        4 => (0..4_u32).prop_map(v4),
        2 => (0..2_u16, 0..2_u8, 0..2_u8).prop_map(|(a, b, c)| v6(a, b, c)),
    ];
    let trust = prop_oneof![2 => Just(Trust::Stranger), 1 => Just(Trust::Proven)];
    let step = prop_oneof![
        6 => (address.clone(), trust.clone()).prop_map(|(from, trust)| Step::Arrive(from, trust)),
        2 => (address, trust).prop_map(|(from, trust)| Step::Try(from, trust)),
        5 => any::<usize>().prop_map(Step::Return),
        2 => any::<usize>().prop_map(Step::GiveUp),
        1 => any::<usize>().prop_map(Step::Prove),
    ];
    proptest::collection::vec(step, 1..200)
}

/// All that holds between two steps.
fn check(shared: &Arc<Shared>, room: usize, places: &[Place], line: &mut Vec<(Claimant, Wait)>) {
    let strangers = |whom: &Claimant| whom.trust == Trust::Stranger;
    let total = shared.places;
    let reserve = total / 4;
    assert!(places.len() <= total);
    let of_strangers = places.iter().filter(|place| strangers(&place.whom)).count();
    assert!(of_strangers <= total - reserve);
    let state = shared.lock();
    assert_eq!(state.taken, places.len());
    assert_eq!(state.strangers, of_strangers);
    assert_eq!(state.waiting(&Network::ALL), line.len());
    assert!(line.len() <= room);
    let mut held: HashMap<Network, usize> = HashMap::new();
    for place in places {
        for network in Network::around(place.whom.source).skip(1) {
            *held.entry(network).or_default() += 1;
        }
    }
    assert!(held == state.held);
    // No place stays free while somebody waits who may have it.
    let some_wait = |trust| line.iter().any(|(whom, _)| whom.trust == trust);
    if places.len() < total {
        assert!(!some_wait(Trust::Proven));
        assert!(!some_wait(Trust::Stranger) || of_strangers == total - reserve);
    }
}

/// Reads who got a place and who has to go. A newcomer may displace one who was looked at before.
fn settle(places: &mut Vec<Place>, line: &mut Vec<(Claimant, Wait)>) {
    for _ in 0..2 {
        let mut at = 0;
        while at < line.len() {
            match poll(&mut line[at].1) {
                Poll::Pending => at += 1,
                Poll::Ready(answer) => {
                    drop(line.remove(at));
                    places.extend(answer);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_callers_do_the_places_are_shared(
        total in 1..13_usize,
        room in 1..13_usize,
        steps in steps(),
    ) {
        let shared = Shared::new(total, room);
        let (mut places, mut line) = (Vec::new(), Vec::new());
        for step in steps {
            let share = (total / 4).max(1);
            let before: Vec<Claimant> = places.iter().map(|place: &Place| place.whom).collect();
            let waited: Vec<Claimant> = line.iter().map(|(whom, _)| *whom).collect();
            match step {
                Step::Arrive(from, trust) => {
                    let (whom, own) = (Claimant::new(from, trust), Arc::clone(&shared));
                    line.push((whom, Box::pin(async move { own.acquire(whom).await }) as Wait));
                }
                Step::Try(from, trust) => {
                    places.extend(shared.try_acquire(Claimant::new(from, trust)));
                }
                Step::Return(at) if !places.is_empty() => {
                    let gone = places.swap_remove(at % places.len());
                    let left = {
                        let mut left = before.clone();
                        let at = left.iter().position(|whom| *whom == gone.whom).unwrap();
                        left.swap_remove(at);
                        left
                    };
                    drop(gone);
                    settle(&mut places, &mut line);
                    let got: Vec<_> = waited
                        .iter()
                        .filter(|whom| {
                            let count = |of: &[Claimant]| of.iter().filter(|one| one == whom).count();
                            let now: Vec<_> = places.iter().map(|place| place.whom).collect();
                            count(&now) > count(&left)
                        })
                        .collect();
                    // One place back is one place handed out, or two when it was no stranger's.
                    let site = |whom: &Claimant| Network::around(whom.source).nth(1).unwrap();
                    let holds = |whom: &Claimant| {
                        left.iter().filter(|other| site(other) == site(whom)).count()
                    };
                    let may = |whom: &Claimant| {
                        let strangers =
                            left.iter().filter(|one| one.trust == Trust::Stranger).count();
                        whom.trust == Trust::Proven || strangers < total - total / 4
                    };
                    let below = |whom: &Claimant| holds(whom) < share;
                    if waited.iter().any(|whom| may(whom) && below(whom)) {
                        prop_assert!(got.iter().any(|whom| below(whom)));
                    }
                }
                Step::GiveUp(at) if !line.is_empty() => drop(line.swap_remove(at % line.len())),
                Step::Prove(at) if !places.is_empty() => {
                    let at = at % places.len();
                    places[at].prove();
                }
                Step::Return(_) | Step::GiveUp(_) | Step::Prove(_) => {}
            }
            settle(&mut places, &mut line);
            check(&shared, room, &places, &mut line);
        }
        // Half of the line leaves without looking, the rest is served.
        let half = line.split_off(line.len() / 2);
        drop(places);
        drop(half);
        drop(line);
        prop_assert!(is_empty(&shared.lock()));
    }

    #[test]
    fn nobody_waits_for_ever(
        total in 1..9_usize,
        crowd in 1..20_u32,
        trust in prop_oneof![Just(Trust::Stranger), Just(Trust::Proven)],
    ) {
        // Others wait all the time, and more of them than there are places; each place comes back
        // after one turn of all places. A stranger waits as long as the line of sources, times
        // four for the places of the proven.
        let shared = Shared::new(total, ROOM);
        let (mut places, mut line) = (Vec::new(), Vec::new());
        let refill = |line: &mut Vec<(Claimant, Wait)>| {
            while line.len() < total + 2 * crowd as usize {
                let number = u32::try_from(line.len()).unwrap();
                let from = if number % 2 == 0 { v4(number % crowd) } else { v6(0, 0, 0) };
                let others = if number % 3 == 0 { Trust::Proven } else { trust };
                let whom = Claimant::new(from, others);
                let own = Arc::clone(&shared);
                line.push((whom, Box::pin(async move { own.acquire(whom).await }) as Wait));
            }
        };
        refill(&mut line);
        settle(&mut places, &mut line);
        let mut late = wait(&shared, Claimant::new(v4(99), trust));
        for turn in 0.. {
            prop_assert!(turn <= 4 * (crowd as usize + 2) + total, "waits too long");
            drop(places.remove(0));
            if poll(&mut late).is_ready() {
                break;
            }
            settle(&mut places, &mut line);
            refill(&mut line);
            settle(&mut places, &mut line);
        }
    }
}
