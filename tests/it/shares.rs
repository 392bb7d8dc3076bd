//! What one caller can cost all others: nothing shared is taken without a source, and a source that
//! wants everything gets its share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::task::JoinSet;

use crate::support::lab::htpasswd;
use crate::support::process::free_port;
use crate::support::slapd::SlowDirectory;
use crate::support::{Client, Lab, Upstream, eventually, eventually_async};

const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\"]";
/// Every login costs a hash: of some 2 ms, on threads that give way to all others of a busy machine.
const NO_CACHE: &str = "[auth.cache]\nttl = \"0s\"\n";
const COST: u32 = 5;

/// A good many users with the same password.
fn users() -> String {
    let hash = bcrypt::hash("good", COST).unwrap();
    let users = (0..60).map(|number| format!("user{number}:{hash}\n"));
    htpasswd(&[("alice", "unused")]) + &users.collect::<String>()
}

async fn lab(server: &str) -> Lab {
    // Who is who does not depend on what stands behind.
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .server(server)
        .more(NO_CACHE)
        .file("htpasswd", users())
        .start()
        .await;
    drop(upstream);
    lab
}

/// Two sources that guess on 80 connections each, every time another name.
struct Guessers {
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicU32>,
    tasks: JoinSet<()>,
}

impl Guessers {
    /// `as_source` makes a client one of the two sources, and gives a header that says so.
    async fn start(as_source: impl Fn(u8) -> (Client, Option<String>)) -> Self {
        let mut guessers = Self {
            stop: Arc::default(),
            refused: Arc::default(),
            tasks: JoinSet::new(),
        };
        for number in 0..160_u8 {
            let (client, forwarded) = as_source(number % 2);
            let (stop, refused) = (Arc::clone(&guessers.stop), Arc::clone(&guessers.refused));
            guessers.tasks.spawn(async move {
                let mut connection = client.connect().await;
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    let guess = client.basic(&format!("u{number}-{turn}"), "wrong");
                    let mut call = guess.get("/v2/");
                    if let Some(from) = &forwarded {
                        call = call.header("x-forwarded-for", from);
                    }
                    match connection.try_send(call).await {
                        Ok(answer) if answer.status == 503 => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(_) => {}
                        Err(_) => connection = client.connect().await,
                    }
                }
            });
        }
        // The queue is full from here on.
        let refused = Arc::clone(&guessers.refused);
        eventually("a full queue", || {
            (refused.load(Ordering::Relaxed) > 20).then_some(())
        })
        .await;
        guessers
    }

    /// Ends them; whether the queue was full to the end.
    async fn stop(mut self, before: u32) {
        let after = self.refused.load(Ordering::Relaxed);
        assert!(after > before, "the guessers came to an end before");
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
    }

    fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// As many logins of as many users at a time, from one source; all are good.
async fn office(client: &Client, forwarded: Option<&str>, people: usize) {
    let mut logins = JoinSet::new();
    for number in 0..people {
        let mut call = client.basic(&format!("user{number}"), "good").get("/v2/");
        if let Some(from) = forwarded {
            call = call.header("x-forwarded-for", from);
        }
        logins.spawn(call.send());
    }
    while let Some(answer) = logins.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_that_guess_shut_out_no_good_login_from_elsewhere() {
    let lab = lab("").await;
    let client = lab.anonymous();
    let source = |number| client.out_of([127, 0, 0, 2 + number]);
    // Who has logged in from an address that is used to guess from is known there.
    let known = source(0).basic("user7", "good");
    assert_eq!(known.get("/v2/").send().await.status, 200);
    let guessers = Guessers::start(|number| (source(number), None)).await;
    let before = guessers.refused();
    let elsewhere = client.out_of([127, 0, 0, 9]);
    for _ in 0..8 {
        office(&elsewhere, None, 1).await;
    }
    for _ in 0..4 {
        assert_eq!(known.get("/v2/").send().await.status, 200);
    }
    guessers.stop(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_office_behind_one_address_logs_in_at_once() {
    let lab = lab("").await;
    office(&lab.anonymous(), None, 60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_balancer_the_clients_address_counts() {
    let lab = lab(TRUSTED).await;
    let balancer = lab.anonymous();
    let guesser = |number| (balancer.clone(), Some(format!("203.0.113.{number}")));
    let guessers = Guessers::start(guesser).await;
    let before = guessers.refused();
    for _ in 0..4 {
        office(&balancer, Some("198.51.100.7"), 6).await;
    }
    guessers.stop(before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_that_guess_shut_nobody_out_of_the_directory() {
    let directory = SlowDirectory::start().await;
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sections = format!(
        "[admin]\nlisten = \"{admin}\"\n\
         [auth.ldap]\nurls = [\"ldap://{}\"]\nplaintext = true\nuser_base = \"dc=example\"\n\
         user_filter = \"(uid={{username}})\"\ngroups = \"none\"\ntimeout = \"30s\"\n",
        directory.address
    );
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .order("[\"ldap\"]")
        .more(&sections);
    let lab = lab.start().await;
    let client = lab.anonymous();
    let waiting = async |number: usize| {
        let line = format!(
            "portcullis_shared_places{{resource=\"directory_binds\",state=\"waited_for\"}} {number}\n"
        );
        let scrape = || Client::plain(admin).get("/metrics").send();
        let is_so = async || scrape().await.text().contains(&line).then_some(());
        eventually_async(&line, is_so).await;
    };
    let mut guesses = JoinSet::new();
    // One source alone has all but the quarter for those who are known; then the other comes.
    for (source, number) in [(2, 0..40), (3, 40..80)] {
        for number in number {
            let guess = client.out_of([127, 0, 0, source]);
            guesses.spawn(
                guess
                    .basic(&format!("g{number}."), "wrong")
                    .get("/v2/")
                    .send(),
            );
        }
        let all = || (directory.binds().len() == 24).then_some(());
        eventually("24 binds of one source", all).await;
        waiting(if source == 2 { 16 } else { 56 }).await;
    }
    let elsewhere = client.out_of([127, 0, 0, 9]).basic("elsewhere", "pw");
    let elsewhere = tokio::spawn(elsewhere.get("/v2/").send());
    waiting(57).await;
    // Of the next two places the second source has one at the most.
    directory.gate.add_permits(2);
    let arrived = || {
        let binds = directory.binds();
        binds
            .iter()
            .any(|bind| bind.contains("elsewhere"))
            .then_some(())
    };
    eventually("the bind of who comes from elsewhere", arrived).await;
    assert!(directory.binds().len() <= 26);
    directory.gate.add_permits(1000);
    assert_eq!(elsewhere.await.unwrap().status, 401);
    while let Some(answer) = guesses.join_next().await {
        assert_eq!(answer.unwrap().status, 401);
    }
}

#[tokio::test]
async fn a_directory_that_is_slow_to_refuse_is_there_for_all_others() {
    let directory = SlowDirectory::start().await;
    let section = format!(
        "[auth.ldap]\nurls = [\"ldap://{}\"]\nplaintext = true\nuser_base = \"dc=example\"\n\
         user_filter = \"(uid={{username}})\"\ngroups = \"none\"\ntimeout = \"1s\"\n",
        directory.address
    );
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url());
    let lab = lab.order("[\"ldap\"]").more(&section).start().await;
    // The directory takes longer than there is time to say that a password is wrong.
    let guess = lab.anonymous().basic("guesser", "wrong").get("/v2/");
    let answer = guess.send().await;
    answer.assert_problem(503, "UNAVAILABLE");
    assert_eq!(directory.binds().len(), 1);
    // It is asked for the next one all the same: for as many as give up and one more.
    directory.gate.add_permits(2);
    let other = lab.anonymous().basic("other", "pw").get("/v2/");
    assert_eq!(other.send().await.status, 401);
    assert_eq!(directory.binds().len(), 2);
}
