#![expect(
    clippy::arithmetic_side_effects,
    clippy::unchecked_time_subtraction,
    reason = "the helpers are tests too, and an overflow fails them"
)]

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::time::Duration;

use super::{
    Attempt, Became, Change, ClientTrust, Judged, Lockout, SOURCE_FACTOR, Setting, Table, WAYS,
    Whom,
};
use crate::identity::{Password, Subject};

const SETTING: Setting = Setting {
    count: 3,
    per: Duration::from_mins(5),
};
const HERE: &str = "192.0.2.1";
const THERE: &str = "192.0.2.2";

fn at(second: u64) -> Duration {
    Duration::from_secs(second)
}

/// A lock-out and the time.
struct World {
    lockout: Lockout,
    now: Duration,
    told: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self {
            lockout: Lockout::new([7; 32]),
            now: at(1000),
            told: Vec::new(),
        }
    }

    fn attempt(&self, user: &str, from: &str, password: &str) -> Attempt {
        let (from, password) = (from.parse().unwrap(), Password::new(password).unwrap());
        let who = Subject::read(user).unwrap();
        let attempt = self
            .lockout
            .attempt(ClientTrust::Stranger, &who, from, &password);
        attempt.unwrap()
    }

    /// One login after the other; the password `right` is right. Whether it was verified at all.
    fn login(&mut self, user: &str, from: &str, password: &str) -> bool {
        let attempt = self.attempt(user, from, password);
        if self.lockout.begin(&attempt, SETTING, self.now).is_err() {
            return false;
        }
        let judged = match password {
            "right" => Judged::Right,
            "down" => Judged::Unknown,
            _ => Judged::Wrong,
        };
        let changes = self.lockout.end(&attempt, judged, SETTING, self.now);
        self.tell(changes);
        true
    }

    /// How many of these wrong passwords are verified.
    fn guess(&mut self, user: &str, from: &str, prefix: &str, times: u32) -> u32 {
        let mut verified = 0;
        for number in 0..times {
            verified += u32::from(self.login(user, from, &format!("{prefix}{number}")));
        }
        verified
    }

    fn wait(&mut self, seconds: u64) {
        self.now += at(seconds);
        let changes = self.lockout.changes(self.now);
        self.tell(changes);
    }

    fn tell(&mut self, changes: Vec<Change>) {
        for Change { user, network, to } in changes {
            let user = user.unwrap_or_else(|| "everybody".into());
            let to = match to {
                Became::Locked(per) => format!("locked for {} s", per.as_secs()),
                Became::Free => "free".to_owned(),
            };
            self.told.push(format!("{user} from {network}: {to}"));
        }
    }
}

#[test]
fn the_right_password_is_refused_after_too_many_wrong_ones() {
    let mut world = World::new();
    assert_eq!(world.guess("alice", HERE, "wrong", 9), 3);
    assert!(!world.login("alice", HERE, "right"));
    let attempt = world.attempt("alice", HERE, "right");
    assert_eq!(
        world.lockout.begin(&attempt, SETTING, world.now),
        Err(at(300))
    );
    world.wait(299);
    assert_eq!(
        world.lockout.begin(&attempt, SETTING, world.now),
        Err(at(1))
    );
    world.wait(1);
    assert!(world.login("alice", HERE, "right"));
    let told = [
        "alice from 192.0.2.1/32: locked for 300 s",
        "alice from 192.0.2.1/32: free",
    ];
    assert_eq!(world.told, told);
}

#[test]
fn others_and_elsewhere_are_not_concerned() {
    let mut world = World::new();
    world.guess("alice", HERE, "wrong", 9);
    assert!(world.login("bob", HERE, "right"));
    assert!(world.login("alice", THERE, "right"));
    assert!(world.login("alice", "2001:db8::1", "right"));
    // A right password elsewhere frees nobody here.
    assert!(!world.login("alice", HERE, "right"));
}

#[test]
fn a_network_is_one_address_or_a_64() {
    for (other, same) in [
        ("2001:db8:0:1::1", true),
        ("2001:db8:0:1:ffff::2", true),
        ("2001:db8:0:2::1", false),
    ] {
        let mut world = World::new();
        world.guess("alice", "2001:db8:0:1::1", "wrong", 3);
        assert_eq!(world.login("alice", other, "right"), !same, "{other}");
    }
    let mut world = World::new();
    world.guess("alice", HERE, "wrong", 3);
    assert!(!world.login("alice", "::ffff:192.0.2.1", "right"));
}

#[test]
fn another_spelling_is_the_same_user() {
    let mut world = World::new();
    for (number, user) in ["Alice", "ALICE", " alice"].into_iter().enumerate() {
        assert!(world.login(user, HERE, &format!("wrong{number}")));
    }
    for user in ["alice", "aLiCe", "alice  "] {
        assert!(!world.login(user, HERE, "right"), "{user}");
    }
    assert!(world.login("a lice", HERE, "right"));
}

#[test]
fn the_same_wrong_password_counts_once() {
    let mut world = World::new();
    for _ in 0..50 {
        assert!(world.login("alice", HERE, "old"));
        world.wait(1);
    }
    assert_eq!(world.guess("alice", HERE, "wrong", 1), 1);
    assert!(world.login("alice", HERE, "old"));
    assert!(world.login("alice", HERE, "right"));
}

#[test]
fn a_right_password_clears_the_count_and_an_outage_changes_nothing() {
    let mut world = World::new();
    for _ in 0..10 {
        assert_eq!(world.guess("alice", HERE, "wrong", 2), 2);
        assert!(world.login("alice", HERE, "down"));
        assert!(world.login("alice", HERE, "right"));
    }
    // Those are known, and do not count again.
    assert_eq!(world.guess("alice", HERE, "wrong", 2), 2);
    assert_eq!(world.guess("alice", HERE, "other", 2), 2);
    for _ in 0..10 {
        assert!(world.login("alice", HERE, "down"));
    }
    assert_eq!(world.guess("alice", HERE, "another", 2), 1);
}

#[test]
fn a_forgotten_job_beside_good_logins_locks_nobody() {
    let mut world = World::new();
    for _ in 0..10 * SETTING.count * SOURCE_FACTOR {
        assert!(world.login("alice", HERE, "old"));
        assert!(world.login("alice", HERE, "right"));
    }
    assert!(world.login("bob", HERE, "right"));
    assert!(world.told.is_empty(), "{:?}", world.told);
}

#[test]
fn a_lock_of_others_holds_here_for_its_time_and_is_told_once() {
    for (whom, bob_may) in [(Whom::User, true), (Whom::Everybody, false)] {
        let mut world = World::new();
        let attempt = world.attempt("alice", HERE, "wrong");
        for time in [40, 60] {
            let changes = world.lockout.adopt(&attempt, whom, at(time), world.now);
            world.tell(changes);
        }
        assert!(!world.login("alice", HERE, "right"));
        assert_eq!(world.login("bob", HERE, "right"), bob_may);
        world.wait(40);
        assert!(world.login("alice", HERE, "right"));
        let whom = if bob_may { "alice" } else { "everybody" };
        let told = [
            format!("{whom} from 192.0.2.1/32: locked for 40 s"),
            format!("{whom} from 192.0.2.1/32: free"),
        ];
        assert_eq!(world.told, told);
    }
}

#[test]
fn what_a_right_password_elsewhere_cleared_counts_no_more() {
    let mut world = World::new();
    world.guess("alice", HERE, "wrong", 2);
    let attempt = world.attempt("alice", HERE, "wrong0");
    world.lockout.agree(&attempt, 5);
    assert_eq!(world.guess("alice", HERE, "another", 2), 1);
    let mut world = World::new();
    world.guess("alice", HERE, "wrong", 2);
    let attempt = world.attempt("alice", HERE, "wrong0");
    world.lockout.agree(&attempt, 1);
    assert_eq!(world.guess("alice", HERE, "another", 3), 2);
    let mut world = World::new();
    world.guess("alice", HERE, "wrong", 2);
    let attempt = world.attempt("alice", HERE, "wrong0");
    world.lockout.agree(&attempt, 0);
    // Two that are known, and three that count.
    assert_eq!(world.guess("alice", HERE, "wrong", 6), 5);
}

#[test]
fn a_tag_under_a_common_key_tells_users_and_passwords_apart() {
    let world = World::new();
    let tag = |key: u8, user: &str, password: &str| {
        let attempt = world.attempt(user, HERE, password);
        attempt.tag(&[key; 32], &Password::new(password).unwrap())
    };
    assert_eq!(tag(1, "alice", "a"), tag(1, " ALICE", "a"));
    for other in [
        tag(1, "alice", "b"),
        tag(1, "bob", "a"),
        tag(2, "alice", "a"),
    ] {
        assert_ne!(tag(1, "alice", "a"), other);
    }
}

#[test]
fn slow_wrong_passwords_are_forgotten() {
    let mut world = World::new();
    for round in 0..10 {
        assert_eq!(world.guess("alice", HERE, &round.to_string(), 2), 2);
        world.wait(300);
    }
    assert!(world.told.is_empty(), "{:?}", world.told);
}

#[test]
fn guesses_sent_at_once_count_before_they_are_answered() {
    let mut world = World::new();
    let attempts: Vec<_> = (0..9)
        .map(|number| world.attempt("alice", HERE, &format!("wrong{number}")))
        .collect();
    let mut begin = |attempt: &Attempt| world.lockout.begin(attempt, SETTING, at(1000));
    let answers: Vec<_> = attempts.iter().map(&mut begin).collect();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 3);
    assert_eq!(answers[8], Err(at(1)));
    // The same password any number of times at once is one.
    assert_eq!(begin(&attempts[0]), Ok(()));
    assert_eq!(begin(&attempts[3]), Err(at(1)));
    let mut end =
        |attempt: &Attempt, judged| world.lockout.end(attempt, judged, SETTING, at(1000)).len();
    assert_eq!(end(&attempts[0], Judged::Unknown), 0);
    assert_eq!(end(&attempts[0], Judged::Wrong), 0);
    assert_eq!(end(&attempts[1], Judged::Wrong), 0);
    assert_eq!(end(&attempts[2], Judged::Wrong), 1);
    assert!(!world.login("alice", HERE, "right"));
}

#[test]
fn a_right_password_already_under_way_ends_the_lock() {
    let mut world = World::new();
    let right = world.attempt("alice", HERE, "right");
    assert_eq!(world.guess("alice", HERE, "wrong", 2), 2);
    assert_eq!(world.lockout.begin(&right, SETTING, world.now), Ok(()));
    let wrong = world.attempt("alice", HERE, "wrong9");
    let changes = world.lockout.end(&wrong, Judged::Wrong, SETTING, world.now);
    assert_eq!(changes.len(), 1);
    let changes = world.lockout.end(&right, Judged::Right, SETTING, world.now);
    assert_eq!(changes[0].to, Became::Free);
    assert!(world.login("alice", HERE, "right"));
}

#[test]
fn many_users_from_one_network_have_a_ceiling() {
    let mut world = World::new();
    let most = SETTING.count * SOURCE_FACTOR;
    let mut verified = 0;
    for user in 0..most {
        verified += world.guess(&format!("user{user}"), HERE, "wrong", 2);
        // A good account of one's own does not help.
        world.login("mallory", HERE, "right");
    }
    assert_eq!(verified, most);
    assert!(!world.login("alice", HERE, "right"));
    assert!(world.login("alice", THERE, "right"));
    assert_eq!(
        world.told,
        ["everybody from 192.0.2.1/32: locked for 300 s"]
    );
    world.wait(300);
    assert!(world.login("alice", HERE, "right"));
    assert_eq!(world.told[1], "everybody from 192.0.2.1/32: free");
}

#[test]
fn who_has_a_certificate_is_not_counted_and_neither_is_anybody_without_a_limit() {
    let lockout = Lockout::new([7; 32]);
    let password = Password::new("wrong").unwrap();
    let from = HERE.parse().unwrap();
    let alice = Subject::read("alice").unwrap();
    let attempt = lockout.attempt(ClientTrust::VerifiedCertificate, &alice, from, &password);
    assert!(attempt.is_none());

    let mut world = World::new();
    let off = Setting {
        count: 0,
        ..SETTING
    };
    for number in 0..100 {
        let attempt = world.attempt("alice", HERE, &number.to_string());
        assert_eq!(world.lockout.begin(&attempt, off, world.now), Ok(()));
        assert_eq!(
            world.lockout.end(&attempt, Judged::Wrong, off, world.now),
            []
        );
    }
    // What was locked before the limit was taken away is let in.
    world.guess("bob", HERE, "wrong", 3);
    let attempt = world.attempt("bob", HERE, "right");
    assert_eq!(world.lockout.begin(&attempt, off, world.now), Ok(()));
}

#[test]
fn locks_are_forgotten_last() {
    let (now, mut changes) = (at(1000), Vec::new());
    let mut table = Table::new(1);
    for key in 0..5 {
        let entry = table.entry(key, now, &mut changes);
        let network = IpAddr::from([192, 0, 2, 1]).into();
        entry.lock(
            None,
            network,
            SETTING,
            now + at(u64::try_from(key).unwrap()),
        );
    }
    for (key, count) in [(5, 2), (6, 1), (7, 9)] {
        for _ in 0..count {
            table.entry(key, now, &mut changes).count_one(now);
        }
    }
    let keys = |table: &Table| {
        let mut keys: Vec<_> = table.0[0].iter().map(|entry| entry.key).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(keys(&table), [0, 1, 2, 3, 4, 5, 6, 7]);
    for (new, left) in [
        (10, [0, 1, 2, 3, 4, 5, 7, 10]),
        (11, [0, 1, 2, 3, 4, 5, 7, 11]),
    ] {
        table.entry(new, now, &mut changes);
        assert_eq!(keys(&table), left);
    }
    assert!(changes.is_empty());
    // Only locks are left to forget: the one that ends first, and it is told.
    for key in 20..28 {
        let network = IpAddr::from([192, 0, 2, 1]).into();
        table
            .entry(key, now, &mut changes)
            .lock(None, network, SETTING, now + at(10));
    }
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert_eq!(keys(&table), (20..28).collect::<Vec<_>>());
    table.entry(30, now, &mut changes);
    assert_eq!(changes.len(), 6);
    assert_eq!(table.0[0].len(), WAYS);
}

#[test]
fn memory_is_bounded_whatever_the_number_of_sources() {
    let mut world = World::new();
    for number in 0..40_000_u32 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string();
        assert_eq!(world.guess("alice", &address, "wrong", 1), 1);
    }
    for table in [&world.lockout.pairs, &world.lockout.sources] {
        assert!(table.0.iter().all(|bucket| bucket.len() <= WAYS));
        assert!(table.0.iter().flatten().all(|entry| entry.wrong.len() <= 1));
    }
    // Many wrong passwords with a high limit are not all kept.
    let high = Setting {
        count: 1_000_000,
        ..SETTING
    };
    for number in 0..1000 {
        let attempt = world.attempt("bob", HERE, &number.to_string());
        assert_eq!(world.lockout.begin(&attempt, high, world.now), Ok(()));
        world.lockout.end(&attempt, Judged::Wrong, high, world.now);
    }
    let entry = world.attempt("bob", HERE, "x");
    let entry = world.lockout.pairs.find(entry.pair).unwrap();
    assert_eq!(
        (entry.count, entry.wrong.len(), entry.pending.len()),
        (1000, 32, 0)
    );
}

/// `SplitMix64`.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

/// What the tables above say, in the simplest words: all that ever happened, looked through anew
/// for each question.
#[derive(Default)]
struct Reference {
    /// Per user and network.
    counted: HashMap<(u64, u64), Counted>,
    locked: HashMap<(u64, u64), Duration>,
    sources: HashMap<u64, Vec<Duration>>,
    locked_sources: HashMap<u64, Duration>,
}

/// Wrong passwords since a fresh start: when the first of them was counted, how many were since the
/// last right one, and all that are known.
#[derive(Default)]
struct Counted {
    since: Duration,
    count: usize,
    known: Vec<u64>,
}

impl Reference {
    fn admits(&mut self, pair: (u64, u64), now: Duration) -> bool {
        let counted = self.counted.entry(pair).or_default();
        if now - counted.since >= SETTING.per {
            *counted = Counted::default();
        }
        let is_over = |until: Option<&Duration>| until.is_none_or(|until| *until <= now);
        is_over(self.locked.get(&pair)) && is_over(self.locked_sources.get(&pair.1))
    }

    fn wrong(&mut self, pair: (u64, u64), password: u64, now: Duration) {
        let counted = self.counted.entry(pair).or_default();
        if counted.known.contains(&password) {
            return;
        }
        if counted.count == 0 {
            counted.since = now;
        }
        counted.count += 1;
        counted.known.push(password);
        if counted.count == 3 {
            *counted = Counted::default();
            self.locked.insert(pair, now + SETTING.per);
        }
        let source = self.sources.entry(pair.1).or_default();
        if source
            .first()
            .is_some_and(|first| now - *first >= SETTING.per)
        {
            source.clear();
        }
        source.push(now);
        if source.len() == 150 {
            source.clear();
            self.locked_sources.insert(pair.1, now + SETTING.per);
        }
    }
}

fn simulate(seed: u64) {
    let mut dice = Dice(seed);
    let (mut world, mut reference) = (World::new(), Reference::default());
    // Few users make locks, many make full sources.
    let users = 1 + dice.roll(200);
    let pace = 1 + dice.roll(20);
    for step in 0..5000 {
        if dice.roll(10) == 0 {
            world.wait(dice.roll(pace));
        }
        let pair = (dice.roll(users), dice.roll(3));
        let password = dice.roll(6);
        let (user, from) = (format!("u{}", pair.0), format!("192.0.2.{}", pair.1));
        let text = match password {
            0 => "right".to_owned(),
            1 => "down".to_owned(),
            other => format!("wrong{other}"),
        };
        let expected = reference.admits(pair, world.now);
        let verified = world.login(&user, &from, &text);
        assert_eq!(
            verified, expected,
            "seed {seed}, step {step}: {user} from {from}, {text}"
        );
        if verified {
            match password {
                0 => reference.counted.entry(pair).or_default().count = 0,
                1 => {}
                other => reference.wrong(pair, other, world.now),
            }
        }
    }
    world.wait(SETTING.per.as_secs());
    // Locked and free alternate for each, and at the end everybody is free.
    let mut locked = HashMap::new();
    for told in &world.told {
        let (who, what) = told.split_once(": ").unwrap();
        let now_locked = what.starts_with("locked");
        let before = locked.insert(who.to_owned(), now_locked);
        assert_ne!(before.unwrap_or(false), now_locked, "seed {seed}: {told}");
    }
    assert!(locked.values().all(|locked| !locked), "seed {seed}");
}

#[test]
fn random_histories_go_as_the_reference_says() {
    for _ in 0..40 {
        let seed = RandomState::new().build_hasher().finish();
        println!("seed {seed}");
        simulate(seed);
    }
}
