//! What one address may write into the trail without a permit: beyond its share it is counted, and what
//! exists is named all the same.

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::support::image::Image;
use crate::support::{Client, Lab, Upstream};

/// Ends the process and returns what it has recorded since the start.
async fn records(lab: &mut Lab) -> Vec<Value> {
    lab.process.signal(Signal::TERM);
    assert!(lab.process.wait().await.success());
    lab.audit().records()
}

/// How many requests records of refusals stand for, and how many bytes they are.
fn told(records: &[Value]) -> (u64, usize) {
    let is_refusal = |record: &&Value| {
        let outcome = record["outcome"].as_str().unwrap();
        ["failed", "denied", "aborted", "limited"].contains(&outcome)
    };
    let refusals = records.iter().filter(is_refusal);
    let (mut count, mut bytes) = (0, 0);
    for record in refusals {
        count += record["count"].as_u64().unwrap_or(1);
        bytes += record.to_string().len();
    }
    (count, bytes)
}

fn names(records: &[Value], key: &str) -> Vec<String> {
    let lists = records.iter().filter_map(|record| record[key].as_array());
    let names = lists
        .flatten()
        .map(|name| name.as_str().unwrap().to_owned());
    names.collect()
}

async fn ask(
    connection: &mut crate::support::http::Connection,
    client: &Client,
    path: &str,
) -> u16 {
    connection.send(client.get(path)).await.status
}

#[tokio::test]
async fn refusals_that_each_name_another_user_fill_no_disk() {
    let mut lab = Lab::start().await;
    let mut connection = lab.anonymous().connect().await;
    for number in 0..2000 {
        // Malformed, so no hash is computed and no lock comes.
        let client = lab
            .anonymous()
            .basic(&format!("{number:06}{}", "é".repeat(120)), "");
        assert_eq!(ask(&mut connection, &client, "/v2/").await, 401);
    }
    let alice = lab.anonymous().basic("alice", "");
    assert_eq!(ask(&mut connection, &alice, "/v2/").await, 401);
    let records = records(&mut lab).await;
    let (count, bytes) = told(&records);
    assert_eq!(count, 2001);
    assert!(bytes < 400_000, "{bytes}");
    // Whoever exists is named, behind thousands who do not.
    let own = records.iter().any(|record| record["user"] == "alice");
    assert!(own || names(&records, "users").contains(&"alice".to_owned()));
}

#[tokio::test]
async fn requests_that_are_given_up_fill_no_disk() {
    let upstream = Upstream::agreeable().await;
    let mut lab = Lab::builder().upstream(upstream.url()).start().await;
    let head = format!(
        "GET /v2/team-a/app/tags/list HTTP/1.1\r\nHost: {}\r\nUser-Agent: {}\r\n\
         Authorization: Basic Og==\r\n\r\n",
        lab.authority(),
        "x".repeat(200),
    );
    for _ in 0..400 {
        let mut stream = lab.anonymous().raw().await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
    }
    let records = records(&mut lab).await;
    let (count, bytes) = told(&records);
    assert_eq!(count, 400);
    assert!(bytes < 200_000, "{bytes}");
}

#[tokio::test]
async fn repositories_that_nobody_has_used_since_the_start_are_named_behind_a_flood() {
    let mut lab = Lab::start().await;
    Image::new(1)
        .push(&lab.registry().client(), "team-b/secret", "v1")
        .await;
    let gina = lab.user("gina");
    let mut connection = gina.connect().await;
    for number in 0..200 {
        let path = format!("/v2/noise/n{number}/tags/list");
        assert_eq!(ask(&mut connection, &gina, &path).await, 403);
    }
    // By now the registry is being asked what it has.
    let asked = "the catalog";
    crate::support::eventually(asked, || {
        let log = std::fs::read_to_string(lab.folder.join("registry.log")).unwrap();
        log.contains("/v2/_catalog").then_some(())
    })
    .await;
    for _ in 0..50 {
        assert_eq!(
            ask(&mut connection, &gina, "/v2/team-b/secret/tags/list").await,
            403
        );
        for number in 0..20 {
            let path = format!("/v2/more/n{number}/tags/list");
            assert_eq!(ask(&mut connection, &gina, &path).await, 403);
        }
    }
    let records = records(&mut lab).await;
    let named = names(&records, "repositories");
    let is_own = |record: &Value| record["repository"] == "team-b/secret";
    assert!(
        records.iter().any(is_own) || named.contains(&"team-b/secret".to_owned()),
        "{named:?}"
    );
}

#[tokio::test]
async fn probes_of_what_exists_are_named_behind_a_flood() {
    let mut lab = Lab::start().await;
    // One that somebody has pushed, and one that a rule spells out.
    Image::new(1)
        .push(&lab.user("bob"), "team-b/secret", "v1")
        .await;
    let config = lab.config();
    let deny = "\n[[deny]]\nrepositories = [\"hr/salaries\"]\nwho = [\"user:gina\"]\n";
    std::fs::write(lab.folder.join("portcullis.toml"), config + deny).unwrap();
    lab.reload().await;
    let gina = lab.user("gina");
    let mut connection = gina.connect().await;
    for number in 0..1000 {
        let path = format!("/v2/noise/n{number}/tags/list");
        assert_eq!(ask(&mut connection, &gina, &path).await, 403);
    }
    for name in ["team-b/secret", "hr/salaries"] {
        let path = format!("/v2/{name}/tags/list");
        assert_eq!(ask(&mut connection, &gina, &path).await, 403);
    }
    // What she may is on record by itself, whatever else she does.
    let path = "/v2/team-a/app/tags/list";
    let status = ask(&mut connection, &gina, path).await;
    let records = records(&mut lab).await;
    assert_eq!(told(&records).0, 1002);
    let named = names(&records, "repositories");
    for name in ["team-b/secret", "hr/salaries"] {
        let own = records
            .iter()
            .any(|record| record["repository"] == name && record["status"] == 403);
        assert!(own || named.contains(&name.to_owned()), "{named:?}");
    }
    let own = |record: &&Value| record["repository"] == "team-a/app" && record["status"] == status;
    assert_eq!(records.iter().filter(own).count(), 1);
    let users = names(&records, "users");
    assert!(users.iter().all(|user| user == "gina"), "{users:?}");
}
