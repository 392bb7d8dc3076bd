//! Shares, runs and names.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::string_slice,
    reason = "small numbers and ASCII, of tests alone"
)]

use std::net::IpAddr;
use std::time::Duration;

use super::{FIRST, KNOWN, Named, Refusal, SAMPLE, Suppressed, Suppressor, Verdict, WINDOW};
use crate::audit::{Event, Outcome};

const BYTES: u64 = 1024;

fn refusal(client: IpAddr) -> Refusal<'static> {
    Refusal {
        client,
        event: Event::Login,
        outcome: Outcome::Failed,
        status: Some(401),
        is_anonymous: false,
        reference: "FIRST0",
        user: None,
        repository: None,
        reason: Some("wrong password"),
        bytes: BYTES,
        is_one_of_many: false,
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn second(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// Refuses until something is counted; how many had a record of their own.
fn until_counted(to: &mut Suppressor, client: IpAddr, now: Duration) -> u64 {
    let mut alone = 0;
    while to.judge(&refusal(client), now) == Verdict::Record {
        alone += 1;
        assert!(alone < 1_000_000);
    }
    alone
}

fn named(name: &str, exists: bool) -> Named<'_> {
    Named { name, exists }
}

#[test]
fn a_source_has_a_burst_and_then_a_rate_and_the_rest_is_counted() {
    let mut to = Suppressor::new(1);
    let client = address("192.0.2.7");
    let burst = until_counted(&mut to, client, second(0));
    assert_eq!(burst, (64 << 10) / BYTES);
    assert!(to.take(Some(second(9))).is_empty());
    let told = to.take(Some(WINDOW));
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].count, &*told[0].reference), (1, "FIRST0"));
    assert_eq!(told[0].reasons, [("wrong password".to_owned(), 1)]);
    // Ten seconds later there is room for what they bring.
    let later = until_counted(&mut to, client, second(10));
    assert_eq!(later, (2 << 10) * 10 / BYTES);
    // Another source is not concerned.
    let other = until_counted(&mut to, address("192.0.2.8"), second(10));
    assert_eq!(other, burst);
}

#[test]
fn neighbours_of_one_customer_share() {
    let mut to = Suppressor::new(1);
    let burst = until_counted(&mut to, address("2001:db8:1:100::1"), second(0));
    for same in [
        "2001:db8:1:100::2",
        "2001:db8:1:101::1",
        "2001:db8:1:ff00::1",
    ] {
        assert_eq!(
            until_counted(&mut to, address(same), second(0)),
            0,
            "{same}"
        );
    }
    let other = until_counted(&mut to, address("2001:db8:2::1"), second(0));
    assert_eq!(other, burst);
}

#[test]
fn all_sources_together_have_a_share_and_no_more_memory_than_that() {
    let mut to = Suppressor::new(1);
    let mut alone = 0;
    for number in 0..100_000_u32 {
        let client = IpAddr::V4(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
        alone += u64::from(to.judge(&refusal(client), second(0)) == Verdict::Record);
    }
    assert_eq!(alone, (1 << 20) / BYTES);
    let told = to.take(None);
    let counted: u64 = told.iter().map(|told| told.count).sum();
    assert_eq!(alone + counted, 100_000);
    assert!(told.len() <= super::RUNS + 1);
    assert!(told.iter().any(|told| told.kind.source.is_none()));
}

#[test]
fn what_exists_is_always_named_and_of_the_rest_the_first_and_some() {
    let mut to = Suppressor::new(7);
    let client = address("192.0.2.7");
    until_counted(&mut to, client, second(0));
    for number in 0..1000 {
        let (user, repository) = (format!("u{number}"), format!("r/{number}"));
        let one = Refusal {
            user: Some(named(&user, false)),
            repository: Some(named(&repository, number == 777)),
            ..refusal(client)
        };
        to.judge(&one, second(0));
    }
    let alice = Refusal {
        user: Some(named("alice", true)),
        ..refusal(client)
    };
    for _ in 0..3 {
        to.judge(&alice, second(0));
    }
    let told = to.take(None).remove(0);
    assert_eq!(told.count, 1 + 1000 + 3);
    assert_eq!(told.users.len(), 1 + FIRST + SAMPLE);
    let first: Vec<_> = (0..FIRST).map(|number| format!("u{number}")).collect();
    assert_eq!(told.users[0], "alice");
    assert_eq!(told.users[1..=FIRST], first);
    assert_eq!(told.repositories[0], "r/777");
    assert_eq!(told.repositories.len(), 1 + FIRST + SAMPLE);
    // The sample is from the whole run, not from its beginning.
    let late = |name: &&String| name[1..].parse::<u32>().is_ok_and(|number| number >= 100);
    assert!(
        told.users.iter().filter(late).count() > 0,
        "{:?}",
        told.users
    );
}

#[test]
fn a_record_with_many_existing_names_is_written_and_another_begun() {
    let mut to = Suppressor::new(7);
    let client = address("192.0.2.7");
    until_counted(&mut to, client, second(0));
    let mut full: Vec<Suppressed> = Vec::new();
    for number in 0..3 * KNOWN {
        let name = format!("team/{number}");
        let one = Refusal {
            repository: Some(named(&name, true)),
            ..refusal(client)
        };
        if let Verdict::Suppress {
            full: Some(told), ..
        } = to.judge(&one, second(0))
        {
            full.push(*told);
        }
    }
    full.extend(to.take(None));
    let names: std::collections::BTreeSet<_> =
        full.iter().flat_map(|told| &told.repositories).collect();
    assert_eq!(names.len(), 3 * KNOWN);
    assert!(full.iter().all(|told| told.repositories.len() <= KNOWN));
}

#[test]
fn challenges_are_counted_for_a_minute_and_cost_no_share() {
    let mut to = Suppressor::new(7);
    let client = address("192.0.2.7");
    let challenge = Refusal {
        event: Event::Request,
        outcome: Outcome::Challenged,
        is_one_of_many: true,
        ..refusal(client)
    };
    for _ in 0..100 {
        assert!(matches!(
            to.judge(&challenge, second(0)),
            Verdict::Suppress { full: None, .. }
        ));
    }
    assert!(to.take(Some(second(59))).is_empty());
    assert_eq!(to.take(Some(second(60)))[0].count, 100);
    let burst = until_counted(&mut to, client, second(0));
    assert_eq!(burst, (64 << 10) / BYTES);
}

#[test]
fn who_is_permitted_more_than_the_trail_can_take_waits() {
    let mut to = Suppressor::new(7);
    let client = address("2001:db8::1");
    to.charge(client, 8 << 20, second(0));
    assert_eq!(to.debt(client, second(0)), Duration::ZERO);
    to.charge(client, 8 << 20, second(0));
    assert_eq!(to.debt(client, second(0)), second(1));
    assert_eq!(to.debt(address("2001:db8::2"), second(0)), second(1));
    assert_eq!(
        to.debt(address("2001:db8:0:1::1"), second(0)),
        Duration::ZERO
    );
    assert_eq!(to.debt(client, second(1)), Duration::ZERO);
}

#[test]
fn those_without_a_credential_are_counted_apart_from_guesses() {
    let mut to = Suppressor::new(1);
    let client = address("192.0.2.7");
    let anonymous = Refusal {
        is_anonymous: true,
        is_one_of_many: true,
        ..refusal(client)
    };
    let guess = Refusal {
        is_one_of_many: true,
        ..refusal(client)
    };
    for one in [&anonymous, &guess, &anonymous] {
        to.judge(one, second(0));
    }
    let told: Vec<_> = to
        .take(None)
        .iter()
        .map(|run| (run.count, run.fields().auth))
        .collect();
    assert_eq!(told.len(), 2);
    assert!(told.contains(&(2, Some("anonymous"))), "{told:?}");
    assert!(told.contains(&(1, None)), "{told:?}");
}
