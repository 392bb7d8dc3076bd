//! The catalog shows what one may pull.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::image::Image;
use crate::support::lab::POLICY;
use crate::support::{Answer, Client, Http, Lab, Reply, Upstream, eventually};

const REPOS: [&str; 9] = [
    "home/alice/x",
    "home/bob/y",
    "public/a",
    "public/b",
    "team-a/1",
    "team-a/2",
    "team-a/3",
    "team-b/1",
    "zoo/1",
];

async fn filled() -> Lab {
    let lab = Lab::start().await;
    for repo in REPOS {
        Image::new(1)
            .push(&lab.registry().client(), repo, "v1")
            .await;
    }
    lab
}

fn names(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let names = json["repositories"].as_array().unwrap().iter();
    names
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

/// Where the next page is.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let (target, rest) = link.trim_start_matches('<').split_once('>').unwrap();
    assert_eq!(rest, "; rel=\"next\"");
    assert!(target.starts_with("/v2/_catalog?"), "{link}");
    Some(target.to_owned())
}

async fn pages(client: &Client, n: usize) -> Vec<Vec<String>> {
    let mut path = format!("/v2/_catalog?n={n}");
    let mut pages = Vec::new();
    loop {
        let answer = client.get(&path).send().await;
        pages.push(names(&answer));
        match next(&answer) {
            Some(link) => path = link,
            None => return pages,
        }
        assert!(pages.len() < 20, "endless: {pages:?}");
    }
}

fn visible(user: &str) -> Vec<&'static str> {
    let may = |repo: &&str| match user {
        "ada" => true,
        "alice" => ["home/alice/", "public/", "team-a/"]
            .iter()
            .any(|start| repo.starts_with(start)),
        "bob" => ["home/bob/", "public/", "team-b/"]
            .iter()
            .any(|start| repo.starts_with(start)),
        _ => repo.starts_with("public/"),
    };
    REPOS.into_iter().filter(may).collect()
}

#[tokio::test]
async fn everybody_sees_what_he_may_pull() {
    let lab = filled().await;
    for user in ["ada", "alice", "bob", "stranger"] {
        let answer = lab.user(user).get("/v2/_catalog").send().await;
        assert_eq!(names(&answer), visible(user), "{user}");
        assert_eq!(next(&answer), None);
    }
    // Anonymous callers too, with a token, as clients ask for one.
    let asked = lab.anonymous().get("/v2/_catalog").send().await;
    asked.assert_problem(401, "UNAUTHORIZED");
    let challenge = asked.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("scope=\"registry:catalog:*\""),
        "{challenge}"
    );
    let path = format!(
        "/token?service={}&scope=registry:catalog:*",
        lab.authority()
    );
    let token = lab.anonymous().get(&path).send().await.json();
    let nobody = lab.anonymous().bearer(token["token"].as_str().unwrap());
    let shown = nobody.get("/v2/_catalog").send().await;
    assert_eq!(names(&shown), visible("anonymous"));
}

#[tokio::test]
async fn pages_are_full_in_order_and_complete() {
    let lab = filled().await;
    for user in ["ada", "alice", "bob", "stranger"] {
        for n in [1, 2, 3, 4, 100] {
            let pages = pages(&lab.user(user), n).await;
            let all: Vec<_> = pages.concat();
            assert_eq!(all, visible(user), "{user} by {n}");
            let (last, full) = pages.split_last().unwrap();
            assert!(
                full.iter().all(|page| page.len() == n),
                "{user} by {n}: {pages:?}"
            );
            assert!(last.len() <= n);
        }
    }
}

#[tokio::test]
async fn last_says_where_to_begin() {
    let lab = filled().await;
    let alice = lab.user("alice");
    let after = async |last: &str| {
        names(
            &alice
                .get(&format!("/v2/_catalog?n=2&last={last}"))
                .send()
                .await,
        )
    };
    assert_eq!(after("public/b").await, ["team-a/1", "team-a/2"]);
    // Also when it is no name she may see, or none at all.
    assert_eq!(after("team-b/1").await, Vec::<String>::new());
    assert_eq!(after("q").await, ["team-a/1", "team-a/2"]);
}

#[tokio::test]
async fn odd_page_sizes_are_refused_or_bounded() {
    let lab = filled().await;
    let alice = lab.user("alice");
    for n in ["x", "-1", "1e3", "0x2", "%20", "1;2"] {
        let answer = alice.get(&format!("/v2/_catalog?n={n}")).send().await;
        assert_eq!(answer.status, 400, "{n}: {answer:?}");
    }
    for n in ["99999999999999999999", "4294967295", "100000"] {
        let answer = alice.get(&format!("/v2/_catalog?n={n}")).send().await;
        assert_eq!(names(&answer), visible("alice"), "{n}");
        let whole = lab.user("ada").get(&format!("/v2/_catalog?n={n}")).send();
        assert_eq!(whole.await.status, 200, "{n}");
    }
    for user in ["alice", "ada"] {
        let none = lab.user(user).get("/v2/_catalog?n=0").send().await;
        assert_eq!(names(&none), Vec::<String>::new(), "{user}");
    }
    let both = alice.get("/v2/_catalog?n=1&n=2").send().await;
    assert_eq!(both.status, 400);
}

#[tokio::test]
async fn a_catalog_that_leads_in_a_circle_has_an_end() {
    let upstream = Upstream::start(|seen| {
        let name = match seen.target().ends_with("hidden%2Fa") {
            true => "hidden/b",
            false => "hidden/a",
        };
        let body = format!("{{\"repositories\":[\"{name}\"]}}");
        let head =
            "HTTP/1.1 200 OK\r\nLink: </v2/_catalog?last=x&n=1>; rel=\"next\"\r\nContent-Length";
        Reply::Say(format!("{head}: {}\r\n\r\n{body}", body.len()).into_bytes())
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let answer = lab.user("alice").get("/v2/_catalog").send().await;
    answer.assert_problem(502, "UNAVAILABLE");
    let asked = upstream.take().len();
    assert!((2..=1000).contains(&asked), "{asked}");
}

fn is_listing(target: &str) -> bool {
    target.starts_with("/v2/_catalog")
}

fn listings(upstream: &Upstream) -> usize {
    let seen = upstream.seen();
    seen.iter().filter(|seen| is_listing(seen.target())).count()
}

#[tokio::test]
async fn who_can_be_shown_nothing_costs_the_registry_nothing() {
    let upstream = Upstream::start(|_| Reply::ok("{\"repositories\":[\"team-a/x\"]}")).await;
    let policy = POLICY.replace("[\"anonymous\"]", "[\"user:nobody\"]");
    let policy = policy.replace("[\"authenticated\"]", "[\"user:nobody\"]");
    let lab = Lab::builder().upstream(upstream.url()).policy(&policy);
    let lab = lab.start().await;
    for client in [lab.anonymous().basic("", ""), lab.user("stranger")] {
        for path in ["/v2/_catalog", "/v2/_catalog?n=5&last=a"] {
            let answer = client.get(path).send().await;
            assert_eq!(names(&answer), Vec::<String>::new());
            assert_eq!(next(&answer), None);
        }
    }
    assert_eq!(listings(&upstream), 0);
    assert_eq!(
        names(&lab.user("alice").get("/v2/_catalog").send().await),
        ["team-a/x"]
    );
    assert_eq!(listings(&upstream), 1);
}

#[tokio::test]
async fn not_everybody_has_the_registry_list_at_a_time() {
    // The registry answers nobody who asks for its list until it is let; the double awaits that.
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let upstream = Upstream::start(move |seen| {
        let list = Reply::ok("{\"repositories\":[\"public/a\",\"team-a/x\"]}");
        if let Reply::Say(list) = &list
            && is_listing(seen.target())
        {
            return Reply::After(Arc::clone(&opened), list.clone());
        }
        list
    })
    .await;
    let begun = async |number| {
        let begun = || (listings(&upstream) == number).then_some(());
        eventually("another listing", begun).await;
    };
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let stranger = lab.anonymous().basic("", "").over(Http::Two);
    let alice = lab.user("alice").over(Http::Two);
    let mut strangers = JoinSet::new();
    for number in 1..=3 {
        strangers.spawn(stranger.get("/v2/_catalog").send());
        begun(number).await;
    }
    for _ in 0..40 {
        strangers.spawn(stranger.get("/v2/_catalog").send());
    }
    // Users and everything else go on, and of the strangers nobody is asked for before their turn.
    let list = tokio::spawn(alice.get("/v2/_catalog").send());
    begun(4).await;
    for _ in 0..8 {
        let tags = alice.get("/v2/team-a/app/tags/list").send().await;
        assert_eq!(tags.status, 200);
    }
    assert_eq!(listings(&upstream), 4);
    gate.add_permits(1000);
    assert_eq!(names(&list.await.unwrap()), ["public/a", "team-a/x"]);
    while let Some(answer) = strangers.join_next().await {
        assert_eq!(names(&answer.unwrap()), ["public/a"]);
    }
    let asked = listings(&upstream);
    assert!(asked <= 10, "{asked} for 44 readers");
}

#[tokio::test]
async fn a_list_read_page_by_page_is_read_once() {
    let names: Vec<_> = (10..35)
        .map(|number| format!("\"public/{number}\""))
        .collect();
    let body = format!("{{\"repositories\":[{}]}}", names.join(","));
    let upstream = Upstream::start(move |_| Reply::ok(&body)).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let pages = pages(&lab.user("alice"), 4).await;
    assert_eq!(pages.concat().len(), 25);
    assert_eq!(listings(&upstream), 1);
}

#[tokio::test]
async fn what_was_pushed_is_in_the_next_page() {
    let lab = filled().await;
    let alice = lab.user("alice");
    let first = alice.get("/v2/_catalog?n=2").send().await;
    assert_eq!(names(&first), ["home/alice/x", "public/a"]);
    Image::new(1).push(&alice, "team-a/new", "v1").await;
    let rest = alice.get(&next(&first).unwrap()).send().await;
    assert_eq!(names(&rest), ["public/b", "team-a/1"]);
    let rest = alice.get("/v2/_catalog?n=9&last=public/b").send().await;
    assert!(names(&rest).contains(&"team-a/new".to_owned()), "{rest:?}");
    let all = alice.get("/v2/_catalog").send().await;
    assert!(names(&all).contains(&"team-a/new".to_owned()), "{all:?}");
}
