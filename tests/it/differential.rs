//! Through the proxy every answer is the registry's, header for header, but for the named ones.

use bytes::Bytes;
use http::Method;
use portcullis::registry::{Call, Read, Reference, RepoName};

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

/// Random numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

/// Repositories whose names hold the keywords of paths, each with an image of its own.
const NAMES: [&str; 8] = [
    "a",
    "a/b",
    "a/manifests/v1",
    "a/blobs/uploads",
    "a/tags/list/b",
    "b/tags",
    "manifests/manifests",
    "x__y/z-1.0",
];

/// A request as a client may send it, or as nobody should.
fn guess(dice: &mut Dice, digests: &[String]) -> (Method, String) {
    let methods = [
        Method::GET,
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::POST,
        Method::PATCH,
        Method::DELETE,
    ];
    let words = [
        "a",
        "b",
        "manifests",
        "blobs",
        "uploads",
        "tags",
        "list",
        "v1",
        "_catalog",
        "v2",
        "..",
        ".",
        "%2e",
        "",
        "A",
        "a.b",
        "a__b",
        "a_-b",
    ];
    let mut name = (*dice.one(&NAMES)).to_owned();
    if dice.percent(30) {
        let parts: Vec<_> = (0..=dice.below(4)).map(|_| *dice.one(&words)).collect();
        name = parts.join("/");
    }
    let digest = dice.one(digests).clone();
    let tag = *dice.one(&["v1", "latest", "_x", "-x", "V.1", "v1%20"]);
    let escaped = digest.replace(':', "%3A");
    let end = match dice.below(10) {
        0 => "tags/list".to_owned(),
        1 => "tags/list?n=1&last=v0".to_owned(),
        2 => format!("manifests/{tag}"),
        3 => format!("manifests/{digest}"),
        4 => format!("manifests/{escaped}?tag={tag}"),
        5 => format!("blobs/{digest}"),
        6 => "blobs/uploads/".to_owned(),
        7 => format!("blobs/uploads/?mount={escaped}&from={}", dice.one(&NAMES)),
        8 => format!("blobs/uploads/?%6dount={digest}&from={name}"),
        _ => "blobs/uploads/0c6ea4a1-9d2c-4f5b-8c1e-1b2d3c4e5f60".to_owned(),
    };
    let mut path = format!("/v2/{name}/{end}");
    for _ in 0..dice.below(5).saturating_sub(2) {
        let at = dice.below(path.len() + 1);
        if dice.percent(60) {
            let piece = [
                "/", ".", "%2F", "%3A", "?", "&", "a", "-", ";", "+", "=", "../", "%",
            ];
            path.insert_str(at, dice.one::<&str>(&piece));
        } else if at < path.len() {
            path.remove(at);
        }
    }
    (dice.one(&methods).clone(), path)
}

/// `$DIFFERENTIAL_CASES` and `$DIFFERENTIAL_SEED` ask for more, and for others.
#[tokio::test]
async fn what_is_accepted_is_read_by_the_registry_in_the_same_way() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let cases = number("DIFFERENTIAL_CASES").unwrap_or(3000);
    let seed = number("DIFFERENTIAL_SEED").unwrap_or(20_261_122);
    let folder = Folder::new();
    let registry = Registry::start(&folder).await;
    let client = registry.client();
    let images: Vec<_> = (0..).map(Image::new).take(NAMES.len()).collect();
    let digests: Vec<_> = images
        .iter()
        .flat_map(|image| [image.digest(), digest(&image.layer)])
        .chain([digest(b"nowhere")])
        .collect();
    for (name, image) in NAMES.iter().zip(&images) {
        image.push(&client, name, "v1").await;
    }
    let mut dice = Dice(seed);
    let (mut accepted, mut told) = (0, 0);
    for case in 0..cases {
        let (method, raw) = guess(&mut dice, &digests);
        let (path, query) = match raw.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*raw, None),
        };
        let Ok(call) = Call::parse(&method, path, query) else {
            continue;
        };
        accepted += 1;
        let mut request = client.call(method.clone(), &call.target());
        request = request.header("accept", MANIFEST);
        if method == Method::PUT {
            let place = NAMES
                .iter()
                .position(|name| Some(*name) == repository(&call));
            let image = &images[place.unwrap_or(0)];
            request = request
                .header("content-type", MANIFEST)
                .body(image.manifest.clone());
        }
        let answer = request.send().await;
        let what = format!("case {case} of seed {seed}: {method} {raw} as {call:?}: {answer:?}");
        told += u64::from(agrees((&method, &call), &images, &answer, &what));
    }
    eprintln!("seed {seed}: {cases} cases, {accepted} accepted, {told} told which repository");
    assert!(
        accepted > cases / 10 && told > accepted / 5,
        "{accepted} {told}"
    );
}

fn repository(call: &Call) -> Option<&str> {
    call.repository().map(RepoName::as_str)
}

/// Holds what the registry says against what we have read; whether it says which repository it is
/// about.
fn agrees((method, call): (&Method, &Call), images: &[Image], answer: &Answer, what: &str) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    let Some(repo) = repository(call) else {
        assert!([200, 400].contains(&answer.status), "{what}");
        return false;
    };
    if let Call::Referrers { .. }
    | Call::Tags {
        read: Read::Head, ..
    } = call
    {
        // Not known to this registry.
        return false;
    }
    // Its router knows the path, and no other spelling of it.
    assert!(![301, 307, 308, 405].contains(&answer.status), "{what}");
    assert!(
        answer.status != 404 || answer.body.is_empty() || text.contains("\"errors\""),
        "{what}"
    );
    assert!(
        !text.contains("NAME_INVALID") && !text.contains("TAG_INVALID"),
        "{what}"
    );
    // What is put or deleted is refused so for what it is, not for how it is called.
    let is_plain = call.is_read() || matches!(call, Call::StartUpload { .. });
    assert!(!is_plain || !text.contains("DIGEST_INVALID"), "{what}");
    let image = NAMES
        .iter()
        .position(|name| *name == repo)
        .map(|at| &images[at]);
    if let Some(location) = answer.header("location") {
        let path = location.split_once("/v2/").unwrap().1;
        let keyword = if matches!(call, Call::Manifest { .. }) {
            "manifests"
        } else {
            "blobs"
        };
        assert!(path.starts_with(&format!("{repo}/{keyword}/")), "{what}");
        return true;
    }
    match (call, answer.status) {
        (Call::Tags { .. }, 200 | 404) => {
            assert!(text.contains(&format!("\"name\":\"{repo}\"")), "{what}");
            true
        }
        (Call::Manifest { reference, .. }, 200) => {
            let digest = answer.header("docker-content-digest").unwrap();
            assert_eq!(digest, image.unwrap().digest(), "{what}");
            assert!(matches!(reference, Reference::Tag(_)) || reference.as_str() == digest);
            true
        }
        (Call::Blob { digest, .. }, 200) => {
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(digest.as_str()),
                "{what}"
            );
            let holds = |image: &Image| {
                [&image.layer, &image.manifest, &image.config]
                    .into_iter()
                    .any(|blob| crate::support::image::digest(blob) == digest.as_str())
            };
            // A blob that was mounted may be in several.
            assert!(images.iter().any(holds), "{what}");
            false
        }
        (Call::Manifest { reference, .. }, 404) if *method == Method::GET => {
            let no_name = text.contains("NAME_UNKNOWN") && text.contains(repo);
            assert!(no_name || text.contains(reference.as_str()), "{what}");
            no_name
        }
        (_, _) => false,
    }
}
