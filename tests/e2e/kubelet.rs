//! containerd as a kubelet drives it: by its CRI plugin, with what an `imagePullSecret` holds.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::UnixStream;

use crate::containerd::Containerd;
use crate::support::{Lab, PATIENCE, password, within};
use crate::tool::{Challenge, can_run, certificates, limited, pulls_left, seed};

/// `runtime.v1.AuthConfig`, as far as a kubelet fills it.
enum Secret<'a> {
    None,
    Password(&'a str, &'a str),
    IdentityToken(&'a str),
}

/// Calls of the CRI image service: one message of gRPC there, one back.
struct ImageService<'a>(&'a Lab);

impl ImageService<'_> {
    /// `PullImage`, by whole name; what containerd says when it fails.
    async fn pull(&self, image: &str, secret: Secret<'_>) -> Result<(), String> {
        let auth = match secret {
            Secret::None => None,
            Secret::Password(user, password) => {
                Some([field(1, user.as_bytes()), field(2, password.as_bytes())].concat())
            }
            Secret::IdentityToken(token) => Some(field(5, token.as_bytes())),
        };
        let auth = auth.map_or_else(Vec::new, |auth| field(2, &auth));
        self.call("PullImage", &[image_spec(image), auth].concat())
            .await
    }

    /// `RemoveImage`, so that the next pull has everything to fetch again.
    async fn remove(&self, image: &str) {
        self.call("RemoveImage", &image_spec(image)).await.unwrap();
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<(), String> {
        let socket = self.0.folder.join("containerd/sock");
        let stream = TokioIo::new(UnixStream::connect(socket).await.unwrap());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!(
            "http://containerd/runtime.v1.ImageService/{method}"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(frame(message)))
        .unwrap();
        // containerd tries again by itself, for some seconds, when it is refused with 429.
        let answer = within(PATIENCE, method, async {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let trailers = body.collect().await.unwrap().trailers().cloned();
            // A failure without a message has its status in the head.
            trailers.unwrap_or(head.headers)
        })
        .await;
        let member = |name| answer.get(name).map(|value| value.to_str().unwrap());
        match member("grpc-status").expect("a status") {
            "0" => Ok(()),
            status => Err(format!(
                "{status}: {}",
                member("grpc-message").unwrap_or("")
            )),
        }
    }
}

/// An image's name as field 1, `ImageSpec`, of a request.
fn image_spec(image: &str) -> Vec<u8> {
    field(1, &field(1, image.as_bytes()))
}

/// A field of protobuf with a length: text, bytes or another message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 0x7f {
        out.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend(content);
    out
}

/// A message as gRPC frames it: not compressed, and how long.
fn frame(message: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap());
    out.put(message);
    out.freeze()
}

fn runs_here() -> bool {
    can_run(&["containerd", "ctr", "skopeo", "umoci"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_pulls_what_is_private() {
    if !runs_here() {
        return;
    }
    for challenge in [Challenge::Bearer, Challenge::Basic] {
        let lab = challenge.lab().await;
        seed(&lab, &["team-a/app"]);
        let _daemon = Containerd::start(&lab).await;
        let images = ImageService(&lab);
        let image = format!("{}/team-a/app:v1", lab.authority());

        // What a pod's events show: the status, since containerd resolves names by HEAD.
        let said = images.pull(&image, Secret::None).await.unwrap_err();
        assert!(said.contains("401 Unauthorized"), "{said}");
        let wrong = Secret::Password("alice", "wrong");
        let said = images.pull(&image, wrong).await.unwrap_err();
        assert!(said.contains("401 Unauthorized"), "{said}");
        let bobs = password("bob");
        let other = Secret::Password("bob", &bobs);
        let said = images.pull(&image, other).await.unwrap_err();
        assert!(said.contains("403 Forbidden"), "{said}");

        let hers = password("alice");
        let secret = Secret::Password("alice", &hers);
        images.pull(&image, secret).await.unwrap();
        lab.assert_no_secret(&[]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_secret_counts_as_its_user_on_public_repositories() {
    if !runs_here() {
        return;
    }
    let lab = limited().await;
    seed(&lab, &["public/app"]);
    let _daemon = Containerd::start(&lab).await;
    let images = ImageService(&lab);
    let image = format!("{}/public/app:v1", lab.authority());

    // More often than anybody may without an account, which none of these pulls uses up.
    let hers = password("alice");
    for _ in 0..4 {
        let secret = Secret::Password("alice", &hers);
        images.pull(&image, secret).await.unwrap();
        images.remove(&image).await;
    }
    let left = pulls_left(&lab, "public/app").await;
    assert_eq!(left.as_deref(), Some("3;w=21600"));
    let is_hers = |record: &Value| {
        record["user"] == "alice" && record["method"] == "GET" && record["object"] == "manifest"
    };
    lab.audit().find("a pull of hers", is_hers).await;

    // What docker keeps after a login is as good as her password.
    let path = format!("/token?service={}&offline_token=true", lab.authority());
    let answer = lab.user("alice").get(&path).send().await;
    let answer: Value = serde_json::from_slice(&answer.body).unwrap();
    let token = answer["refresh_token"].as_str().unwrap();
    let secret = Secret::IdentityToken(token);
    images.pull(&image, secret).await.unwrap();
    images.remove(&image).await;

    // A wrong one is refused there too, and nobody's pulls are counted and end.
    let wrong = Secret::Password("alice", "wrong");
    images.pull(&image, wrong).await.unwrap_err();
    for _ in 0..3 {
        images.pull(&image, Secret::None).await.unwrap();
        images.remove(&image).await;
    }
    let said = images.pull(&image, Secret::None).await.unwrap_err();
    assert!(
        said.contains("429 Too Many Requests") && said.contains("docker login"),
        "{said}"
    );
    images
        .pull(&image, Secret::Password("alice", &hers))
        .await
        .unwrap();
    lab.assert_no_secret(&[token]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_with_a_certificate_and_a_pull_secret() {
    if !runs_here() {
        return;
    }
    let lab = certificates::lab().await;
    seed(&lab, &["team-a/app"]);
    let daemon = Containerd::start(&lab).await;
    let images = ImageService(&lab);
    let image = format!("{}/team-a/app:v1", lab.authority());
    let hers = password("alice");
    let secret = Secret::Password("alice", &hers);
    images.pull(&image, secret).await.unwrap_err();

    daemon.shows_a_certificate();
    images.pull(&image, Secret::None).await.unwrap();
    images.remove(&image).await;

    certificates::only_a_gate(&lab).await;
    images.pull(&image, Secret::None).await.unwrap_err();
    let wrong = Secret::Password("alice", "wrong");
    images.pull(&image, wrong).await.unwrap_err();
    images
        .pull(&image, Secret::Password("alice", &hers))
        .await
        .unwrap();
    lab.assert_no_secret(&[]);
}
