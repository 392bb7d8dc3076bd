//! Deleting manifests, blobs and tags.

use crate::support::image::{Image, MANIFEST, digest, noise, push_blob};
use crate::support::{Http, Lab};

#[tokio::test]
async fn a_maintainer_deletes_manifests_and_blobs() {
    let lab = Lab::start().await;
    let direct = lab.registry().client();
    for (number, http) in Http::BOTH.into_iter().enumerate() {
        let image = Image::new(number as u64);
        image.push(&direct, "team-a/app", "v1").await;
        let manifest = format!("/v2/team-a/app/manifests/{}", image.digest());
        let blob = format!("/v2/team-a/app/blobs/{}", digest(&image.layer));
        for path in [manifest, blob] {
            let alice = lab.user("alice").over(http).delete(&path).send().await;
            alice.assert_problem(403, "DENIED");
            assert_eq!(
                direct
                    .head(&path)
                    .header("accept", MANIFEST)
                    .send()
                    .await
                    .status,
                200
            );
            let mona = lab.user("mona").over(http).delete(&path).send().await;
            assert_eq!(mona.status, 202, "{mona:?}");
            assert_eq!(
                direct
                    .head(&path)
                    .header("accept", MANIFEST)
                    .send()
                    .await
                    .status,
                404
            );
        }
    }
}

#[tokio::test]
async fn deleting_by_tag_needs_the_right_and_then_is_the_registrys_matter() {
    let lab = Lab::start().await;
    let direct = lab.registry().client();
    Image::new(1).push(&direct, "team-a/app", "v1").await;
    let path = "/v2/team-a/app/manifests/v1";
    lab.user("alice")
        .delete(path)
        .send()
        .await
        .assert_problem(403, "DENIED");
    let through = lab.user("mona").delete(path).send().await;
    let past = direct.delete(path).send().await;
    assert_eq!((through.status, through.text()), (past.status, past.text()));
}

#[tokio::test]
async fn what_is_not_there_cannot_be_deleted() {
    let lab = Lab::start().await;
    push_blob(&lab.registry().client(), "team-a/app", &noise(1, 10)).await;
    let path = format!("/v2/team-a/app/blobs/{}", digest(b"never"));
    let answer = lab.user("mona").delete(&path).send().await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "BLOB_UNKNOWN"),
        "{answer:?}"
    );
}
