//! Through the proxy every answer is the registry's, header for header, but for the named ones.

use bytes::Bytes;
use http::Method;

use crate::support::folder::Folder;
use crate::support::image::{Image, MANIFEST, digest, noise, with_digest};
use crate::support::registry::Registry;
use crate::support::{Answer, Client, Http, Lab};

/// One request of the recorded set. `$S` is the session of the last `Location`.
struct Step {
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

fn step(method: Method, path: impl Into<String>) -> Step {
    Step {
        method,
        path: path.into(),
        headers: Vec::new(),
        body: Bytes::new(),
    }
}

impl Step {
    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn body(mut self, body: &Bytes) -> Self {
        self.body = body.clone();
        self
    }
}

fn recorded() -> Vec<Step> {
    let (get, head, post) = (|| Method::GET, || Method::HEAD, || Method::POST);
    let (put, patch, delete) = (|| Method::PUT, || Method::PATCH, || Method::DELETE);
    let image = Image::new(42);
    let octets = "application/octet-stream";
    let layer = digest(&image.layer);
    let config = digest(&image.config);
    let chunked = noise(43, 2000);
    let manifest = |reference: &str| format!("/v2/team-a/app/manifests/{reference}");
    let blob = |digest: &str| format!("/v2/team-a/app/blobs/{digest}");
    let uploads = "/v2/team-a/app/blobs/uploads/";
    vec![
        step(get(), "/v2/"),
        step(get(), "/v2/team-a/app/tags/list"),
        step(get(), manifest("v1")),
        step(head(), manifest("v1")),
        step(get(), blob(&layer)),
        step(head(), blob(&layer)),
        step(post(), uploads).header("content-length", "0"),
        step(put(), with_digest("$S", &layer))
            .header("content-type", octets)
            .body(&image.layer),
        step(post(), uploads),
        step(put(), with_digest("$S", &config))
            .header("content-type", octets)
            .body(&image.config),
        step(post(), uploads),
        step(patch(), "$S")
            .header("content-type", octets)
            .body(&chunked.slice(..1000)),
        step(get(), "$S"),
        step(patch(), "$S")
            .header("content-range", "1000-1999")
            .body(&chunked.slice(1000..)),
        step(put(), with_digest("$S", &digest(&chunked))),
        step(post(), uploads),
        step(put(), with_digest("$S", &digest(b"wrong"))).body(&chunked),
        step(post(), uploads),
        step(delete(), "$S"),
        step(
            post(),
            format!("/v2/team-a/two/blobs/uploads/?mount={layer}&from=team-a/app"),
        ),
        step(
            post(),
            format!(
                "/v2/team-a/two/blobs/uploads/?mount={}&from=team-a/app",
                digest(b"n")
            ),
        ),
        step(put(), manifest("v1"))
            .header("content-type", MANIFEST)
            .body(&image.manifest),
        step(put(), manifest("v2"))
            .header("content-type", MANIFEST)
            .body(&image.manifest),
        step(put(), manifest(&image.digest()))
            .header("content-type", MANIFEST)
            .body(&image.manifest),
        step(put(), manifest("bad"))
            .header("content-type", MANIFEST)
            .body(&Bytes::from("{}")),
        step(get(), manifest("v1")).header("accept", MANIFEST),
        step(head(), manifest("v1")).header("accept", MANIFEST),
        step(get(), manifest("v1"))
            .header("accept", "text/x")
            .header("accept", MANIFEST),
        step(get(), manifest("v1")),
        step(get(), manifest(&image.digest())).header("accept", MANIFEST),
        step(get(), manifest(&image.digest()))
            .header("accept", MANIFEST)
            .header("if-none-match", format!("\"{}\"", image.digest())),
        step(get(), manifest("none")),
        step(get(), manifest(&digest(b"none"))),
        step(get(), blob(&layer)),
        step(head(), blob(&layer)),
        step(get(), blob(&layer)).header("range", "bytes=10-19"),
        step(get(), blob(&layer)).header("accept-encoding", "gzip"),
        step(get(), blob(&digest(b"none"))),
        step(get(), "/v2/team-a/app/tags/list"),
        step(get(), "/v2/team-a/app/tags/list?n=1"),
        step(get(), "/v2/team-a/none/tags/list"),
        step(
            get(),
            format!("/v2/team-a/app/referrers/{}", image.digest()),
        ),
        step(get(), "/v2/_catalog"),
        step(get(), "/v2/_catalog?n=1"),
        step(get(), "/v2/_catalog?n=1&last=team-a/app"),
        step(delete(), manifest("v2")),
        step(delete(), blob(&config)),
        step(get(), blob(&config)),
        step(delete(), manifest(&image.digest())),
        step(delete(), manifest(&image.digest())),
        step(get(), manifest("v1")).header("accept", MANIFEST),
    ]
}

async fn play(client: &Client) -> Vec<Answer> {
    let mut session = String::new();
    let mut answers = Vec::new();
    for step in recorded() {
        let path = step.path.replace("$S&", &format!("{session}&"));
        let path = path
            .replace("$S?", &format!("{session}&"))
            .replace("$S", &session);
        let mut call = client.call(step.method, &path).body(step.body);
        for (name, value) in &step.headers {
            call = call.header(name, value);
        }
        let answer = call.send().await;
        if answer.status == 202 && answer.headers.contains_key("location") {
            session = answer.location();
        }
        answers.push(answer);
    }
    answers
}

/// What has to be the same. Sessions have a name of their own at each registry; `Location` is
/// rewritten, so its path is compared; the connection's own headers are not the answer's.
fn comparable(answer: &Answer) -> (u16, Vec<(String, String)>, Bytes) {
    let uuid = answer
        .header("docker-upload-uuid")
        .unwrap_or("no session")
        .to_owned();
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "date" | "connection" | "keep-alive"))
        .map(|(name, value)| {
            let value = value.to_str().unwrap();
            let value = match name.as_str() {
                "location" => answer.location().split('?').next().unwrap().to_owned(),
                _ => value.to_owned(),
            };
            (name.to_string(), value.replace(&uuid, "UUID"))
        })
        .collect();
    headers.sort();
    (answer.status, headers, answer.body.clone())
}

#[tokio::test]
async fn every_answer_is_the_registrys() {
    for http in Http::BOTH {
        // Two registries with the same history: one is asked past the proxy.
        let folder = Folder::new();
        let direct = Registry::start(&folder).await;
        let lab = Lab::start().await;
        let past = play(&direct.client()).await;
        let through = play(&lab.user("ada").over(http)).await;
        let mut differences = Vec::new();
        for ((step, past), through) in recorded().iter().zip(&past).zip(&through) {
            if comparable(past) != comparable(through) {
                differences.push(format!(
                    "=== {} {} over {http:?}\n--- past\n{past:?}\n--- through\n{through:?}",
                    step.method, step.path
                ));
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        let worked = past.iter().filter(|answer| answer.status < 300).count();
        assert!(worked > 25, "the set does too little: {worked}");
    }
}

#[tokio::test]
async fn headers_nobody_knows_pass_in_their_order() {
    use crate::support::{Reply, Upstream};
    let upstream = Upstream::start(|_| {
        Reply::Say(
            b"HTTP/1.1 200 OK\r\nX-One: 1\r\nContent-Length: 2\r\nX-Two: b\r\nX-Two: a\r\n\
              OCI-Subject: sha256:x\r\nWarning: 299 - \"old\"\r\nWarning: 299 - \"older\"\r\n\
              Connection: x-private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\n\r\n{}"
                .to_vec(),
        )
    })
    .await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    for http in Http::BOTH {
        let answer = lab
            .user("alice")
            .over(http)
            .get("/v2/team-a/app/manifests/v1");
        let answer = answer
            .header("x-zeta", "1")
            .header("x-alpha", "2")
            .header("x-zeta", "3")
            .send()
            .await;
        let all = |name: &str| -> Vec<_> {
            let values = answer.headers.get_all(name).iter();
            values
                .map(|value| value.to_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(all("x-two"), ["b", "a"]);
        assert_eq!(all("warning"), ["299 - \"old\"", "299 - \"older\""]);
        assert_eq!(all("oci-subject"), ["sha256:x"]);
        assert_eq!(all("x-private"), [""; 0], "{answer:?}");
        assert_eq!(all("keep-alive"), [""; 0]);
        let seen = upstream.take().remove(0);
        assert_eq!(seen.values("x-zeta"), ["1", "3"]);
        assert_eq!(seen.values("x-alpha"), ["2"]);
    }
}
