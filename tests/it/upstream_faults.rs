//! A registry that is down, hangs, lies or dies.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::image::{MANIFEST, begin_upload, noise};
use crate::support::registry::Registry;
use crate::support::{Http, Lab, Reply, Upstream};

const TAGS: &str = "/v2/team-a/app/tags/list";

#[tokio::test]
async fn a_dead_registry_is_unavailable_and_comes_back() {
    let mut lab = Lab::start().await;
    let alice = lab.user("alice");
    assert_eq!(alice.get(TAGS).send().await.status, 404);
    let address = lab.registry().address;
    let registry = &mut lab.registry_mut().process;
    registry.signal(Signal::KILL);
    registry.wait().await;
    for http in Http::BOTH {
        let answer = alice.over(http).get(TAGS).send().await;
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
        answer.assert_problem(answer.status, "UNAVAILABLE");
        let push = alice
            .over(http)
            .post("/v2/team-a/app/blobs/uploads/")
            .send()
            .await;
        push.assert_problem(push.status, "UNAVAILABLE");
    }
    // Credentials are judged without it; never is an outage a 401.
    assert_eq!(alice.get("/v2/").send().await.status, 200);
    assert_eq!(lab.user("bob").get(TAGS).send().await.status, 403);
    let again = Registry::try_start(&lab.folder, address).await;
    assert!(again.is_some(), "somebody took the registry's port");
    assert_eq!(alice.get(TAGS).send().await.status, 404);
}

#[tokio::test]
async fn a_hanging_registry_times_out() {
    let upstream = Upstream::start(|_| Reply::Hang).await;
    let builder = Lab::builder().upstream(upstream.url());
    let lab = builder
        .upstream_keys("response_timeout = \"1s\"")
        .start()
        .await;
    for http in Http::BOTH {
        let begun = Instant::now();
        let answer = lab.user("alice").over(http).get(TAGS).send().await;
        answer.assert_problem(504, "UNAVAILABLE");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

/// The client sends a blob in a PATCH and an empty PUT, or as a whole.
#[tokio::test]
async fn a_write_has_a_time_of_its_own_from_its_last_byte() {
    let upstream = Upstream::start(|_| Reply::Hang).await;
    let keys = "response_timeout = \"1s\"\ncommit_timeout = \"3s\"";
    let builder = Lab::builder().upstream(upstream.url());
    let lab = builder.upstream_keys(keys).start().await;
    let path = "/v2/team-a/app/manifests/v1";
    for body in ["", "{}"] {
        let begun = Instant::now();
        let put = lab.user("alice").put(path).body(body);
        let answer = put.header("content-type", MANIFEST).send().await;
        answer.assert_problem(504, "UNAVAILABLE");
        assert!(begun.elapsed() >= Duration::from_secs(3), "{body:?}");
    }
    let begun = Instant::now();
    let answer = lab.user("alice").get(TAGS).send().await;
    answer.assert_problem(504, "UNAVAILABLE");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_answer_cut_short_is_visibly_so() {
    let upstream = Upstream::start(|seen| {
        let head = match seen.target().contains("chunked") {
            true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
            false => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n12345",
        };
        Reply::SayAndClose(head.as_bytes().to_vec())
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    for http in Http::BOTH {
        for tag in ["chunked", "length"] {
            let path = format!("/v2/team-a/app/manifests/{tag}");
            let outcome = lab.user("alice").over(http).get(&path).try_send().await;
            assert!(outcome.is_err(), "taken for whole: {outcome:?}");
            let record = lab
                .audit()
                .find("the record", |record| record["reference"] == tag)
                .await;
            assert_eq!(record["outcome"], "error", "{record:#}");
        }
    }
}

/// Answers once on each connection; the next request on it finds it closed.
async fn once_per_connection(answered: &'static AtomicU32) -> Upstream {
    Upstream::start(move |seen| {
        if seen.turn > 0 {
            return Reply::SayAndClose(Vec::new());
        }
        answered.fetch_add(1, Ordering::Relaxed);
        Reply::ok("{}")
    })
    .await
}

#[tokio::test]
async fn a_stale_connection_is_replaced_for_safe_requests() {
    static ANSWERED: AtomicU32 = AtomicU32::new(0);
    let upstream = once_per_connection(&ANSWERED).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let alice = lab.user("alice");
    for _ in 0..5 {
        let answer = alice.get(TAGS).send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    static ANSWERED: AtomicU32 = AtomicU32::new(0);
    let upstream = once_per_connection(&ANSWERED).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let alice = lab.user("alice");
    for round in 0..5 {
        // Leaves a connection in the pool that will fail the next request.
        assert_eq!(alice.get(TAGS).send().await.status, 200);
        upstream.take();
        let answer = alice
            .post("/v2/team-a/app/blobs/uploads/")
            .header("content-type", "application/octet-stream")
            .body(noise(round, 100))
            .send()
            .await;
        let sent = upstream.take();
        assert_eq!(sent.len(), 1, "{round}: {sent:#?}");
        assert!(matches!(answer.status, 200 | 502 | 503), "{answer:?}");
    }
}

#[tokio::test]
async fn a_registry_that_answers_early_is_heard() {
    use crate::support::http::Outgoing;
    let mut lab = Lab::start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    // The session is gone at the registry: it refuses without reading the body.
    assert_eq!(alice.delete(&session).send().await.status, 204);
    for http in Http::BOTH {
        let (feeder, body) = Outgoing::fed();
        let sent = tokio::spawn(alice.over(http).patch(&session).body(body).try_send());
        feeder.send(Ok(noise(1, 1000))).await.unwrap();
        drop(feeder);
        let answer = sent.await.unwrap().unwrap();
        assert_eq!(answer.status, 404, "{answer:?}");
    }
    assert!(lab.process.exited().is_none());
}

#[tokio::test]
async fn when_the_client_leaves_the_transfer_upstream_ends() {
    let upstream = Upstream::start(|_| {
        Reply::SayAndHang(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n12345".to_vec())
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    drop(
        lab.user("alice")
            .get("/v2/team-a/app/manifests/v1")
            .open()
            .await,
    );
    let port = upstream.address.port();
    crate::support::eventually("the end of the connection upstream", || {
        (established(port) == 0).then_some(())
    })
    .await;
}

/// How many connections from this machine to a loopback port are open.
fn established(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let wanted = format!("0100007F:{port:04X}");
    let open = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // State 01 is ESTABLISHED; the third field is the other end.
        fields.get(2) == Some(&wanted.as_str()) && fields.get(3) == Some(&"01")
    };
    table.lines().filter(open).count()
}
