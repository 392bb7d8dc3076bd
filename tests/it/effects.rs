//! A write whose body is whole is done to its end and recorded as what it was, whether its client stays
//! or not; one whose body is not whole ends with its client.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::support::folder::Folder;
use crate::support::http::{Client, Outgoing};
use crate::support::image::{Image, begin_upload, digest, noise, push_blob, with_digest};
use crate::support::{Http, Lab, Reply, Upstream, eventually};

const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const MANIFEST: &str = r#"{"schemaVersion":2}"#;

/// A registry that has nothing, and stores a manifest when the test lets it.
async fn slow_registry(stored: &Arc<Semaphore>) -> Upstream {
    let stored = Arc::clone(stored);
    Upstream::start(move |seen| match seen.method() {
        "PUT" | "DELETE" => {
            let status = if seen.method() == "PUT" {
                "201 Created"
            } else {
                "202 Accepted"
            };
            let bytes = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            Reply::After(Arc::clone(&stored), bytes.into_bytes())
        }
        _ => Reply::status("404 Not Found", "{}"),
    })
    .await
}

fn put(client: &Client, path: &str) -> crate::support::http::Call {
    client.put(path).header("content-type", TYPE).body(MANIFEST)
}

/// Sends a request and leaves as soon as the registry has it.
async fn send_and_leave(upstream: &Upstream, call: crate::support::http::Call) {
    let before = upstream.seen().len();
    let sent = tokio::spawn(call.try_send());
    let is_it = |method: &str| matches!(method, "PUT" | "DELETE");
    eventually("the write upstream", || {
        let seen = upstream.seen();
        seen[before..]
            .iter()
            .any(|seen| is_it(seen.method()))
            .then_some(())
    })
    .await;
    sent.abort();
    assert!(sent.await.unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_stream_that_is_reset_takes_no_write_with_it() {
    let stored = Arc::new(Semaphore::new(0));
    let upstream = slow_registry(&stored).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let mona = lab.user("mona").over(Http::Two);
    let mut connection = mona.connect().await;
    {
        // Dropped, the request is reset, and its connection lives on.
        let sending = connection.send(put(&mona, "/v2/team-a/app/manifests/v1"));
        let arrived = upstream.request(0);
        tokio::select! {
            _early = sending => panic!("it was answered"),
            _seen = arrived => {}
        }
    }
    // Whoever reads this answer has read the reset before.
    let next = connection.send(mona.get("/v2/")).await;
    assert_eq!(next.status, 200);
    stored.add_permits(1);
    let record = record_of(&lab, "v1").await;
    assert_eq!(record["outcome"], "allowed", "{record:#}");
    assert_eq!(
        (&record["status"], &record["client_left"]),
        (&201.into(), &true.into())
    );
}

async fn record_of(lab: &Lab, reference: &str) -> Value {
    lab.audit()
        .find("the record", |record| record["reference"] == reference)
        .await
}

#[tokio::test]
async fn what_was_sent_whole_is_done_and_recorded_when_its_client_leaves() {
    for http in Http::BOTH {
        let stored = Arc::new(Semaphore::new(0));
        let upstream = slow_registry(&stored).await;
        let lab = Lab::builder().upstream(upstream.url()).start().await;
        let mona = lab.user("mona").over(http);
        let tag = "/v2/team-a/app/manifests/v1";
        send_and_leave(&upstream, put(&mona, tag)).await;
        // Through a reload, too.
        lab.reload().await;
        stored.add_permits(1);
        let record = record_of(&lab, "v1").await;
        assert_eq!(record["outcome"], "allowed", "{record:#}");
        assert_eq!(
            (&record["status"], &record["upstream_status"]),
            (&201.into(), &201.into())
        );
        assert_eq!(record["client_left"], true);
        assert_eq!(record["user"], "mona");
        let content = digest(MANIFEST.as_bytes());
        assert_eq!(record["digest"], content);

        let path = format!("/v2/team-a/app/manifests/{content}");
        send_and_leave(&upstream, mona.delete(&path)).await;
        lab.reload().await;
        stored.add_permits(1);
        let record = record_of(&lab, &content).await;
        assert_eq!(record["outcome"], "allowed", "{record:#}");
        assert_eq!(
            (&record["status"], &record["client_left"]),
            (&202.into(), &true.into())
        );
    }
}

#[tokio::test]
async fn a_registry_that_never_answers_is_on_record_when_the_client_has_left() {
    let upstream = slow_registry(&Arc::new(Semaphore::new(0))).await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys("response_timeout = \"1s\"\ncommit_timeout = \"1s\"")
        .start()
        .await;
    send_and_leave(
        &upstream,
        put(&lab.user("mona"), "/v2/team-a/app/manifests/v1"),
    )
    .await;
    let record = record_of(&lab, "v1").await;
    assert_eq!(
        (&record["outcome"], &record["status"]),
        (&"error".into(), &504.into())
    );
    assert_eq!(record["client_left"], true);
}

#[tokio::test]
async fn a_drain_waits_for_what_clients_left_and_ends_it_on_record() {
    for is_stored in [true, false] {
        let stored = Arc::new(Semaphore::new(0));
        let upstream = slow_registry(&stored).await;
        let limit = if is_stored { "60s" } else { "1s" };
        let mut lab = Lab::builder()
            .upstream(upstream.url())
            .server(&format!("drain_timeout = \"{limit}\""))
            .start()
            .await;
        send_and_leave(
            &upstream,
            put(&lab.user("mona"), "/v2/team-a/app/manifests/v1"),
        )
        .await;
        lab.process.signal(Signal::TERM);
        eventually("the listener's end", || {
            std::net::TcpStream::connect(lab.address).err()
        })
        .await;
        if is_stored {
            assert!(lab.process.exited().is_none());
            stored.add_permits(1);
        }
        assert_eq!(lab.process.wait().await.code(), Some(0));
        let record = record_of(&lab, "v1").await;
        let outcome = if is_stored { "allowed" } else { "error" };
        assert_eq!(record["outcome"], outcome, "{record:#}");
        assert_eq!(record["client_left"], true);
        let last = lab.audit().records().pop().unwrap();
        assert_eq!(last["event"], "stop");
    }
}

#[tokio::test]
async fn what_is_not_whole_at_the_end_of_a_drain_is_aborted() {
    let stored = Arc::new(Semaphore::new(10));
    let upstream = slow_registry(&stored).await;
    let mut lab = Lab::builder()
        .upstream(upstream.url())
        .server("drain_timeout = \"1s\"")
        .start()
        .await;
    let (feeder, body) = Outgoing::fed();
    let call = lab.user("mona").put("/v2/team-a/app/manifests/v1");
    let sent = tokio::spawn(call.header("content-type", TYPE).body(body).try_send());
    for part in 0..4 {
        feeder.send(Ok(noise(part, 200_000))).await.unwrap();
    }
    lab.process.signal(Signal::TERM);
    assert_eq!(lab.process.wait().await.code(), Some(0));
    let record = record_of(&lab, "v1").await;
    assert_eq!(record["outcome"], "aborted", "{record:#}");
    assert!(upstream.seen().is_empty());
    drop(feeder);
    drop(sent.await);
}

#[tokio::test]
async fn a_client_who_leaves_before_the_body_is_whole_ends_it() {
    for http in Http::BOTH {
        let stored = Arc::new(Semaphore::new(10));
        let upstream = slow_registry(&stored).await;
        let lab = Lab::builder().upstream(upstream.url()).start().await;
        let mona = lab.user("mona").over(http);
        let (feeder, body) = Outgoing::fed();
        let call = mona
            .put("/v2/team-a/app/manifests/v1")
            .header("content-type", TYPE)
            .body(body);
        let sent = tokio::spawn(call.try_send());
        for part in 0..4 {
            feeder.send(Ok(noise(part, 200_000))).await.unwrap();
        }
        feeder
            .send(Err(std::io::Error::other("enough")))
            .await
            .unwrap();
        assert!(sent.await.unwrap().is_err());
        let record = record_of(&lab, "v1").await;
        assert_eq!(record["outcome"], "aborted", "{record:#}");
        assert!(upstream.seen().is_empty());
    }
}

#[tokio::test]
async fn a_tag_stays_locked_until_the_registry_has_answered() {
    let stored = Arc::new(Semaphore::new(0));
    let upstream = slow_registry(&stored).await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    // Robo may only create.
    let tag = "/v2/team-a/app/manifests/v1";
    send_and_leave(&upstream, put(&lab.user("robo"), tag)).await;
    let writes = |upstream: &Upstream| {
        let seen = upstream.seen();
        seen.iter().filter(|seen| seen.method() == "PUT").count()
    };
    assert_eq!(writes(&upstream), 1);
    // Nobody waits for minutes, and nobody gets through.
    let (second, mover) = (lab.user("robo"), lab.user("mona"));
    let (second, mover) = tokio::join!(put(&second, tag).send(), put(&mover, tag).send());
    second.assert_problem(503, "UNAVAILABLE");
    mover.assert_problem(503, "UNAVAILABLE");
    assert_eq!(writes(&upstream), 1);
    stored.add_permits(2);
    let is_first = |record: &Value| record["client_left"] == true;
    lab.audit().find("the first push", is_first).await;
    assert_eq!(put(&lab.user("mona"), tag).send().await.status, 201);
}

#[tokio::test]
async fn nothing_is_committed_that_the_trail_has_no_room_for() {
    let folder = Folder::new();
    let fifo = folder.join("audit.fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut options = std::fs::OpenOptions::new();
    let mut reader = options.read(true).custom_flags(flags).open(&fifo).unwrap();
    let audit = format!("file = \"{}\"\ntimeout = \"500ms\"", fifo.display());
    let lab = Lab::builder().audit(&audit).start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    // As containerd does it: all of the blob with the digest, in one go.
    let blob = noise(1, 100 << 20);
    let path = with_digest(&session, &digest(&blob));
    let (feeder, body) = Outgoing::fed();
    let sent = tokio::spawn(alice.put(&path).body(body).try_send());
    let last = blob.len() - 1;
    for start in (0..last).step_by(1 << 20) {
        let end = (start + (1 << 20)).min(last);
        feeder.send(Ok(blob.slice(start..end))).await.unwrap();
    }
    // Nobody reads the trail, so it fills up.
    let connection = &mut alice.connect().await;
    while connection
        .send(alice.post("/v2/team-a/app/blobs/uploads/"))
        .await
        .status
        != 503
    {}
    feeder.send(Ok(blob.slice(last..))).await.unwrap();
    drop(feeder);
    let answer = sent.await.unwrap().unwrap();
    answer.assert_problem(503, "UNAVAILABLE");
    let there = format!("/v2/team-a/app/blobs/{}", digest(&blob));
    let direct = lab.registry().client();
    assert_eq!(direct.head(&there).send().await.status, 404);
    // Once it is read again, all is as before.
    let done = Arc::new(AtomicBool::new(false));
    let reading = {
        let done = Arc::clone(&done);
        tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; 65536];
            while !done.load(Ordering::Relaxed) {
                if !matches!(reader.read(&mut bytes), Ok(1..)) {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        })
    };
    while alice
        .post("/v2/team-a/app/blobs/uploads/")
        .send()
        .await
        .status
        != 202
    {}
    assert_eq!(
        push_blob(&alice, "team-a/app", &noise(2, 3000))
            .await
            .status,
        201
    );
    done.store(true, Ordering::Relaxed);
    reading.await.unwrap();
}

#[tokio::test]
async fn a_push_says_what_it_writes_and_refers_to() {
    let lab = Lab::start().await;
    let image = Image::new(7);
    image.push(&lab.user("alice"), "team-a/app", "v1").await;
    let is_push = |record: &Value| record["reference"] == "v1" && record["status"] == 201;
    let record = lab.audit().find("the push", is_push).await;
    assert_eq!(record["digest"], image.digest());
    assert_eq!(record["tags"], serde_json::json!(["v1"]));
    let refers = serde_json::json!([digest(&image.config), digest(&image.layer)]);
    assert_eq!(
        (&record["refers"], &record["refers_count"]),
        (&refers, &2.into())
    );
    assert_eq!(
        (&record["served"], &record["schema"]),
        (&"registry".into(), &2.into())
    );
    let pull = "/v2/team-a/app/manifests/v1";
    let pull = lab.user("gina").get(pull).header("accept", TYPE);
    assert_eq!(pull.send().await.status, 200);
    let is_pull = |record: &Value| record["method"] == "GET" && record["reference"] == "v1";
    let record = lab.audit().find("the pull", is_pull).await;
    assert_eq!(record["digest"], image.digest());
    lab.user("gina")
        .get("/v2/team-a/app/tags/list?n=7&last=a")
        .send()
        .await;
    let is_list = |record: &Value| record["object"] == "tags";
    let record = lab.audit().find("the list", is_list).await;
    assert_eq!(record["query"], "n=7&last=a");
}

/// What becomes of a push of the manifest whose registry answers so: what its client is told, and the
/// record.
async fn pushed_to(head: &'static str, end: fn(Vec<u8>) -> Reply) -> (u16, Value) {
    let upstream = Upstream::start(move |seen| match seen.method() {
        "PUT" => end(format!("HTTP/1.1 {head}\r\n").into_bytes()),
        _ => Reply::status("404 Not Found", "{}"),
    })
    .await;
    let lab = Lab::builder()
        .upstream(upstream.url())
        .upstream_keys("response_timeout = \"1s\"\ncommit_timeout = \"1s\"")
        .start()
        .await;
    let path = "/v2/team-a/app/manifests/v1";
    let answer = put(&lab.user("mona"), path).send().await;
    (answer.status, record_of(&lab, "v1").await)
}

#[tokio::test]
async fn the_record_says_what_the_registry_answered_even_if_no_client_may_see_it() {
    for (head, status) in [
        ("401 Unauthorized\r\nContent-Length: 0\r\n", 401),
        ("307 x\r\nLocation: /x\r\nContent-Length: 0\r\n", 307),
        ("304 Not Modified\r\n", 304),
        ("999 x\r\nContent-Length: 0\r\n", 999),
        ("201 x\r\nContent-Length: 0\r\nContent-Length: 0\r\n", 201),
    ] {
        let (told, record) = pushed_to(head, Reply::Say).await;
        assert_eq!(told, 502, "{head}");
        assert_eq!(record["upstream_status"], status, "{record:#}");
        assert_eq!(
            (&record["status"], &record["outcome"], &record["served"]),
            (&502.into(), &"error".into(), &"proxy".into()),
            "{head}"
        );
    }
}

#[tokio::test]
async fn what_is_done_stays_done_when_the_rest_of_its_answer_is_lost() {
    let part = "201 Created\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nlo";
    let ends: [fn(Vec<u8>) -> Reply; 2] = [Reply::SayAndClose, Reply::SayAndHang];
    for end in ends {
        let (told, record) = pushed_to(part, end).await;
        assert_eq!(told, 201);
        assert_eq!(
            (&record["status"], &record["outcome"]),
            (&201.into(), &"allowed".into()),
            "{record:#}"
        );
        assert_eq!(record["digest"], digest(MANIFEST.as_bytes()));
    }
    let lost = "400 Bad Request\r\nContent-Length: 9\r\n\r\nlo";
    let (told, record) = pushed_to(lost, Reply::SayAndClose).await;
    assert_eq!((told, &record["upstream_status"]), (502, &400.into()));
}

#[tokio::test]
async fn a_record_names_the_content_whatever_the_registry_calls_it() {
    let lie = format!("sha256:{}", "e".repeat(64));
    let upstream = Upstream::start(move |seen| {
        let status = match seen.method() {
            "PUT" => "201 Created",
            "DELETE" => "202 Accepted",
            _ => "200 OK",
        };
        let head = format!("HTTP/1.1 {status}\r\nDocker-Content-Digest: {lie}");
        Reply::Say(format!("{head}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let mona = lab.user("mona");
    let content = digest(MANIFEST.as_bytes());
    let manifest = format!("/v2/team-a/app/manifests/{content}");
    let blob = format!("/v2/team-a/app/blobs/{content}");
    for call in [
        put(&mona, "/v2/team-a/app/manifests/v1"),
        put(&mona, &manifest),
        mona.get(&manifest),
        mona.head(&manifest),
        mona.get(&blob),
        mona.delete(&manifest),
        mona.delete(&blob),
    ] {
        let what = call.to_string();
        let seen = lab.audit().records().len();
        assert!(call.send().await.status < 300, "{what}");
        let record = eventually("the record", || {
            let is_request = |record: &&Value| record["event"] == "request";
            let records = lab.audit().records();
            records[seen..].iter().find(is_request).cloned()
        });
        assert_eq!(record.await["digest"], content, "{what}");
    }
}
