//! Reading manifests, blobs and tags.

use crate::support::image::{Image, MANIFEST, digest, noise, push_blob};
use crate::support::{Http, Lab, Upstream};

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_digest() {
    let lab = Lab::start().await;
    let image = Image::new(1);
    image
        .push(&lab.registry().client(), "team-a/app", "v1")
        .await;
    for http in Http::BOTH {
        let gina = lab.user("gina").over(http);
        for reference in [
            "v1".to_owned(),
            image.digest(),
            image.digest().replace(':', "%3A"),
        ] {
            let path = format!("/v2/team-a/app/manifests/{reference}");
            let answer = gina.get(&path).header("accept", MANIFEST).send().await;
            assert_eq!(
                (answer.status, &answer.body),
                (200, &image.manifest),
                "{answer:?}"
            );
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(image.digest().as_str())
            );
            let head = gina.head(&path).header("accept", MANIFEST).send().await;
            assert_eq!((head.status, head.body.len()), (200, 0));
            let length = image.manifest.len().to_string();
            assert_eq!(head.header("content-length"), Some(length.as_str()));
            assert_eq!(
                head.header("docker-content-digest"),
                Some(image.digest().as_str())
            );
        }
        let layer = gina.get(&format!("/v2/team-a/app/blobs/{}", digest(&image.layer)));
        assert_eq!(layer.send().await.body, image.layer);
    }
}

#[tokio::test]
async fn what_is_public_is_pulled_by_anybody() {
    let lab = Lab::start().await;
    let image = Image::new(1);
    image
        .push(&lab.registry().client(), "public/app", "v1")
        .await;
    let nobody = lab.nobody().await;
    let answer = nobody
        .get("/v2/public/app/manifests/v1")
        .header("accept", MANIFEST)
        .send()
        .await;
    assert_eq!((answer.status, &answer.body), (200, &image.manifest));
    // But not with a wrong password.
    let wrong = nobody
        .basic("alice", "wrong")
        .get("/v2/public/app/manifests/v1")
        .send()
        .await;
    wrong.assert_problem(401, "UNAUTHORIZED");
    let push = nobody.post("/v2/public/app/blobs/uploads/").send().await;
    push.assert_problem(401, "UNAUTHORIZED");
}

#[tokio::test]
async fn ranges_and_conditions_work() {
    let lab = Lab::start().await;
    let blob = noise(3, 100_000);
    push_blob(&lab.registry().client(), "team-a/app", &blob).await;
    let path = format!("/v2/team-a/app/blobs/{}", digest(&blob));
    for http in Http::BOTH {
        let gina = lab.user("gina").over(http);
        let part = gina
            .get(&path)
            .header("range", "bytes=1000-1999")
            .send()
            .await;
        assert_eq!((part.status, part.body), (206, blob.slice(1000..2000)));
        assert_eq!(part.headers["content-range"], "bytes 1000-1999/100000");
        let tail = gina.get(&path).header("range", "bytes=-10").send().await;
        assert_eq!((tail.status, tail.body), (206, blob.slice(99_990..)));
        let etag = gina
            .head(&path)
            .send()
            .await
            .header("etag")
            .unwrap()
            .to_owned();
        let same = gina.get(&path).header("if-none-match", etag).send().await;
        assert_eq!((same.status, same.body.len()), (304, 0));
    }
    // The registry promises more bytes here than it sends, so only the head is read.
    let beyond = lab.user("gina").get(&path).header("range", "bytes=200000-");
    assert_eq!(beyond.open().await.status(), 416);
}

#[tokio::test]
async fn tags_are_listed() {
    let lab = Lab::start().await;
    for tag in ["v1", "v2"] {
        Image::new(1)
            .push(&lab.registry().client(), "team-a/app", tag)
            .await;
    }
    let answer = lab
        .user("gina")
        .get("/v2/team-a/app/tags/list")
        .send()
        .await;
    let expected = serde_json::json!({"name": "team-a/app", "tags": ["v1", "v2"]});
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn referrers_are_the_registrys_not_found() {
    let lab = Lab::start().await;
    let path = format!("/v2/team-a/app/referrers/{}", digest(b""));
    let answer = lab.user("gina").get(&path).send().await;
    let direct = lab.registry().client().get(&path).send().await;
    assert_eq!(
        (answer.status, &answer.body),
        (direct.status, &direct.body),
        "{answer:?}"
    );
    assert_eq!(
        answer.headers.get("content-type"),
        direct.headers.get("content-type")
    );
}

#[tokio::test]
async fn every_accept_line_reaches_the_registry_in_its_order() {
    let upstream = Upstream::agreeable().await;
    let lab = Lab::builder().upstream(upstream.url()).start().await;
    let kinds = ["a/a", "b/b, c/c", "d/d;q=0.5"];
    for http in Http::BOTH {
        let gina = lab.user("gina").over(http);
        let mut call = gina.get("/v2/team-a/app/manifests/v1");
        for kind in kinds {
            call = call.header("accept", kind);
        }
        assert_eq!(call.send().await.status, 200);
        assert_eq!(upstream.take()[0].values("accept"), kinds);
    }
}

#[tokio::test]
async fn a_pull_that_nobody_reads_any_more_is_ended() {
    let mut lab = Lab::start().await;
    let blob = noise(8, 8 << 20);
    push_blob(&lab.registry().client(), "team-a/app", &blob).await;
    let path = format!("/v2/team-a/app/blobs/{}", digest(&blob));
    let response = lab.user("gina").get(&path).open().await;
    assert_eq!(response.status(), 200);
    drop(response);
    let record = lab
        .audit()
        .find("the record of the aborted pull", |record| {
            record["reference"] == digest(&blob)
        })
        .await;
    assert_eq!(record["outcome"], "aborted", "{record}");
    assert!(record["bytes_out"].as_u64().unwrap() < blob.len() as u64);
    assert!(lab.process.exited().is_none());
}
