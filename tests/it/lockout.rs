//! Guessing passwords gets nobody anywhere, and hurts nobody else.

use std::collections::HashSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::lab::htpasswd;
use crate::support::{Answer, Client, Lab, Upstream, eventually, password};

/// With room for three wrong passwords a minute.
async fn strict() -> Lab {
    limited("failed_logins = { count = 3, per = \"60s\" }").await
}

async fn limited(limits: &str) -> Lab {
    // Who is who does not depend on what stands behind.
    let upstream = Upstream::agreeable().await;
    let more = format!("[limits]\n{limits}\n");
    let lab = Lab::builder()
        .upstream(upstream.url())
        .more(&more)
        .start()
        .await;
    // Nothing is forwarded here.
    drop(upstream);
    lab
}

async fn ping(client: &Client) -> Answer {
    client.get("/v2/").send().await
}

async fn guess(client: &Client, user: &str, number: u32) -> Answer {
    ping(&client.basic(user, &format!("wrong{number}"))).await
}

/// Everything that a client can tell, but for the reference and how many seconds are left.
fn face(answer: &Answer) -> (u16, Vec<String>, String) {
    let mut headers: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    let text = answer.text().replace(&answer.reference(), "REF");
    let digits = |text: &str| text.chars().filter(|c| !c.is_ascii_digit()).collect();
    (answer.status, headers, digits(&text))
}

fn lockouts(lab: &Lab) -> Vec<Value> {
    let mut records = lab.audit().records();
    records.retain(|record| record["event"] == "lockout");
    records
}

#[tokio::test]
async fn too_many_wrong_passwords_lock_the_user_for_that_network_only() {
    let lab = strict().await;
    let (here, there) = (lab.anonymous(), lab.anonymous().out_of([127, 0, 0, 2]));
    for number in 0..3 {
        guess(&here, "alice", number)
            .await
            .assert_problem(401, "UNAUTHORIZED");
    }
    // Whatever comes now, right or wrong, by header or by form.
    let right = here.basic("alice", &password("alice"));
    for answer in [
        guess(&here, "alice", 3).await,
        guess(&here, "alice", 0).await,
        ping(&right).await,
        right.get("/token").send().await,
        right.get("/v2/public/app/tags/list").send().await,
        here.post("/token")
            .form(&[
                ("grant_type", "password"),
                ("username", "alice"),
                ("password", &password("alice")),
                ("service", &lab.authority()),
                ("client_id", "test"),
            ])
            .send()
            .await,
    ] {
        answer.assert_problem(429, "TOOMANYREQUESTS");
        let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&seconds), "{answer:?}");
        assert!(answer.header("www-authenticate").is_none(), "{answer:?}");
        assert!(answer.text().contains("wait"), "{answer:?}");
    }
    // Others from here, and the same user from elsewhere, are not concerned.
    assert_eq!(ping(&lab.user("bob")).await.status, 200);
    let elsewhere = there.basic("alice", &password("alice"));
    assert_eq!(ping(&elsewhere).await.status, 200);
    ping(&here).await.assert_problem(401, "UNAUTHORIZED");
    ping(&right).await.assert_problem(429, "TOOMANYREQUESTS");

    let [locked] = &lockouts(&lab)[..] else {
        panic!("{:?}", lockouts(&lab))
    };
    assert_eq!(
        (&locked["outcome"], &locked["user"], &locked["client"]),
        (&"limited".into(), &Value::Null, &"127.0.0.1".into())
    );
    let reason = locked["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("alice locked from 127.0.0.1/32 for "),
        "{reason}"
    );
    let mut records = lab.audit().records();
    records.retain(|record| record["status"] == 429);
    assert_eq!(records.len(), 7);
    for record in &records {
        assert_eq!(record["outcome"], "limited", "{record}");
        assert_eq!(record["user"], "alice", "{record}");
        assert_eq!(record["reason"], "too many wrong passwords", "{record}");
        assert_eq!(record["auth"], "htpasswd", "{record}");
    }
    lab.assert_no_secret(&["wrong0", "wrong1", "wrong2", "wrong3"]);
}

#[tokio::test]
async fn another_spelling_is_the_same_user() {
    let lab = strict().await;
    let nobody = lab.anonymous();
    for (number, user) in (0..).zip(["alice", "Alice", "ALICE"]) {
        assert_eq!(guess(&nobody, user, number).await.status, 401);
    }
    for user in ["alice", "aLICE", "alice "] {
        assert_eq!(guess(&nobody, user, 9).await.status, 429, "{user}");
    }
}

#[tokio::test]
async fn an_ipv6_network_is_another_network() {
    if !crate::support::process::has_ipv6() {
        return crate::support::process::skip("this machine has no ::1");
    }
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .dual_stack()
        .more("[limits]\nfailed_logins = { count = 2, per = \"60s\" }\n")
        .start()
        .await;
    let mut six = lab.anonymous();
    six.address = (std::net::Ipv6Addr::LOCALHOST, lab.address.port()).into();
    six.source = std::net::Ipv6Addr::UNSPECIFIED.into();
    for number in 0..2 {
        assert_eq!(guess(&six, "alice", number).await.status, 401);
    }
    assert_eq!(guess(&six, "alice", 2).await.status, 429);
    assert_eq!(ping(&lab.user("alice")).await.status, 200);
}

#[tokio::test]
async fn the_same_wrong_password_any_number_of_times_is_one() {
    let lab = strict().await;
    for _ in 0..50 {
        let answer = ping(&lab.anonymous().basic("alice", "old-password")).await;
        assert_eq!(answer.status, 401);
    }
    assert_eq!(ping(&lab.user("alice")).await.status, 200);
    assert!(lockouts(&lab).is_empty());
}

#[tokio::test]
async fn a_right_password_clears_the_count() {
    let lab = strict().await;
    for round in 0..4 {
        for number in 0..2 {
            let answer = guess(&lab.anonymous(), "alice", round * 10 + number).await;
            assert_eq!(answer.status, 401);
        }
        assert_eq!(ping(&lab.user("alice")).await.status, 200);
    }
}

#[tokio::test]
async fn what_is_no_wrong_password_does_not_count() {
    let lab = strict().await;
    let nobody = lab.anonymous();
    for _ in 0..10 {
        assert_eq!(ping(&nobody).await.status, 401);
        assert_eq!(ping(&nobody.basic("alice", "")).await.status, 401);
        assert_eq!(ping(&nobody.basic("alice", "a\nb")).await.status, 401);
        assert_eq!(ping(&nobody.bearer("not.a.token")).await.status, 401);
        let junk = nobody.with_authorization("Basic !!!");
        assert_eq!(ping(&junk).await.status, 401);
    }
    assert_eq!(ping(&lab.user("alice")).await.status, 200);
}

#[tokio::test]
async fn who_has_an_account_is_not_told_by_a_lock() {
    let lab = strict().await;
    let nobody = lab.anonymous();
    for number in 0..5 {
        let known = guess(&nobody, "alice", number).await;
        let unknown = guess(&nobody, "nosuchuser", number).await;
        assert_eq!(face(&known), face(&unknown), "{number}");
        assert_eq!(known.status, if number < 3 { 401 } else { 429 });
    }
}

#[tokio::test]
async fn many_guesses_at_once_are_no_way_around() {
    let lab = strict().await;
    let guesses: Vec<_> = (0..40)
        .map(|number| {
            let client = lab.anonymous();
            tokio::spawn(async move { guess(&client, "alice", number).await.status })
        })
        .collect();
    let mut verified = 0;
    for guess in guesses {
        match guess.await.unwrap() {
            401 => verified += 1,
            status => assert_eq!(status, 429),
        }
    }
    assert_eq!(verified, 3);
}

#[tokio::test]
async fn a_lock_ends_and_both_changes_are_recorded() {
    let lab = limited("failed_logins = { count = 2, per = \"2s\" }").await;
    for number in 0..2 {
        assert_eq!(guess(&lab.anonymous(), "alice", number).await.status, 401);
    }
    let locked = ping(&lab.user("alice")).await;
    assert_eq!(locked.status, 429);
    let records = eventually("the end of the lock", || {
        let records = lockouts(&lab);
        (records.len() == 2).then_some(records)
    })
    .await;
    assert_eq!(records[0]["outcome"], "limited");
    assert_eq!(records[1]["outcome"], "allowed");
    let reason = records[1]["reason"].as_str().unwrap();
    assert!(reason.starts_with("alice free again from "), "{reason}");
    assert_eq!(ping(&lab.user("alice")).await.status, 200);
}

#[tokio::test]
async fn a_reload_forgives_nobody_and_takes_new_limits_over() {
    let lab = strict().await;
    for number in 0..3 {
        guess(&lab.anonymous(), "alice", number).await;
    }
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(ping(&lab.user("alice")).await.status, 429);
    let config = lab.config().replace("count = 3", "count = 0");
    lab.folder.replace("portcullis.toml", config);
    assert_eq!(lab.reload().await, "allowed");
    assert_eq!(ping(&lab.user("alice")).await.status, 200);
    for number in 0..20 {
        assert_eq!(guess(&lab.anonymous(), "alice", number).await.status, 401);
    }
}

#[tokio::test]
async fn many_users_from_one_network_have_a_ceiling() {
    let lab = limited("failed_logins = { count = 1, per = \"60s\" }").await;
    let one = lab.anonymous().out_of([127, 0, 0, 9]);
    for number in 0..50 {
        let user = format!("user{number}");
        assert_eq!(guess(&one, &user, 0).await.status, 401, "{user}");
    }
    let bob = one.basic("bob", &password("bob"));
    ping(&bob).await.assert_problem(429, "TOOMANYREQUESTS");
    assert_eq!(ping(&lab.user("bob")).await.status, 200);
    // Those who need no password go on.
    let public = one.get("/v2/public/app/tags/list").send().await;
    assert_ne!(public.status, 429, "{public:?}");
}

#[tokio::test]
async fn a_flood_of_wrong_logins_does_not_keep_others_out() {
    let lab = Lab::start().await;
    // Hashes that take their time.
    let slow = bcrypt::hash("slow", 10).unwrap();
    let users = lab.folder.read("htpasswd") + &format!("slow:{slow}\n") + &htpasswd(&[("x", "y")]);
    lab.folder.replace("htpasswd", users);
    assert_eq!(lab.reload().await, "allowed");
    let flood: Vec<_> = (0..8_u8)
        .map(|source| {
            let client = lab.anonymous().out_of([127, 0, 1, source]);
            tokio::spawn(async move {
                let mut seen = HashSet::new();
                for number in 0.. {
                    let user = if number % 3 == 0 { "slow" } else { "alice" };
                    seen.insert(guess(&client, user, number).await.status);
                    if number > 40 {
                        break;
                    }
                }
                seen
            })
        })
        .collect();
    for _ in 0..10 {
        for user in ["alice", "bob"] {
            let answer = ping(&lab.user(user)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    for client in flood {
        let seen = client.await.unwrap();
        assert!(seen.contains(&429), "{seen:?}");
    }
    lab.process.signal(Signal::TERM);
}

#[tokio::test]
async fn a_certificate_exempts_only_guesses_for_the_user_that_it_names() {
    let lab = Lab::builder()
        .upstream("http://127.0.0.1:9")
        .more("[limits]\nfailed_logins = { count = 2, per = \"60s\" }\n")
        .client_certificates("mode = \"optional\"\nusername = [\"subject.cn\"]")
        .start()
        .await;
    let (own, other) = (lab.pki.client("alice"), lab.pki.client("machine"));
    let (own, other) = (lab.showing(&own), lab.showing(&other));
    for number in 0..4 {
        assert_eq!(guess(&own, "alice", number).await.status, 401);
    }
    let statuses = [
        guess(&other, "alice", 10).await.status,
        guess(&other, "alice", 11).await.status,
        guess(&other, "alice", 12).await.status,
    ];
    assert_eq!(statuses.last(), Some(&429), "{statuses:?}");
    let alice = own.basic("alice", &password("alice"));
    assert_eq!(ping(&alice).await.status, 200);
}
