//! Those who mean harm: junk, slow heads, guesses, floods of resets, half-open handshakes and
//! transfers that are broken off. None of them may ever be told anything good.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::book::Book;
use crate::support::chance::Chance;
use crate::support::http::{Client, Http, Outgoing};
use crate::support::image::noise;
use crate::support::world::World;

/// How often each kind was tried.
#[derive(Default)]
pub(super) struct Tried([AtomicU64; KINDS.len()]);

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Bytes that are neither TLS nor HTTP.
    Junk,
    /// Bytes that are no HTTP, within TLS.
    JunkInside,
    /// A head that never ends.
    SlowHead,
    /// Wrong passwords, each another one.
    Guess,
    /// HTTP/2 requests that are reset as soon as they are sent.
    Resets,
    /// A handshake that goes no further.
    HalfOpen,
    /// A push that is broken off.
    BrokenPush,
    /// A pull that is broken off.
    BrokenPull,
}

const KINDS: [Kind; 8] = [
    Kind::Junk,
    Kind::JunkInside,
    Kind::SlowHead,
    Kind::Guess,
    Kind::Resets,
    Kind::HalfOpen,
    Kind::BrokenPush,
    Kind::BrokenPull,
];

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, count) in KINDS.iter().zip(&self.0) {
            write!(f, "{kind:?} {} ", count.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

/// Long enough for whatever cuts an attacker off.
const LONG: Duration = Duration::from_secs(20);
/// Between two attacks of one attacker: they are many kinds, and share the machine with clients.
const PAUSE: Duration = Duration::from_millis(30);

struct Attacker {
    anonymous: Client,
    alice: Client,
    large: String,
    book: Arc<Book>,
    chance: Chance,
    guesses: u64,
}

/// One attacker of each kind, from addresses of their own.
pub(super) fn start(world: &World, seed: u64) -> (Vec<JoinHandle<()>>, Arc<Tried>) {
    let tried: Arc<Tried> = Arc::default();
    let attack = |(number, kind): (usize, Kind)| {
        let source = [127, 6, 6, u8::try_from(number + 1).unwrap()];
        let mut attacker = Attacker {
            anonymous: world.lab.anonymous().out_of(source),
            alice: world.lab.user("alice").out_of(source),
            large: world.book.large().unwrap().path,
            book: Arc::clone(&world.book),
            chance: Chance::of(seed, 2000 + number as u64),
            guesses: 0,
        };
        let tried = Arc::clone(&tried);
        tokio::spawn(async move {
            while !attacker.book.stopping() {
                // That it failed is what it deserves.
                let attempt = Box::pin(attacker.attack(kind));
                drop(tokio::time::timeout(LONG, attempt).await);
                tried.0[number].fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        })
    };
    let tasks = KINDS.into_iter().enumerate().map(attack).collect();
    (tasks, tried)
}

impl Attacker {
    async fn attack(&mut self, kind: Kind) -> Option<()> {
        match kind {
            Kind::Junk => self.junk().await,
            Kind::JunkInside => self.junk_inside().await,
            Kind::SlowHead => self.slow_head().await,
            Kind::Guess => self.guess().await,
            Kind::Resets => self.resets().await,
            Kind::HalfOpen => self.half_open().await,
            Kind::BrokenPush => self.broken_push().await,
            Kind::BrokenPull => self.broken_pull().await,
        }
    }

    async fn junk(&mut self) -> Option<()> {
        let mut stream = TcpStream::connect(self.anonymous.address).await.ok()?;
        let bytes = noise(self.chance.next(), self.chance.between(1, 4000));
        stream.write_all(&bytes).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        self.suspect("junk", &answer);
        Some(())
    }

    async fn junk_inside(&mut self) -> Option<()> {
        let mut stream = self.anonymous.raw().await.ok()?;
        let mut bytes = noise(self.chance.next(), self.chance.between(1, 4000)).to_vec();
        if self.chance.percent(50) {
            bytes.splice(
                ..0,
                *b"GET /v2/team-a/app/tags/list HTTP/1.1\r\nHost: localhost\r\nX: ",
            );
        }
        stream.write_all(&bytes).await.ok()?;
        stream.write_all(b"\r\n\r\n").await.ok()?;
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        self.suspect("junk within TLS", &answer);
        Some(())
    }

    async fn slow_head(&mut self) -> Option<()> {
        let mut stream = self.anonymous.raw().await.ok()?;
        stream
            .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n")
            .await
            .ok()?;
        while !self.book.stopping() {
            stream.write_all(b"X-Slow: 1\r\n").await.ok()?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Some(())
    }

    async fn guess(&mut self) -> Option<()> {
        let user = *self.chance.pick(&["ada", "mona", "frank", "nobody"]);
        self.guesses += 1;
        let guess = self
            .anonymous
            .basic(user, &format!("guess-{}", self.guesses));
        let answer = guess.get("/v2/").try_send().await.ok()?;
        if !matches!(answer.status, 401 | 429) {
            self.book.wrong(format!("a guess at {user}: {answer:?}"));
        }
        Some(())
    }

    async fn resets(&mut self) -> Option<()> {
        let client = self.anonymous.over(Http::Two);
        let mut connection = client.try_connect().await.ok()?;
        for _ in 0..200 {
            if connection.is_closed() {
                break;
            }
            let call = client.get("/v2/team-a/app/tags/list");
            let request = std::pin::pin!(connection.open(call));
            // Polled once, so that it is on its way, and dropped.
            let at_once = tokio::time::timeout(Duration::ZERO, request).await;
            drop(at_once);
            tokio::task::yield_now().await;
        }
        Some(())
    }

    async fn half_open(&mut self) -> Option<()> {
        let mut held = Vec::new();
        for _ in 0..self.chance.between(1, 20) {
            let mut stream = TcpStream::connect(self.anonymous.address).await.ok()?;
            // A handshake record that says that it is longer than it is.
            stream
                .write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3])
                .await
                .ok()?;
            held.push(stream);
        }
        for mut stream in held {
            let mut answer = Vec::new();
            drop(stream.read_to_end(&mut answer).await);
            self.suspect("half a handshake", &answer);
        }
        Some(())
    }

    async fn broken_push(&mut self) -> Option<()> {
        let http = *self.chance.pick(&Http::BOTH);
        let alice = self.alice.over(http);
        let begun = alice
            .post("/v2/team-a/app/blobs/uploads/")
            .try_send()
            .await
            .ok()?;
        let (feeder, body) = Outgoing::fed();
        let patch = alice.patch(&begun.location()).body(body);
        let sending = tokio::spawn(patch.try_send());
        let piece = noise(self.chance.next(), self.chance.between(1, 100_000));
        drop(feeder.send(Ok(piece)).await);
        if self.chance.percent(50) {
            sending.abort();
        } else {
            drop(feeder.send(Err(std::io::Error::other("enough"))).await);
        }
        drop(sending.await);
        Some(())
    }

    async fn broken_pull(&mut self) -> Option<()> {
        let http = *self.chance.pick(&Http::BOTH);
        let alice = self.alice.over(http);
        let mut connection = alice.try_connect().await.ok()?;
        let mut response = connection.open(alice.get(&self.large)).await.ok()?;
        for _ in 0..self.chance.below(20) {
            drop(response.frame().await?);
        }
        Some(())
    }

    /// Nobody of these was to be told anything but an error.
    fn suspect(&self, what: &str, answer: &[u8]) {
        let text = String::from_utf8_lossy(answer);
        if text.starts_with("HTTP/1.1 2") || text.starts_with("HTTP/1.1 3") {
            self.book.wrong(format!("{what} was answered with {text}"));
        }
    }
}
