use super::{Bucket, CAPACITY, Quota, Quotas, Reservation, Source, Subject};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

fn counted(name: &str) -> crate::identity::Counted {
    let person = crate::identity::Subject::read(name).unwrap();
    person.counted().unwrap()
}

const HOUR: Duration = Duration::from_hours(1);
const NEVER: Duration = Duration::ZERO;

fn from(number: u32) -> Subject {
    Subject::Source(Source::of(IpAddr::V4(Ipv4Addr::from_bits(number))))
}

fn bucket(subject: Subject, count: u32) -> Bucket {
    Bucket {
        limit: 1,
        subject,
        quota: Quota { count, per: HOUR },
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn pull(quotas: &Arc<Quotas>, bucket: &Bucket, now: Duration) -> Option<u32> {
    let reservation = quotas.reserve(bucket.clone(), now).ok()?;
    Some(reservation.settle(None, NEVER, now))
}

#[test]
fn each_subject_and_limit_has_its_own_count() {
    let quotas = Quotas::new();
    let (first, second) = (bucket(from(1), 2), bucket(from(2), 2));
    let user = bucket(Subject::User(counted("alice")), 2);
    let other = Bucket {
        limit: 2,
        ..first.clone()
    };
    for one in [&first, &second, &user, &other] {
        assert_eq!(quotas.remaining(one, at(0)), 2);
        assert_eq!(pull(&quotas, one, at(0)), Some(1));
        assert_eq!(pull(&quotas, one, at(60)), Some(0));
        let refused = quotas.reserve(one.clone(), at(120)).err().unwrap();
        assert_eq!(refused.wait, at(3600 - 120));
        assert_eq!(quotas.remaining(one, at(120)), 0);
        assert_eq!(quotas.remaining(one, HOUR), 1);
    }
}

#[test]
fn a_pull_that_was_none_is_given_back() {
    let quotas = Quotas::new();
    let one = bucket(from(1), 1);
    let reservation = quotas.reserve(one.clone(), at(0)).ok().unwrap();
    assert!(quotas.reserve(one.clone(), at(0)).is_err());
    drop(reservation);
    assert_eq!(quotas.remaining(&one, at(0)), 1);
    assert_eq!(pull(&quotas, &one, at(0)), Some(0));
}

#[test]
fn new_numbers_judge_the_old_pulls() {
    let quotas = Quotas::new();
    for second in 0..5 {
        pull(&quotas, &bucket(from(1), 10), at(second));
    }
    assert_eq!(quotas.remaining(&bucket(from(1), 7), at(5)), 2);
    assert_eq!(quotas.remaining(&bucket(from(1), 3), at(5)), 0);
    assert!(quotas.reserve(bucket(from(1), 3), at(5)).is_err());
    assert_eq!(quotas.remaining(&bucket(from(1), 20), at(5)), 15);
}

#[test]
fn a_repeat_of_the_same_image_is_free_if_so_configured() {
    let quotas = Quotas::new();
    let one = bucket(from(1), 5);
    let settle = |digest, now| {
        let reservation = quotas.reserve(one.clone(), now).ok().unwrap();
        reservation.settle(Some(digest), at(600), now)
    };
    assert!(!quotas.is_repeat(&one, "sha256:a", at(600), at(0)));
    assert_eq!(settle("sha256:a", at(0)), 4);
    assert!(quotas.is_repeat(&one, "sha256:a", at(600), at(1)));
    assert!(!quotas.is_repeat(&one, "sha256:a", NEVER, at(1)));
    assert!(!quotas.is_repeat(&bucket(from(2), 5), "sha256:a", at(600), at(1)));
    assert_eq!(settle("sha256:a", at(1)), 4);
    assert_eq!(settle("sha256:b", at(2)), 3);
    assert_eq!(settle("sha256:a", at(600)), 2);
}

#[test]
fn fifty_threads_take_exactly_what_there_is() {
    let quotas = Quotas::new();
    let one = bucket(from(1), 20);
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|_| scope.spawn(|| pull(&quotas, &one, at(1)).is_some()))
            .collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap());
        ended.filter(|taken| *taken).count()
    });
    assert_eq!(taken, 20);
}

#[test]
fn a_million_sources_stay_within_the_bound_and_free_nobody_who_is_limited() {
    let quotas = Quotas::new();
    let limited: Vec<_> = (0..500).map(|n| bucket(from(0xC000_0000 + n), 3)).collect();
    for one in &limited {
        assert!((0..3).all(|_| pull(&quotas, one, at(1)).is_some()));
    }
    for number in 0..1_500_000 {
        assert!(pull(&quotas, &bucket(from(number), 3), at(2)).is_some());
    }
    let shares = quotas.shares.iter().map(|share| share.lock());
    // A hash table is filled to seven eighths.
    let places: usize = shares.map(|share| share.subjects.capacity() / 7 * 8).sum();
    let subjects = quotas.remembered();
    let size = size_of::<(super::Key, super::Entry)>() + 1;
    assert!(subjects <= CAPACITY, "{subjects}");
    assert!(places * size <= 65 << 20, "{places} places of {size} bytes");
    for one in &limited {
        assert!(quotas.reserve(one.clone(), at(3)).is_err());
    }
    // An hour later they all make room.
    let later = at(3700);
    for number in 2_000_000..2_200_000 {
        assert!(pull(&quotas, &bucket(from(number), 3), later).is_some());
    }
    assert_eq!(quotas.remembered(), 200_000);
}

#[test]
fn where_everybody_is_limited_newcomers_count_as_one() {
    let quotas = Quotas::new();
    let mut refused = 0;
    for number in 0..1_100_000 {
        // A limit of one: whoever has pulled is limited.
        let one = bucket(from(number), 1);
        refused += u32::from(pull(&quotas, &one, at(2)).is_none());
    }
    assert!(refused > 100_000, "{refused}");
    assert!((0..1000).all(|number| pull(&quotas, &bucket(from(number), 1), at(3)).is_none()));
}

/// A pull as the slow reference remembers it: when, and whether it counts.
type Pulls = HashMap<(u64, u32), Vec<(u64, bool)>>;

fn live(pulls: &Pulls, key: (u64, u32), now: u64, per: u64) -> usize {
    let of = pulls.get(&key).map_or(&[][..], Vec::as_slice);
    of.iter()
        .filter(|(at, counts)| *counts && now < at + per)
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A simulation: some subjects, two limits, pulls that succeed, fail or stay under way, in any
    /// order and at any pace.
    #[test]
    fn no_history_gets_more_or_less_than_promised(
        steps in prop::collection::vec((0_u64..900, 0_u32..4, 1_u64..3, 0_u8..4), 1..400),
    ) {
        let limits = [(1, 3_u32, 3600), (2, 5, 1000)];
        let quotas = Quotas::new();
        let mut pulls = Pulls::new();
        let mut under_way: Vec<(Reservation, (u64, u32), usize)> = Vec::new();
        let mut now = 0;
        for (pause, who, limit, what) in steps {
            now += pause;
            let (_, count, per) = limits[usize::try_from(limit).unwrap() - 1];
            let quota = Quota { count, per: at(per) };
            let one = Bucket { limit, subject: from(who), quota };
            let key = (limit, who);
            let before = live(&pulls, key, now, per);
            let room = count.saturating_sub(u32::try_from(before).unwrap());
            prop_assert_eq!(quotas.remaining(&one, at(now)), room);
            match quotas.reserve(one, at(now)) {
                Err(_) => prop_assert_eq!(room, 0),
                Ok(reservation) => {
                    prop_assert!(room > 0);
                    let of = pulls.entry(key).or_default();
                    of.push((now, true));
                    let number = of.len() - 1;
                    match what {
                        0 => {
                            of[number].1 = false;
                            drop(reservation);
                        }
                        1 => under_way.push((reservation, key, number)),
                        _ => {
                            let left = reservation.settle(None, NEVER, at(now));
                            prop_assert_eq!(left, room - 1);
                        }
                    }
                }
            }
            if what == 3 && !under_way.is_empty() {
                let (reservation, key, number) = under_way.swap_remove(0);
                pulls.get_mut(&key).unwrap()[number].1 = false;
                drop(reservation);
            }
        }
        for ((limit, _), of) in pulls {
            let (_, count, per) = limits[usize::try_from(limit).unwrap() - 1];
            let kept: Vec<u64> = of.into_iter().filter(|one| one.1).map(|one| one.0).collect();
            for start in &kept {
                let window = kept.iter().filter(|at| (*start..start + per).contains(at));
                prop_assert!(window.count() <= count as usize);
            }
        }
    }
}
