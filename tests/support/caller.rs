//! Clients that push and pull by every way there is, and write each answer into the book.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::task::JoinHandle;

use super::book::{Attempt, Book, Kept, What, Who};
use super::chance::Chance;
use super::http::{Answer, Call, Client, Connection, Http, Outgoing};
use super::image::{Image, MANIFEST, digest, noise, with_digest};

/// How a caller says who he is.
#[derive(Clone, Debug)]
pub(crate) enum Proof {
    /// With each connection or request.
    Standing,
    /// By a token that he asks for by Basic from time to time.
    Token { service: String },
}

/// What sort of work it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Diet {
    /// How many attempts of a hundred are pushes.
    pub(crate) pushes: usize,
    /// The largest blob, in bytes.
    pub(crate) blob: usize,
    /// Time between two pieces of work.
    pub(crate) pause: std::time::Duration,
}

pub(crate) struct Caller {
    pub(crate) who: Who,
    pub(crate) client: Client,
    pub(crate) http: Http,
    pub(crate) proof: Proof,
    pub(crate) repository: &'static str,
    pub(crate) book: Arc<Book>,
    pub(crate) chance: Chance,
    pub(crate) diet: Diet,
    token: Option<Client>,
    connection: Option<(Connection, u64)>,
}

/// How a blob is sent.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// POST and PUT.
    Whole,
    /// POST and PUT, its length unknown at first and held half-way.
    Chunked,
    /// POST, some PATCH and an empty PUT.
    Patches(usize),
}

impl Caller {
    pub(crate) fn new(
        (who, client, repository): (Who, Client, &'static str),
        (http, proof): (Http, Proof),
        book: &Arc<Book>,
        chance: Chance,
        diet: Diet,
    ) -> Self {
        Self {
            who,
            client: client.over(http),
            http,
            proof,
            repository,
            book: Arc::clone(book),
            chance,
            diet,
            token: None,
            connection: None,
        }
    }

    /// Works until everybody is to stop.
    pub(crate) fn work(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            while !self.book.stopping() {
                self.once().await;
                if !self.diet.pause.is_zero() {
                    tokio::time::sleep(self.diet.pause).await;
                }
            }
        })
    }

    async fn once(&mut self) -> Option<()> {
        // A connection is no better for being new.
        if self.chance.percent(20) {
            self.connection = None;
        }
        let client = self.identified().await?;
        if self.chance.percent(self.diet.pushes) {
            if self.chance.percent(30) {
                return self.push_image(&client).await;
            }
            let blob = self.blob();
            return self.push_blob(&client, &blob).await;
        }
        match self.chance.below(20) {
            0 => return self.pull_large(&client).await,
            1 => {
                // A certificate alone is no login.
                let login = match self.who {
                    Who::Certificate => 401,
                    Who::Directory | Who::File => 200,
                };
                drop(self.exchange(client.get("/v2/"), What::Own, &[login]).await);
            }
            2 => {
                let path = format!("/v2/{}/tags/list", self.repository);
                drop(
                    self.exchange(client.get(&path), What::Read, &[200, 404])
                        .await,
                );
            }
            _ => self.pull(&client).await?,
        }
        Some(())
    }

    /// The client with what proves who he is.
    async fn identified(&mut self) -> Option<Client> {
        let Proof::Token { service } = &self.proof else {
            return Some(self.client.clone());
        };
        if self.token.is_none() || self.chance.percent(5) {
            let path = format!(
                "/token?service={service}&scope=repository:{}:pull,push",
                self.repository
            );
            let call = self.client.get(&path);
            let answer = self.exchange(call, What::Own, &[200]).await?;
            let token = answer.json()["token"].as_str().unwrap().to_owned();
            self.token = Some(self.client.bearer(&token));
        }
        self.token.clone()
    }

    fn blob(&mut self) -> Bytes {
        let most = match self.chance.below(10) {
            0 => self.diet.blob,
            1..=3 => self.diet.blob / 8,
            _ => self.diet.blob / 128,
        };
        let length = self.chance.between(1, most);
        noise(self.chance.next(), length)
    }

    async fn push_blob(&mut self, client: &Client, blob: &Bytes) -> Option<()> {
        let way = match self.chance.below(3) {
            0 => Way::Whole,
            1 => Way::Chunked,
            _ => Way::Patches(self.chance.between(1, 3)),
        };
        let path = format!("/v2/{}/blobs/uploads/", self.repository);
        let begun = self
            .exchange(client.post(&path), What::Write, &[202])
            .await?;
        let mut session = begun.location();
        let name = digest(blob);
        let rest = match way {
            Way::Whole => Outgoing::from(blob.clone()),
            Way::Chunked => self.dawdling(blob.clone()),
            Way::Patches(count) => {
                let size = blob.len().div_ceil(count).max(1);
                let mut left = blob.clone();
                while !left.is_empty() {
                    let piece = left.split_to(size.min(left.len()));
                    let body = match self.chance.percent(30) {
                        true => self.dawdling(piece),
                        false => Outgoing::from(piece),
                    };
                    let call = client.patch(&session).body(body);
                    let patched = self.exchange(call, What::Write, &[202]).await?;
                    session = patched.location();
                }
                Outgoing::empty()
            }
        };
        let put = client
            .put(&with_digest(&session, &name))
            .header("content-type", "application/octet-stream")
            .body(rest);
        let stored = self.exchange(put, What::Write, &[201]).await?;
        self.acknowledged(&stored, "blobs", &name, &name);
        Some(())
    }

    async fn push_image(&mut self, client: &Client) -> Option<()> {
        let image = Image::new(self.chance.next());
        self.push_blob(client, &image.config).await?;
        self.push_blob(client, &image.layer).await?;
        let tag = format!("t{}", self.chance.next());
        let path = format!("/v2/{}/manifests/{tag}", self.repository);
        let put = client
            .put(&path)
            .header("content-type", MANIFEST)
            .body(image.manifest.clone());
        let stored = self.exchange(put, What::Write, &[201]).await?;
        self.acknowledged(&stored, "manifests", &tag, &image.digest());
        Some(())
    }

    fn acknowledged(&self, stored: &Answer, kind: &str, reference: &str, digest: &str) {
        if stored.header("docker-content-digest") != Some(digest) {
            let told = format!("{digest} was stored as something else: {stored:?}");
            self.book.wrong(told);
        }
        self.book.keep(Kept {
            repository: self.repository,
            path: format!("/v2/{}/{kind}/{reference}", self.repository),
            digest: digest.to_owned(),
        });
    }

    async fn pull(&mut self, client: &Client) -> Option<()> {
        let kept = self
            .book
            .one_of(self.repository, self.chance.below(1 << 20))?;
        let call = client.get(&kept.path).header("accept", MANIFEST);
        let answer = self.exchange(call, What::Read, &[200]).await?;
        compare(&self.book, &kept, &answer);
        Some(())
    }

    /// A pull that stays half-way for a while.
    async fn pull_large(&mut self, client: &Client) -> Option<()> {
        let large = self.book.large();
        let kept = large.filter(|kept| kept.repository == self.repository)?;
        let attempts = u64::try_from(self.chance.between(5, 40)).unwrap();
        let call = client.get(&kept.path);
        let answer = self
            .judged(call, What::Read, &[200], Some(attempts))
            .await?;
        compare(&self.book, &kept, &answer);
        Some(())
    }

    /// One of the things that nobody may do, done by somebody.
    pub(crate) async fn trespass(&mut self, client: &Client, call: Call, right: u16, what: What) {
        self.client = client.clone();
        self.connection = None;
        drop(self.exchange(call, what, &[right]).await);
    }

    /// A body that stays half-way for a while.
    fn dawdling(&mut self, bytes: Bytes) -> Outgoing {
        let (feeder, body) = Outgoing::fed();
        let book = Arc::clone(&self.book);
        let attempts = u64::try_from(self.chance.between(2, 20)).unwrap();
        tokio::spawn(async move {
            let mut rest = bytes;
            let first = rest.split_to(rest.len() / 2);
            if feeder.send(Ok(first)).await.is_ok() {
                book.dawdle(attempts).await;
                drop(feeder.send(Ok(rest)).await);
            }
        });
        body
    }

    /// Sends a request on the connection that there is, or on a new one, and has the answer judged.
    pub(crate) async fn exchange(
        &mut self,
        call: Call,
        what: What,
        right: &[u16],
    ) -> Option<Answer> {
        self.judged(call, what, right, None).await
    }

    async fn judged(
        &mut self,
        call: Call,
        what: What,
        right: &[u16],
        dawdles: Option<u64>,
    ) -> Option<Answer> {
        let told = format!("{call} over {:?}", self.http);
        let flight = self.book.depart();
        let call = call.header("user-agent", flight.name());
        let outcome = self.send(call, dawdles).await;
        if outcome.is_err() {
            self.connection = None;
            // Nobody knocks at a closed door without a pause.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let attempt = Attempt {
            who: self.who,
            what,
        };
        self.book.land(flight, attempt, &told, outcome, right)
    }

    async fn send(&mut self, call: Call, dawdles: Option<u64>) -> Result<Answer, String> {
        let epoch = self.book.epoch();
        let kept = self.connection.take();
        let usable =
            kept.filter(|(connection, opened)| *opened == epoch && !connection.is_closed());
        let mut connection = match usable {
            Some((connection, _)) => connection,
            None => {
                let fresh = self.client.try_connect().await;
                fresh.map_err(|error| format!("no connection: {error}"))?
            }
        };
        let response = connection.open(call).await;
        let response = response.map_err(|error| format!("no answer: {error:?}"))?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("cut short: {error:?}"))?;
            let is_first = bytes.is_empty();
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
            if is_first && let Some(attempts) = dawdles {
                self.book.dawdle(attempts).await;
            }
        }
        self.connection = Some((connection, epoch));
        Ok(Answer {
            status: head.status.as_u16(),
            version: head.version,
            headers: head.headers,
            body: bytes.into(),
        })
    }
}

/// Whether what came back is what was pushed.
pub(crate) fn compare(book: &Book, kept: &Kept, answer: &Answer) {
    let found = digest(&answer.body);
    if found == kept.digest {
        book.compared();
    } else {
        let told = format!("{} came back as {found}: {answer:?}", kept.path);
        book.wrong(told);
    }
}

/// Waits for all of them, after they were told to stop.
pub(crate) async fn joined(workers: Vec<JoinHandle<()>>) {
    for worker in workers {
        super::within(super::PATIENCE * 2, "the end of a caller", worker)
            .await
            .unwrap();
    }
}
