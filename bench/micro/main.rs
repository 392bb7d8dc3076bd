//! What one request costs, step by step, without sockets: `make bench`.

mod limits;
mod trail;

use std::net::{IpAddr, Ipv4Addr};

use divan::{Bencher, black_box};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use portcullis::identity::{Identity, Presented, Subject};
use portcullis::policy::{AccessRule, Pattern, Place, Policy, Who};
use portcullis::registry::{Action, Call, RepoName};
use portcullis::token::{Claims, Keys, Kind};

const BLOB: &str = "/v2/team-7/app/blobs/sha256:\
                    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn main() {
    // First, while nothing has been freed that could be taken again.
    let memory = limits::memory_of_a_million();
    divan::main();
    limits::tell(&memory);
}

#[divan::bench]
fn parse_a_call() -> Option<Call> {
    Call::parse(black_box(&Method::GET), black_box(BLOB), None).ok()
}

#[divan::bench]
fn parse_and_write_a_call(bencher: Bencher<'_, '_>) {
    bencher.bench(|| Call::parse(&Method::GET, black_box(BLOB), None).map(|call| call.target()));
}

#[divan::bench]
fn read_basic_credentials(bencher: Bencher<'_, '_>) {
    let mut headers = HeaderMap::new();
    headers.insert(
        AUTHORIZATION,
        HeaderValue::from_static("Basic YWxpY2U6c2VjcmV0"),
    );
    bencher.bench(|| Presented::from_headers(black_box(&headers)));
}

/// Rules for as many teams as there are rules; the caller is in one of them.
fn policy(rules: usize) -> Policy {
    let access = (0..rules).map(|team| AccessRule {
        place: Place(format!("portcullis.toml:{team}").into()),
        repositories: Pattern::parse(&format!("team-{team}/**"))
            .into_iter()
            .collect(),
        who: Subject::read(&format!("user-{team}"))
            .into_iter()
            .map(Who::User)
            .collect(),
        actions: vec![Action::Pull, Action::Push],
        networks: Vec::new(),
        require: Vec::new(),
        not_after: None,
    });
    Policy::new(
        access.collect(),
        Vec::new(),
        std::collections::HashMap::new(),
    )
}

#[divan::bench(args = [10, 1_000, 10_000, 100_000])]
fn decide(bencher: Bencher<'_, '_>, rules: usize) {
    let policy = policy(rules);
    let who =
        Subject::read("user-7").map_or(Identity::anonymous(), |who| Identity::supposed(who, &[]));
    let (now, name) = (Timestamp::now(), RepoName::parse("team-7/app"));
    bencher.bench(|| {
        let name = name.as_ref()?;
        Some(policy.allows(black_box(&who), HOME, Action::Pull, name, now))
    });
}

fn keys() -> Option<Keys> {
    portcullis::reload::spare_key()
        .ok()
        .and_then(|der| Keys::new(&der).ok())
}

fn claims(number: u64) -> Claims {
    Claims {
        iss: "portcullis".to_owned(),
        sub: "alice".to_owned(),
        who: Some("person".to_owned()),
        aud: "localhost".to_owned(),
        exp: i64::MAX,
        nbf: 0,
        iat: 0,
        jti: number.to_string(),
        kind: Kind::Access,
        access: Vec::new(),
        credential: None,
        cnf: None,
        session: None,
        auth_time: None,
    }
}

#[divan::bench]
fn verify_a_token_seen_before(bencher: Bencher<'_, '_>) {
    let keys = keys();
    let token = keys
        .as_ref()
        .and_then(|keys| keys.mint(&claims(0)).ok())
        .unwrap_or_default();
    let now = Timestamp::now();
    bencher.bench(|| {
        keys.as_ref().map(|keys| {
            keys.verify(&token, Kind::Access, "localhost", &[now])
                .is_ok()
        })
    });
}

#[divan::bench]
fn verify_a_new_token(bencher: Bencher<'_, '_>) {
    let keys = keys();
    let mut number = 0;
    let now = Timestamp::now();
    let fresh = || {
        number = u64::wrapping_add(number, 1);
        keys.as_ref()
            .and_then(|keys| keys.mint(&claims(number)).ok())
            .unwrap_or_default()
    };
    bencher.with_inputs(fresh).bench_local_values(|token| {
        keys.as_ref().map(|keys| {
            keys.verify(&token, Kind::Access, "localhost", &[now])
                .is_ok()
        })
    });
}

#[divan::bench]
fn mint_a_token(bencher: Bencher<'_, '_>) {
    let (keys, claims) = (keys(), claims(0));
    bencher.bench(|| keys.as_ref().map(|keys| keys.mint(&claims).is_ok()));
}
