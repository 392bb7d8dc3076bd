use super::{Gathered, Period};
use crate::audit::{Entry, Flaw};

fn entry(time: &str, fields: &str) -> Entry {
    let line = format!("{{\"time\":\"{time}\",{fields}}}");
    Entry::parse(line.as_bytes()).unwrap_or_else(|flaw| panic!("{flaw}: {line}"))
}

fn gathered(entries: &[&str]) -> Gathered {
    let mut all = Gathered::new(Period::default());
    for (number, fields) in entries.iter().enumerate() {
        all.add(&entry(&format!("2026-01-01T00:00:{number:02}Z"), fields));
    }
    all
}

const LOGIN: &str = r#""event":"token","outcome":"allowed","user":"alice","auth":"htpasswd","client":"10.1.2.3","status":200"#;
const PULL: &str = r#""event":"request","outcome":"allowed","user":"alice","auth":"token","client":"10.1.2.9","method":"GET","object":"manifest","action":"pull","repository":"team-a/app","rule":"p:1","status":200,"bytes_out":500"#;
const BLOB: &str = r#""event":"request","outcome":"allowed","user":"alice","auth":"token","client":"10.1.2.9","method":"GET","object":"blob","action":"pull","repository":"team-a/app","rule":"p:1","status":200,"bytes_out":7000"#;
const GUESS: &str = r#""event":"login","outcome":"failed","user":"alice","client":"192.0.2.7","status":401,"reason":"wrong password"#;
const DENIED: &str = r#""event":"request","outcome":"denied","user":"bob","auth":"token","client":"2001:db8::1","action":"push","repository":"team-a/app","status":403,"reason":"no rule allows push","ref":"LAST01""#;
const CHALLENGE: &str = r#""event":"request","outcome":"failed","auth":"anonymous","client":"10.1.2.3","status":401,"reason":"no credential","repository":"made/up""#;

#[test]
fn users_are_those_found_out_and_guesses_are_refusals() {
    let guess = format!("{GUESS}\"");
    let all = gathered(&[LOGIN, PULL, BLOB, &guess, &guess, DENIED, CHALLENGE]);
    let users = all.users.top(9);
    let alice = users.rows[0].1;
    assert_eq!(users.rows[0].0.as_deref(), Some("alice"));
    assert_eq!((alice.logins, alice.counts.total()), (1, 3));
    assert_eq!((alice.counts.failed, alice.traffic.pulls), (0, 1));
    assert_eq!(alice.traffic.bytes_out, 7500);
    let methods: Vec<_> = alice.methods.iter().map(String::as_str).collect();
    assert_eq!(methods, ["htpasswd", "token"]);
    assert_eq!(users.rows.len(), 2, "the challenge is nobody");

    let refusals = all.refusals.top(9);
    let (what, sum) = refusals.rows[0];
    assert_eq!((what.reason.as_str(), sum.count), ("wrong password", 2));
    assert_eq!(what.network.unwrap().to_string(), "192.0.2.0/24");
    let (what, sum) = refusals.rows[1];
    assert_eq!(what.network.unwrap().to_string(), "2001:db8::/64");
    assert_eq!(sum.reference, "LAST01");
    assert_eq!(refusals.rows.len(), 2);

    assert_eq!((all.records, all.logins, all.challenges), (7, 1, 1));
    assert_eq!(all.counts.total() + all.challenges, all.records);
    assert_eq!(all.last_use["alice"].to_string(), "2026-01-01T00:00:02Z");
    assert_eq!(all.last_use["bob"].to_string(), "2026-01-01T00:00:05Z");
}

#[test]
fn what_leads_to_a_token_is_neither_a_wrong_credential_nor_a_denial() {
    let anonymous_token = r#""event":"token","outcome":"allowed","auth":"anonymous","client":"10.1.2.3","status":200"#;
    let with_it = r#""event":"request","outcome":"failed","auth":"anonymous","client":"10.1.2.3","status":401,"reason":"anonymous, and a user is needed""#;
    let many = r#""event":"suppressed","outcome":"failed","auth":"anonymous","client":"10.1.2.3","status":401,"count":7,"schema":2"#;
    let step_up = r#""event":"request","outcome":"denied","user":"alice","auth":"token","client":"10.1.2.3","action":"push","repository":"team-a/app","status":401,"reason":"token not minted for this""#;
    let steps = r#""event":"suppressed","outcome":"denied","client":"10.1.2.3","status":401,"count":5,"schema":2"#;
    let all = gathered(&[anonymous_token, with_it, many, step_up, steps]);
    assert_eq!((all.challenges, all.logins), (14, 0));
    assert_eq!((all.counts.failed, all.counts.denied), (0, 0));
    assert_eq!((all.counts.allowed, all.counts.total()), (1, 1));
    assert!(all.refusals.top(9).rows.is_empty());
    assert!(all.repositories.top(9).rows.is_empty());
    assert!(all.last_use.contains_key("alice"));
}

#[test]
fn repositories_are_those_somebody_was_in_or_a_user_was_kept_out_of() {
    let all = gathered(&[PULL, BLOB, DENIED, CHALLENGE]);
    let repositories = all.repositories.top(9);
    assert_eq!(repositories.rows.len(), 1, "made-up names are not shown");
    let (name, sum) = repositories.rows[0];
    assert_eq!(name, "team-a/app");
    assert_eq!((sum.requests, sum.denied, sum.traffic.pulls), (2, 1, 1));
}

#[test]
fn suppressed_records_are_as_many_as_they_stand_for() {
    let flood = r#""event":"suppressed","outcome":"limited","client":"10.9.9.9","status":429,"count":400,"reason":"400 requests over requests_per_second turned away""#;
    let all = gathered(&[flood, &flood.replace("400", "17"), PULL]);
    assert_eq!((all.records, all.suppressed), (3, 417));
    assert_eq!((all.counts.limited, all.counts.total()), (417, 418));
    let refusals = all.refusals.top(9);
    assert_eq!((refusals.rows.len(), refusals.rows[0].1.count), (1, 417));
    assert_eq!(
        refusals.rows[0].0.reason,
        "requests over requests_per_second turned away"
    );
    let (_, slices) = all.timeline.whole(9);
    assert_eq!(slices[0].1.counts.total(), 418);
    assert_eq!(all.networks.top(1).rows[0].1.counts.limited, 417);
}

#[test]
fn a_period_begins_with_its_first_moment_and_ends_before_its_last() {
    let time = |text: &str| Some(text.parse().unwrap());
    let mut all = Gathered::new(Period {
        since: time("2026-01-02T00:00:00Z"),
        until: time("2026-01-03T00:00:00Z"),
    });
    for day in [
        "2026-01-01T23:59:59Z",
        "2026-01-02T00:00:00Z",
        "2026-01-02T23:59:59.999999Z",
        "2026-01-03T00:00:00Z",
    ] {
        all.add(&entry(day, LOGIN));
    }
    assert_eq!((all.records, all.outside, all.logins), (2, 2, 2));
}

#[test]
fn events_of_the_proxy_itself_are_no_requests() {
    let all = gathered(&[
        r#""event":"start","outcome":"allowed""#,
        r#""event":"reload","outcome":"error","reason":"x""#,
        r#""event":"lockout","outcome":"limited","user":"alice","client":"192.0.2.7""#,
        r#""event":"lockout","outcome":"allowed","user":"alice","client":"192.0.2.7""#,
        r#""event":"checkpoint","outcome":"allowed""#,
    ]);
    assert_eq!((all.records, all.counts.total(), all.lockouts), (5, 0, 1));
    assert_eq!(all.kinds.len(), 5);
    assert!(all.users.top(9).rows.is_empty());
}

#[test]
fn places_of_flaws_are_named_as_long_as_there_are_few() {
    let mut all = Gathered::new(Period::default());
    for line in 1..=20 {
        all.skip("a.jsonl", line, Flaw::Torn);
    }
    all.skip("a.jsonl", 21, Flaw::Foreign);
    assert_eq!((all.skipped.torn, all.skipped.foreign), (20, 1));
    assert_eq!(all.skipped.places.len(), 5);
    assert_eq!(all.skipped.places[1], "a.jsonl:2: torn or damaged");
}

#[test]
fn an_attackers_names_leave_the_memory_and_the_users_alone() {
    let mut all = Gathered::new(Period::default());
    for number in 0..50_000 {
        let fields = format!(
            "\"event\":\"login\",\"outcome\":\"failed\",\"user\":\"u{number}\",\
             \"client\":\"192.0.{}.7\",\"reason\":\"unknown user\"",
            number % 250
        );
        all.add(&entry("2026-01-01T00:00:00Z", &fields));
    }
    all.add(&entry("2026-01-01T00:00:01Z", LOGIN));
    assert_eq!(all.users.top(9).rows.len(), 1);
    let top = all.refusals.top(1);
    let named: u64 = top.rows.iter().map(|(_, sum)| sum.count).sum();
    assert_eq!(named + top.rest.count, 50_000);
}
