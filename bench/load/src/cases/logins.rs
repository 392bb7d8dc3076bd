//! Logins: the first one with each password, those after it, and guesses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::HeaderValue;
use http_body_util::BodyExt as _;

use super::{Arena, Caller, Case, Goal, Limit, STUB, Values, Work, at_most, named, token_call};
use crate::client::{Call, Http, basic};
use crate::fleet::{Fleet, Supply};
use crate::lab::{FILE_USERS, LDAP_USERS, PASSWORD};
use crate::paced::{Cut, paced};
use crate::peers::{Peer, Running};
use crate::stub::Sent;

const WIDTH: usize = 8;
/// First logins that are measured: each hash takes 50 ms of a processor.
const FIRST_FILE_LOGINS: usize = 40;
const FIRST_LDAP_LOGINS: usize = 500;
const GUESSERS: u64 = 24;
const RATE: u32 = 200;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    File,
    Directory,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    Cold,
    Warm,
}

pub(super) fn cases() -> Vec<Case> {
    let case = |id, title, work, goals, entries| Case {
        group: "login",
        id,
        title,
        metrics: &["cpu_us", "per_second", "of_bound"],
        entries,
        goals,
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "",
        work,
    };
    let ours = |traits| named("portcullis", Peer::Portcullis, STUB, traits, Caller::Silent);
    let nginx = || named("nginx", Peer::Nginx, STUB, &["bcrypt"], Caller::Silent);
    let bounded = || vec![at_most("of_bound", 1.15)];
    vec![
        Case {
            note: "Ours is a whole token; nginx hashes at each request. `of bcrypt` divides by the \
                   time of one hash alone, measured in the same repeat.",
            ..case(
                "login-bcrypt-cold",
                "first login, bcrypt of cost 10",
                Work::Logins(Backend::File, Cache::Cold),
                bounded(),
                vec![ours(&["bcrypt"]), nginx()],
            )
        },
        case(
            "login-bcrypt-warm",
            "login again, bcrypt of cost 10",
            Work::Logins(Backend::File, Cache::Warm),
            Vec::new(),
            vec![ours(&["bcrypt"])],
        ),
        case(
            "login-ldap-cold",
            "first login, LDAP over TLS (slapd)",
            Work::Logins(Backend::Directory, Cache::Cold),
            Vec::new(),
            vec![ours(&["ldap"])],
        ),
        case(
            "login-ldap-warm",
            "login again, LDAP",
            Work::Logins(Backend::Directory, Cache::Warm),
            Vec::new(),
            vec![ours(&["ldap"])],
        ),
        guessing(),
    ]
}

fn guessing() -> Case {
    Case {
        group: "guessing",
        id: "guessing",
        title: "manifest GETs of others while 24 clients guess passwords",
        metrics: &["busy_p50_us", "p50_us", "busy_p99_us", "guesses_per_second"],
        entries: vec![
            named(
                "portcullis",
                Peer::Portcullis,
                STUB,
                &["bcrypt", "proxied"],
                Caller::Token,
            ),
            named("nginx", Peer::Nginx, STUB, &["bcrypt"], Caller::Basic),
        ],
        goals: vec![Goal {
            entry: "portcullis",
            metric: "busy_p50_us",
            limit: Limit::Ratio(1.0),
        }],
        reference: "nginx",
        most_repeats: usize::MAX,
        note: "bcrypt of cost 10. Every guess comes from another address, so that no lock-out ends it; the others' own \
               password costs nginx nothing.",
        work: Work::Guessing,
    }
}

pub(super) async fn run(arena: &Arena<'_>, backend: Backend, cache: Cache) -> Result<Values> {
    let running = arena.running()?;
    let supply = supply(arena, running, backend, cache)?;
    let dial = running.route.dial(Http::One);
    let mut fleet = Fleet::open(&dial, Http::One, WIDTH).await?;
    let time = match cache {
        Cache::Warm => {
            fleet.run(Duration::from_millis(200), &supply).await?;
            arena.bench.time
        }
        // Until there is nobody left to log in.
        Cache::Cold => Duration::from_mins(1),
    };
    let (done, cost) = arena.measure(running, fleet.run(time, &supply)).await?;
    let mut values = cost.each(&done);
    if (backend, cache) == (Backend::File, Cache::Cold) {
        values.insert("of_bound", values["cpu_us"] / bcrypt_us().await?);
    }
    Ok(values)
}

/// Logins of users nobody has seen, or of one user again and again.
fn supply(
    arena: &Arena<'_>,
    running: &Running,
    backend: Backend,
    cache: Cache,
) -> Result<Arc<dyn Supply>> {
    let lab = &arena.bench.lab;
    let (prefix, next, all, count) = match backend {
        Backend::File => ("user", &lab.next_file_user, FILE_USERS, FIRST_FILE_LOGINS),
        Backend::Directory => ("person", &lab.next_ldap_user, LDAP_USERS, FIRST_LDAP_LOGINS),
    };
    let peer = arena.entry.peer;
    let call = if peer == Peer::Portcullis {
        token_call(running, "someone")
    } else {
        Call::get("/v2/")
    };
    let login = move |user: usize| {
        call.clone()
            .with(basic(&format!("{prefix}-{user}"), PASSWORD))
    };
    if cache == Cache::Warm {
        let call = login(all - 1);
        return Ok(Arc::new(move || Some(call.clone())));
    }
    let first = next.fetch_add(count, Ordering::Relaxed);
    ensure!(first + count < all, "all users have logged in");
    let (end, next) = (first + count, AtomicUsize::new(first));
    Ok(Arc::new(move || {
        let user = next.fetch_add(1, Ordering::Relaxed);
        (user < end).then(|| login(user))
    }))
}

/// Processor time of one hash alone.
async fn bcrypt_us() -> Result<f64> {
    tokio::task::spawn_blocking(|| {
        let before = thread_cpu()?;
        for _ in 0..4 {
            bcrypt::hash(PASSWORD, 10)?;
        }
        Ok((thread_cpu()? - before) / 4.0 / 1e3)
    })
    .await?
}

/// Of the thread that asks, in nanoseconds.
fn thread_cpu() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text
        .split(' ')
        .next()
        .context("an empty schedstat")?
        .parse()?)
}

pub(super) async fn guess(arena: &Arena<'_>) -> Result<Values> {
    let running = arena.running()?;
    let call = Call::manifest(&arena.bench.lab.content);
    let call = call.with(arena.authorization(running).await?);
    let quiet = paced(
        &running.route,
        RATE,
        arena.bench.time,
        &call,
        Cut::IsAnError,
    )
    .await?;
    let guesses = Arc::new(AtomicU64::new(0));
    let mut attackers = tokio::task::JoinSet::new();
    for number in 0..GUESSERS {
        let (dial, guesses) = (running.route.dial(Http::One), Arc::clone(&guesses));
        attackers.spawn(async move {
            let mut connection = dial.connect().await?;
            for guess in 0.. {
                guess_once(&mut connection, number, guess).await?;
                guesses.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let begun = Instant::now();
    let busy = paced(
        &running.route,
        RATE,
        arena.bench.time * 3,
        &call,
        Cut::IsAnError,
    )
    .await?;
    let per_second = guesses.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    if let Some(ended) = attackers.try_join_next() {
        ended??;
    }
    attackers.shutdown().await;
    Ok(Values::from([
        ("p50_us", quiet.us(0.5)),
        ("busy_p50_us", busy.us(0.5)),
        ("busy_p99_us", busy.us(0.99)),
        ("guesses_per_second", per_second),
    ]))
}

/// A wrong password of some user, from some address. It may be refused in any way.
async fn guess_once(
    connection: &mut crate::client::Connection,
    number: u64,
    guess: u64,
) -> Result<()> {
    let [.., a, b, c] = (guess * GUESSERS + number).to_be_bytes();
    let user = format!("user-{}", (guess * GUESSERS + number) % FILE_USERS as u64);
    let mut call = Call::get("/v2/").with(basic(&user, &format!("wrong-{number}-{guess}")));
    call.forwarded_for = HeaderValue::from_str(&format!("10.{a}.{b}.{c}")).ok();
    let response = connection
        .open(&call, Sent::whole(bytes::Bytes::new()))
        .await?;
    let status = response.status().as_u16();
    response.into_body().collect().await?;
    ensure!(
        matches!(status, 401 | 429 | 503),
        "a guess was answered with {status}"
    );
    Ok(())
}
