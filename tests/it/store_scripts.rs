//! The scripts that replicas count by do what this process does by itself: the same histories, by a
//! clock that the test sets, on a real server.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use portcullis::identity::{Password, Subject as Caller};
use portcullis::limit::lockout::{Became, ClientTrust, Judged, Lockout, Setting};
use portcullis::limit::{Bucket, Quota, Quotas, Reservation, Source, Subject};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::Script;

use crate::support::redis::Redis;

const BEGUN: Duration = Duration::from_hours(500_000);

/// The script with a clock of the test's, in the last two arguments.
fn script(text: &str) -> Script {
    let clock = "redis.call('TIME')";
    assert_eq!(text.matches(clock).count(), 1, "{text}");
    Script::new(&text.replace(clock, "{ARGV[#ARGV - 1], ARGV[#ARGV]}"))
}

fn run(
    redis: &mut redis::Connection,
    script: &Script,
    now: Duration,
    keys: &[String],
    arguments: &[String],
) -> Vec<i64> {
    let mut invocation = script.prepare_invoke();
    for key in keys {
        invocation.key(key);
    }
    for argument in arguments {
        invocation.arg(argument);
    }
    let clock = BEGUN + now;
    invocation.arg(clock.as_secs()).arg(clock.subsec_micros());
    invocation.invoke(redis).unwrap()
}

fn words<const N: usize>(words: [&dyn std::fmt::Display; N]) -> Vec<String> {
    words.map(ToString::to_string).into()
}

fn runner() -> TestRunner {
    TestRunner::new(Config {
        cases: 100,
        failure_persistence: None,
        ..Config::default()
    })
}

#[tokio::test]
async fn pulls_are_counted_as_in_one_process() {
    let server = Redis::start().await;
    let take = script(include_str!("../../src/store/pull.lua"));
    let settle = script(include_str!("../../src/store/settle.lua"));
    let (redis, case) = (std::cell::RefCell::new(server.connect()), Cell::new(0));
    let steps = prop::collection::vec((0_u64..400, 0_u8..10, 0_u8..3), 1..120);
    // All times are even and the windows odd, so that nothing happens just at the end of one, where
    // the server's pulls of the same moment, told apart by their microsecond, end one after another.
    // They are long, because keys end by the server's own clock.
    let histories = (1_u32..6, 1_u64..1000, 0_u64..500, steps);
    let result = runner().run(&histories, |(count, per, free, steps)| {
        let mut redis = redis.borrow_mut();
        case.set(case.get() + 1);
        let per = Duration::from_millis(per * 200 + 60_001);
        let free = Duration::from_millis(free * 200 + 60_001);
        let bucket = Bucket {
            limit: 1,
            subject: Subject::Source(Source::of([192, 0, 2, 1].into())),
            quota: Quota { count, per },
        };
        let quotas = Quotas::new();
        let log = format!("{}:pulls", case.get());
        let image = |number: u8| format!("{}:image:{number}", case.get());
        let (window, lasts) = (per.as_micros(), free.as_micros());
        let mut held: Vec<(Reservation, i64)> = Vec::new();
        let mut now = Duration::from_secs(1);
        for (pause, what, number) in steps {
            now += Duration::from_millis(pause * 100);
            let digest = number.to_string();
            let keys = [log.clone(), image(number)];
            match what {
                0..=1 if !held.is_empty() => {
                    let (reservation, taken) = held.swap_remove(held.len() / 2);
                    let paid = what == 0;
                    let here = if paid {
                        reservation.settle(Some(&digest), free, now)
                    } else {
                        drop(reservation);
                        quotas.remaining(&bucket, now)
                    };
                    let word = if paid { "paid" } else { "none" };
                    let there = words([&word, &taken, &window, &count, &lasts]);
                    let there = run(&mut redis, &settle, now, &keys, &there);
                    // What is left of a pull that is paid is told when it was taken.
                    if there[0] == 2 {
                        prop_assert_eq!(i64::from(here), there[1]);
                    }
                }
                2 => {
                    let there = words([&"peek", &window, &count, &lasts]);
                    let there = run(&mut redis, &take, now, &keys, &there);
                    let here = i64::from(quotas.remaining(&bucket, now));
                    let is_free = quotas.is_repeat(&bucket, &digest, free, now);
                    prop_assert_eq!(there, [if is_free { 2 } else { 3 }, here]);
                }
                _ => {
                    let there = words([&"take", &window, &count, &"0"]);
                    let there = run(&mut redis, &take, now, &keys, &there);
                    match (quotas.reserve(bucket.clone(), now), &there[..]) {
                        (Ok(reservation), [1, remaining, taken]) => {
                            let left = i64::from(quotas.remaining(&bucket, now));
                            prop_assert_eq!(*remaining, left);
                            held.push((reservation, *taken));
                        }
                        (Err(full), [0, wait]) => {
                            let here = i64::try_from(full.wait.as_micros()).unwrap();
                            prop_assert!((here..here + 1000).contains(wait), "{here} {wait}");
                        }
                        (here, there) => {
                            prop_assert!(false, "here {} there {there:?}", here.is_ok());
                        }
                    }
                }
            }
        }
        Ok(())
    });
    result.unwrap();
    let endless: Vec<_> = server
        .keys()
        .into_iter()
        .filter(|(_, left)| *left < 0)
        .collect();
    assert!(endless.is_empty(), "{endless:?}");
}

#[tokio::test]
async fn wrong_passwords_are_counted_as_in_one_process() {
    let server = Redis::start().await;
    let begin = script(include_str!("../../src/store/begin.lua"));
    let end = script(include_str!("../../src/store/end.lua"));
    let (redis, case) = (std::cell::RefCell::new(server.connect()), Cell::new(0));
    // How long, which of three users, which of five passwords, and what comes of the attempt.
    let steps = prop::collection::vec((0_u64..20_000, 0_u8..3, 0_u8..5, 0_u8..12), 1..200);
    let histories = (1_u32..4, steps);
    let result = runner().run(&histories, |(count, steps)| {
        let mut redis = redis.borrow_mut();
        case.set(case.get() + 1);
        let per = Duration::from_mins(1);
        let setting = Setting { count, per };
        let factor = portcullis::limit::lockout::SOURCE_FACTOR;
        let from: IpAddr = [192, 0, 2, 1].into();
        let mut lockout = Lockout::new([7; 32]);
        let mut trying = Vec::new();
        let mut now = Duration::from_secs(100);
        let mut told = Vec::new();
        for (pause, user, password, what) in steps {
            now += Duration::from_millis(pause);
            let keys = |user: &str| {
                let pair = format!("{}:{user}", case.get());
                [
                    format!("{pair}:w"),
                    format!("{pair}:t"),
                    format!("{}:net", case.get()),
                ]
            };
            if what < 8 {
                let (user, tag) = (format!("user{user}"), format!("tag{password}"));
                let secret = Password::new(&tag).unwrap();
                let attempt = lockout
                    .attempt(
                        ClientTrust::Stranger,
                        &Caller::read(&user).unwrap(),
                        from,
                        &secret,
                    )
                    .unwrap();
                let here = lockout.begin(&attempt, setting, now);
                let there = words([&tag, &count, &per.as_millis(), &"60000"]);
                let there = run(&mut redis, &begin, now, &keys(&user), &there);
                match (here, &there[..]) {
                    (Ok(()), [0, _]) => trying.push((attempt, user, tag)),
                    (Err(wait), [1..=3, there]) => {
                        prop_assert_eq!(i64::try_from(wait.as_millis()).unwrap(), *there);
                    }
                    (here, there) => prop_assert!(false, "here {here:?} there {there:?}"),
                }
            } else if !trying.is_empty() {
                let (attempt, user, tag) = trying.swap_remove(trying.len() / 2);
                let (judged, word) = match what {
                    8 => (Judged::Right, "right"),
                    9 => (Judged::Unknown, "unknown"),
                    _ => (Judged::Wrong, "wrong"),
                };
                let changes = lockout.end(&attempt, judged, setting, now);
                let locked = changes
                    .iter()
                    .filter(|one| matches!(one.to, Became::Locked(_)));
                let locks = |user: bool| locked.clone().any(|one| one.user.is_some() == user);
                let millis = |locked| if locked { 60_000 } else { 0 };
                let here = [millis(locks(true)), millis(locks(false))];
                let there = words([&word, &tag, &count, &per.as_millis(), &factor, &"32"]);
                let there = run(&mut redis, &end, now, &keys(&user), &there);
                prop_assert_eq!(&there[..], here);
                told.extend(changes);
            }
        }
        Ok(())
    });
    result.unwrap();
    let endless: Vec<_> = server
        .keys()
        .into_iter()
        .filter(|(_, left)| *left < 0)
        .collect();
    assert!(endless.is_empty(), "{endless:?}");
}

/// With a lower factor for the network, and more passwords than are told apart.
#[tokio::test]
async fn a_network_is_locked_and_memory_is_bounded() {
    let server = Redis::start().await;
    let end = script(include_str!("../../src/store/end.lua"));
    let mut redis = server.connect();
    let keys = ["w", "t", "n"].map(str::to_owned);
    let mut wrong = |number: u32, count: u32, factor: u32| {
        let tag = format!("{number:016x}");
        let arguments = words([&"wrong", &tag, &count, &"60000", &factor, &"32"]);
        run(&mut redis, &end, Duration::from_secs(1), &keys, &arguments)
    };
    for number in 0..500 {
        assert_eq!(wrong(number, 1000, 1000), [0, 0], "{number}");
    }
    let fields: usize = redis::cmd("HLEN")
        .arg("w")
        .query(&mut server.connect())
        .unwrap();
    assert_eq!(fields, 3 + 32);
    // An old one is not remembered and counts anew; a late one does not.
    assert_eq!(wrong(499, 501, 1), [0, 0]);
    assert_eq!(wrong(0, 501, 1), [60_000, 60_000]);
    assert_eq!(wrong(1, 501, 1), [0, 0], "a lock is not made longer");
}
