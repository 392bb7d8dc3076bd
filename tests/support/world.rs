//! The proxy with everything behind it, and all that can happen to that.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use super::book::{Book, Fault, Kept, What, Who};
use super::caller::{Caller, Diet, Proof, compare};
use super::chance::Chance;
use super::disk::SmallDisk;
use super::http::{Client, Http};
use super::image::{MANIFEST, digest, noise, push_blob};
use super::lab::{Builder, Lab, PROGRAM, htpasswd, password};
use super::process::free_port;
use super::redis::Redis;
use super::registry::Registry;
use super::slapd::Slapd;
use super::{eventually, eventually_async};

/// Verified passwords are remembered for a moment only, so that the directory is asked often.
const KEYS: &str = "\
[auth.cache]
ttl = \"1s\"

[limits]
authenticated_pulls = { count = 100000, per = \"6h\" }
";

const BOTH: &str = r#"["htpasswd", "ldap"]"#;

/// Bytes of a blob that does not fit into the buffers of two connections.
const LARGE: usize = 24 << 20;

/// How many connections eat descriptors, until they are cut off for saying nothing.
const IDLERS: usize = 12;

pub(crate) struct World {
    pub(crate) lab: Lab,
    slapd: Slapd,
    redis: Redis,
    disk: Option<SmallDisk>,
    admin: Client,
    pub(crate) book: Arc<Book>,
    config: String,
    users: String,
    idlers: Vec<TcpStream>,
    /// The longest that it took until everybody was served again.
    pub(crate) slowest: Duration,
}

/// What the process takes while nobody asks anything of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) resident: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

impl World {
    /// With the audit trail on a disk of so many MiB, if that is wanted. `None` where no disk can
    /// be mounted.
    pub(crate) async fn start(disk: Option<usize>, server: &str) -> Option<Self> {
        let disk = match disk {
            Some(mebibytes) => Some(SmallDisk::mount(mebibytes)?),
            None => None,
        };
        let (slapd, redis) = (Slapd::start().await, Redis::start().await);
        let port = free_port();
        let file = disk.as_ref().map_or(PathBuf::from("audit.jsonl"), |disk| {
            disk.folder.join("audit.jsonl")
        });
        let more = format!(
            "{}\n{KEYS}\n[limits.store]\nurl = \"{}\"\n[admin]\nlisten = \"127.0.0.1:{port}\"\n",
            slapd.section("timeout = '1s'"),
            redis.url(),
        );
        let lab = builder(&more)
            .server(server)
            .audit(&format!("file = \"{}\"", file.display()))
            .start()
            .await;
        let mut world = Self {
            config: lab.config(),
            users: lab.folder.read("htpasswd"),
            lab,
            slapd,
            redis,
            disk,
            admin: Client::plain(([127, 0, 0, 1], port).into()),
            book: Arc::new(Book::new()),
            idlers: Vec::new(),
            slowest: Duration::ZERO,
        };
        world.settle().await;
        let large = noise(7, LARGE);
        push_blob(&world.lab.registry().client(), "team-a/app", &large).await;
        world.book.keep_large(Kept {
            repository: "team-a/app",
            path: format!("/v2/team-a/app/blobs/{}", digest(&large)),
            digest: digest(&large),
        });
        Some(world)
    }

    /// One of each kind of caller, all of them at work.
    pub(crate) fn callers(&self, seed: u64, diet: Diet) -> Vec<Caller> {
        let (lab, book) = (&self.lab, &self.book);
        let (alice, erin) = (lab.user("alice"), lab.user("erin"));
        let certified = lab.showing(&lab.pki.client("alice"));
        let service = lab.authority();
        let token = || Proof::Token {
            service: service.clone(),
        };
        let (team, home) = ("team-a/app", "home/erin/app");
        let kinds = [
            (Who::File, &alice, team, Http::One, Proof::Standing),
            (Who::File, &alice, team, Http::Two, Proof::Standing),
            (Who::File, &alice, team, Http::One, token()),
            (Who::File, &alice, "home/alice/app", Http::Two, token()),
            (Who::Directory, &erin, home, Http::One, Proof::Standing),
            (Who::Directory, &erin, home, Http::Two, token()),
            (
                Who::Certificate,
                &certified,
                team,
                Http::One,
                Proof::Standing,
            ),
            (
                Who::Certificate,
                &certified,
                team,
                Http::Two,
                Proof::Standing,
            ),
        ];
        let callers = (0..)
            .zip(kinds)
            .map(|(number, (who, client, repository, http, proof))| {
                let chance = Chance::of(seed, number);
                let caller = (who, client.clone(), repository);
                Caller::new(caller, (http, proof), book, chance, diet)
            });
        callers.collect()
    }

    /// Somebody who tries what he may not, again and again.
    pub(crate) fn trespasser(&self, seed: u64, diet: Diet) -> tokio::task::JoinHandle<()> {
        let lab = &self.lab;
        let wrong = |user| lab.anonymous().basic(user, "wrong-but-always-the-same");
        let users = ["bob", "stranger", "gina", "erin"].map(|user| lab.user(user));
        let [bob, stranger, gina, erin] = users;
        let (nobody, no_token) = (lab.anonymous(), lab.anonymous().bearer("e30.e30.e30"));
        let (file, directory) = (wrong("alice"), wrong("erin"));
        let book = Arc::clone(&self.book);
        let chance = Chance::of(seed, 1000);
        let caller = (Who::File, nobody.clone(), "team-a/app");
        let mut caller = Caller::new(caller, (Http::One, Proof::Standing), &book, chance, diet);
        tokio::spawn(async move {
            let tags = "/v2/team-a/app/tags/list";
            let uploads = "/v2/team-a/app/blobs/uploads/";
            let gone = format!("/v2/team-a/app/manifests/{}", digest(b"gone"));
            while !book.stopping() {
                // A pull of what is there, too.
                let there = book.one_of("team-a/app", 0);
                let path = there.map_or(tags.to_owned(), |kept| kept.path);
                let (client, call, right, what) = match caller.chance.below(9) {
                    0 => (&nobody, nobody.get(&path), 401, What::Read),
                    1 => (&no_token, no_token.get(&path), 401, What::Read),
                    2 => (&file, file.get(&path), 401, What::Read),
                    3 => (&directory, directory.get(&path), 401, What::Read),
                    4 => (&bob, bob.get(&path), 403, What::Read),
                    5 => (&erin, erin.get(&path), 403, What::Read),
                    6 => (&stranger, stranger.post(uploads), 403, What::Write),
                    7 => (&gina, gina.post(uploads), 403, What::Write),
                    _ => (&bob, bob.delete(&gone), 403, What::Write),
                };
                let is_of_directory = std::ptr::eq(client, &raw const directory)
                    || std::ptr::eq(client, &raw const erin);
                caller.who = if is_of_directory {
                    Who::Directory
                } else {
                    Who::File
                };
                // What is judged before the registry is asked is never excused by it.
                let what = if what == What::Read { What::Own } else { what };
                caller.trespass(client, call, right, what).await;
                tokio::time::sleep(diet.pause.max(Duration::from_millis(2))).await;
            }
        })
    }

    /// Lets it happen, where it matters while a body is half-way.
    pub(crate) async fn begin(&mut self, fault: Fault, chance: &mut Chance) {
        if matches!(fault, Fault::Registry | Fault::Restart) {
            self.book.body_half_way().await;
        }
        self.begin_at_once(fault, chance).await;
    }

    /// Lets it happen now.
    pub(crate) async fn begin_at_once(&mut self, fault: Fault, chance: &mut Chance) {
        self.book.begins(fault);
        match fault {
            Fault::Descriptors => self.starve(),
            Fault::Directory if chance.percent(70) => self.slapd.service.freeze(),
            Fault::Directory => self.slapd.service.kill(),
            Fault::Disk => self.disk.as_ref().unwrap().fill(),
            Fault::Hangups => self.storm(chance).await,
            Fault::Registry => {
                let registry = &mut self.lab.registry_mut().process;
                registry.signal(Signal::KILL);
                registry.wait().await;
            }
            Fault::Restart => self.restart().await,
            Fault::Store if chance.percent(50) => self.redis.service.freeze(),
            Fault::Store => self.redis.service.kill(),
        }
    }

    /// Makes it good again.
    pub(crate) async fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Descriptors => {
                self.allow(None);
                self.idlers.clear();
            }
            Fault::Directory if self.slapd.service.runs() => self.slapd.service.thaw(),
            Fault::Directory => self.slapd.restart().await,
            Fault::Disk => self.disk.as_ref().unwrap().free(),
            Fault::Hangups => self.reload().await,
            Fault::Registry => {
                let address = self.lab.registry().address;
                let again = Registry::try_start(&self.lab.folder, address).await;
                *self.lab.registry_mut() = again.expect("the registry's own address");
            }
            Fault::Restart => {}
            Fault::Store if self.redis.service.runs() => self.redis.service.thaw(),
            Fault::Store => self.redis.restart().await,
        }
    }

    /// Waits until everybody is served as before, for as long as a proxy that hangs would not be
    /// waited for, and calls the faults over.
    pub(crate) async fn settle(&mut self) {
        let begun = Instant::now();
        let lab = &self.lab;
        let certified = lab.showing(&lab.pki.client("alice"));
        let (alice, erin) = (lab.user("alice"), lab.user("erin"));
        let mut last = String::new();
        let served = eventually_async("service for everybody", async || {
            // A certificate is no login; everywhere else it is a credential.
            for (client, repository, login) in [
                (&certified, "team-a/app", 401),
                (&alice, "team-a/app", 200),
                (&erin, "home/erin/app", 200),
            ] {
                let tags = format!("/v2/{repository}/tags/list");
                let uploads = format!("/v2/{repository}/blobs/uploads/");
                for (call, right) in [
                    (client.get("/v2/"), [login, login]),
                    (client.get(&tags), [200, 404]),
                    (client.post(&uploads), [202, 202]),
                ] {
                    let told = call.to_string();
                    let answer = call.header("user-agent", "probe").try_send().await;
                    if !answer
                        .as_ref()
                        .is_ok_and(|answer| right.contains(&answer.status))
                    {
                        last = format!("{told}: {answer:?}");
                        return None;
                    }
                }
            }
            let (up, writable) = (
                self.metric("portcullis_limit_store_up").await?,
                self.metric("portcullis_audit_writable").await?,
            );
            last = format!("store up {up}, trail writable {writable}");
            (up == 1 && writable == 1).then_some(())
        });
        tokio::time::timeout(super::PATIENCE, served)
            .await
            .unwrap_or_else(|_elapsed| panic!("not everybody is served again: {last}"));
        self.slowest = self.slowest.max(begun.elapsed());
        self.book.calm();
    }

    /// SIGTERM while bodies are half-way, and a new start once it has ended in good order.
    async fn restart(&mut self) {
        self.lab.process.signal(Signal::TERM);
        let status = self.lab.process.wait().await;
        let log = self.lab.process.log();
        assert_eq!(status.code(), Some(0), "{log}");
        let lost = log
            .lines()
            .find(|line| line.contains("audit records are lost"));
        if let Some((_, records)) = lost.and_then(|line| line.rsplit_once('=')) {
            self.book.lost_records(records.parse().unwrap());
        }
        self.lab.restart().await;
    }

    /// Leaves next to no descriptors, and takes those.
    fn starve(&mut self) {
        let open = footprint(self.lab.process.id()).descriptors;
        self.allow(Some(u64::try_from(open).unwrap() + 4));
        self.idlers = (0..IDLERS)
            .filter_map(|_| TcpStream::connect(self.lab.address).ok())
            .collect();
    }

    fn allow(&self, descriptors: Option<u64>) {
        let pid = Pid::from_raw(self.lab.process.id().try_into().unwrap());
        let now = prlimit_maximum(pid);
        let limit = Rlimit {
            current: descriptors.or(now),
            maximum: now,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }

    /// SIGHUP after SIGHUP, each with another configuration, while requests go on.
    async fn storm(&mut self, chance: &mut Chance) {
        let folder = &self.lab.folder;
        let mut users = self.users.clone();
        users += &htpasswd(&[("nora", "pw")]);
        let test = "[[policy_test]]\nwho = \"user:alice\"\naction = \"push\"\n\
                    repository = \"team-b/app\"\nexpect = \"allow\"\n";
        let access = "[[access]]\nrepositories = [\"more/**\"]\nwho = [\"user:nora\"]\n\
                      role = \"guest\"\n";
        for _ in 0..chance.between(10, 20) {
            let config = match chance.below(8) {
                0 => self.config.clone() + "nonsense = 1\n",
                1 => self.config.clone() + test,
                2 => self.config.replace("server.pem", "missing.pem"),
                3 => self.config[..self.config.len() / 2].to_owned() + "[",
                4 => self.config.clone() + access,
                5 => self.config.replace("count = 100000", "count = 90000"),
                6 => {
                    // Another certificate, and its key a moment later.
                    let pair = self.lab.pki.server();
                    folder.replace("server.pem", pair.certificate);
                    self.lab.process.signal(Signal::HUP);
                    folder.replace("server.key", pair.key);
                    self.config.clone()
                }
                _ => {
                    folder.replace("htpasswd", &users);
                    self.config.clone()
                }
            };
            folder.replace("portcullis.toml", config);
            self.lab.process.signal(Signal::HUP);
            self.book.attempts(chance.next() % 4).await;
        }
        folder.replace("htpasswd", &self.users);
        folder.replace("portcullis.toml", &self.config);
    }

    /// Waits for a reload that works.
    async fn reload(&self) {
        let before = self.metric("portcullis_config_generation").await.unwrap();
        self.lab.process.signal(Signal::HUP);
        eventually_async("a good reload", async || {
            let now = self.metric("portcullis_config_generation").await?;
            let failed = self.metric("portcullis_config_reload_failed").await?;
            (now > before && failed == 0).then_some(())
        })
        .await;
    }

    /// A number that the proxy tells about itself.
    pub(crate) async fn metric(&self, name: &str) -> Option<u64> {
        let text = self.admin.get("/metrics").try_send().await.ok()?.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line?.parse().ok()
    }

    pub(crate) fn audit(&self) -> PathBuf {
        match &self.disk {
            Some(disk) => disk.folder.join("audit.jsonl"),
            None => self.lab.folder.join("audit.jsonl"),
        }
    }

    /// Pulls back whatever was acknowledged, and compares it.
    pub(crate) async fn pull_back(&self) {
        let mut connection = self.lab.user("ada").connect().await;
        for kept in self.book.kept() {
            let call = self.lab.user("ada").get(&kept.path);
            let call = call
                .header("accept", MANIFEST)
                .header("user-agent", "probe");
            let answer = connection.send(call).await;
            assert_eq!(answer.status, 200, "{}: {answer:?}", kept.path);
            compare(&self.book, &kept, &answer);
        }
    }

    /// Ends the proxy, verifies its trail, and looks for the record of every answer.
    pub(crate) async fn assert_trail(&mut self) {
        self.lab.process.signal(Signal::TERM);
        assert!(self.lab.process.wait().await.success());
        let file = self.audit();
        let output = Command::new(PROGRAM)
            .args(["audit", "verify", "--json"])
            .arg(&file)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{told}");
        let lines = std::fs::read_to_string(file).unwrap();
        self.book.assert_recorded(lines.lines());
    }

    /// What the process takes, as soon as it has let go of what a fleet took.
    pub(crate) async fn at_rest(&self) -> Footprint {
        let port = self.lab.address.port();
        eventually("the end of all connections", || {
            (established(port) == 0).then_some(())
        })
        .await;
        footprint(self.lab.process.id())
    }
}

fn builder(more: &str) -> Builder {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    Lab::builder()
        .order(BOTH)
        .token("signing_key = \"token.key\"")
        .file("token.key", key)
        .more(more)
        .client_certificates("mode = \"optional\"\nusername = [\"subject.cn\"]\n")
}

fn prlimit_maximum(pid: Option<Pid>) -> Option<u64> {
    let path = format!(
        "/proc/{}/limits",
        pid.map_or(0, |pid| pid.as_raw_nonzero().get())
    );
    let limits = std::fs::read_to_string(path).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = line
        .and_then(|line| line.split_whitespace().nth(4))
        .unwrap();
    hard.parse().ok()
}

pub(crate) fn footprint(id: u32) -> Footprint {
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{id}/{what}"))
            .unwrap()
            .count()
    };
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    Footprint {
        resident: kib << 10,
        descriptors: count("fd"),
        threads: count("task"),
    }
}

/// Connections that a server on this port of 127.0.0.1 has, half-closed ones too.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!("0100007F:{port:04X}");
    let is_ours = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        let (from, _to, state) = (words.next(), words.next(), words.next());
        // ESTABLISHED and CLOSE_WAIT.
        from == Some(local.as_str()) && matches!(state, Some("01" | "08"))
    };
    table.lines().filter(is_ours).count()
}
