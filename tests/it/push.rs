//! Uploads, as every client does them.

use bytes::Bytes;

use crate::support::http::Outgoing;
use crate::support::image::{
    Image, begin_upload, digest, finish_upload, noise, push_blob, with_digest,
};
use crate::support::{Answer, Client, Http, Lab};

async fn stored(lab: &Lab, repo: &str, digest: &str) -> Option<Bytes> {
    let answer = lab
        .registry()
        .client()
        .get(&format!("/v2/{repo}/blobs/{digest}"))
        .send()
        .await;
    (answer.status == 200).then_some(answer.body)
}

#[tokio::test]
async fn an_image_is_pushed_in_one_piece() {
    let lab = Lab::start().await;
    for (number, http) in Http::BOTH.into_iter().enumerate() {
        let alice = lab.user("alice").over(http);
        let image = Image::new(number as u64);
        let answer = image.push(&alice, "team-a/app", "v1").await;
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(
            answer.header("docker-content-digest"),
            Some(image.digest().as_str())
        );
        let layer = stored(&lab, "team-a/app", &digest(&image.layer)).await;
        assert_eq!(layer.as_ref(), Some(&image.layer));
    }
}

#[tokio::test]
async fn locations_are_relative_and_sealed() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let answer = alice.post("/v2/team-a/app/blobs/uploads/").send().await;
    let location = answer.header("location").unwrap();
    let host = format!("https://{}/v2/team-a/app/blobs/uploads/", lab.authority());
    let expected = ["/v2/team-a/app/blobs/uploads/", host.as_str()];
    assert!(
        expected.iter().any(|start| location.starts_with(start)),
        "{location}"
    );
    let direct = lab
        .registry()
        .client()
        .post("/v2/team-a/app/blobs/uploads/")
        .send()
        .await;
    let state = |location: &str| {
        let (_, query) = location.split_once('?').unwrap();
        query.trim_start_matches("_state=").to_owned()
    };
    // The registry's own `_state` begins with a signature over plain JSON; ours tells nothing.
    assert!(direct.location().contains("_state="));
    assert!(!state(location).is_empty());
    let blob = noise(1, 100);
    let done = push_blob(&alice, "team-a/app", &blob).await;
    let digest = digest(&blob);
    assert!(
        done.location()
            .ends_with(&format!("/v2/team-a/app/blobs/{digest}")),
        "{done:?}"
    );
    assert!(
        !done
            .header("location")
            .unwrap()
            .contains(&lab.registry().address.to_string())
    );
}

#[tokio::test]
async fn a_blob_is_pushed_in_chunks() {
    let lab = Lab::start().await;
    for http in Http::BOTH {
        let alice = lab.user("alice").over(http);
        let blob = noise(7 + u64::from(http == Http::Two), 300_000);
        let mut session = begin_upload(&alice, "team-a/app").await;
        for (number, chunk) in blob.chunks(100_000).enumerate() {
            let start = number * 100_000;
            let answer = alice
                .patch(&session)
                .header("content-type", "application/octet-stream")
                .header(
                    "content-range",
                    format!("{start}-{}", start + chunk.len() - 1),
                )
                .body(blob.slice_ref(chunk))
                .send()
                .await;
            assert_eq!(answer.status, 202, "{answer:?}");
            let end = start + chunk.len() - 1;
            assert_eq!(answer.header("range"), Some(format!("0-{end}").as_str()));
            session = answer.location();
            let status = alice.get(&session).send().await;
            assert_eq!(
                (status.status, status.header("range")),
                (204, answer.header("range"))
            );
        }
        let done = finish_upload(&alice, &session, Bytes::new(), &digest(&blob)).await;
        assert_eq!(done.status, 201, "{done:?}");
        assert_eq!(stored(&lab, "team-a/app", &digest(&blob)).await, Some(blob));
    }
}

#[tokio::test]
async fn a_blob_of_unknown_length_is_streamed() {
    let lab = Lab::start().await;
    for http in Http::BOTH {
        let alice = lab.user("alice").over(http);
        let blob = noise(20 + u64::from(http == Http::Two), 1_000_000);
        let session = begin_upload(&alice, "team-a/app").await;
        let (feeder, body) = Outgoing::fed();
        let sent = tokio::spawn(alice.patch(&session).body(body).send());
        for chunk in blob.chunks(64 * 1024) {
            feeder.send(Ok(blob.slice_ref(chunk))).await.unwrap();
        }
        drop(feeder);
        let answer = sent.await.unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        let digest = digest(&blob);
        let done = finish_upload(&alice, &answer.location(), Bytes::new(), &digest).await;
        assert_eq!(done.status, 201, "{done:?}");
        assert_eq!(stored(&lab, "team-a/app", &digest).await, Some(blob));
    }
}

#[tokio::test]
async fn an_upload_is_cancelled_by_who_began_it() {
    let lab = Lab::start().await;
    // A developer, who may not delete anything else.
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let answer = alice.delete(&session).send().await;
    assert_eq!(answer.status, 204, "{answer:?}");
    assert_eq!(alice.get(&session).send().await.status, 404);
}

#[tokio::test]
async fn a_wrong_digest_is_the_registrys_to_refuse() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let answer = finish_upload(&alice, &session, noise(1, 10), &digest(b"other")).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (400, "DIGEST_INVALID"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_body_of_forms_type_is_a_blob_like_any_other() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    // What `curl --data-binary` says; the registry would eat the body.
    let blob = Bytes::from_static(b"a=b&c=d");
    let session = begin_upload(&alice, "team-a/app").await;
    let answer = alice
        .put(&with_digest(&session, &digest(&blob)))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(blob.clone())
        .send()
        .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(stored(&lab, "team-a/app", &digest(&blob)).await, Some(blob));
}

async fn secret_of_team_b(lab: &Lab) -> String {
    let blob = noise(99, 500);
    let answer = push_blob(&lab.user("bob"), "team-b/secret", &blob).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    digest(&blob)
}

async fn assert_not_mounted(lab: &Lab, answer: &Answer, secret: &str) {
    assert!(
        answer.status == 202 || (400..500).contains(&answer.status),
        "mounted or odd: {answer:?}"
    );
    let answer = lab
        .user("alice")
        .get(&format!("/v2/team-a/app/blobs/{secret}"))
        .send()
        .await;
    assert_eq!(answer.status, 404, "the secret can be read: {answer:?}");
}

#[tokio::test]
async fn a_mount_needs_the_right_to_read_the_source() {
    let lab = Lab::start().await;
    let secret = secret_of_team_b(&lab).await;
    let mount = |from: &str| format!("/v2/team-a/app/blobs/uploads/?mount={secret}&from={from}");
    // Without the right it becomes an ordinary upload, which works to its end.
    let alice = lab.user("alice");
    let answer = alice.post(&mount("team-b/secret")).send().await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_not_mounted(&lab, &answer, &secret).await;
    let blob = noise(5, 50);
    let done = finish_upload(&alice, &answer.location(), blob.clone(), &digest(&blob)).await;
    assert_eq!(done.status, 201, "{done:?}");
    // Without a source some registries would look everywhere.
    let answer = alice
        .post(&format!("/v2/team-a/app/blobs/uploads/?mount={secret}"))
        .send()
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_not_mounted(&lab, &answer, &secret).await;

    // With it the registry mounts.
    let own = push_blob(&alice, "team-a/source", &noise(6, 60)).await;
    let own_digest = own.header("docker-content-digest").unwrap().to_owned();
    let path = format!("/v2/team-a/app/blobs/uploads/?from=team-a%2Fsource&mount={own_digest}");
    let answer = alice.post(&path).send().await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(
        answer
            .location()
            .ends_with(&format!("/v2/team-a/app/blobs/{own_digest}"))
    );
    let read = alice
        .get(&format!("/v2/team-a/app/blobs/{own_digest}"))
        .send()
        .await;
    assert_eq!(read.status, 200);
}

#[tokio::test]
async fn a_mount_is_not_smuggled_in_by_spelling_it_otherwise() {
    let lab = Lab::start().await;
    let secret = secret_of_team_b(&lab).await;
    let alice = lab.user("alice");
    push_blob(&alice, "team-a/source", &noise(6, 60)).await;
    let queries = [
        format!("mount={secret}&from=team-a/source&from=team-b/secret"),
        format!("mount={secret}&from=team-b/secret&from=team-a/source"),
        format!("mount={secret}&fr%6fm=team-b%2Fsecret"),
        format!("mount={secret}&from=team-a/source&fr%6fm=team-b/secret"),
        format!("mount={secret};from=team-b/secret"),
        format!("mount={secret}&from=team-a/source;from=team-b/secret"),
        format!("mount={secret}&from=team-a/../team-b/secret"),
        format!("mount={secret}&from=TEAM-B/secret"),
        format!("mount={secret}&from=team-b/secret%00"),
        format!("mount={secret}&from="),
        format!("m%6funt={secret}&from=team-b/secret"),
        format!("mount={secret}&mount={secret}&from=team-b/secret"),
    ];
    for query in queries {
        let path = format!("/v2/team-a/app/blobs/uploads/?{query}");
        let answer = alice.post(&path).send().await;
        assert_not_mounted(&lab, &answer, &secret).await;
    }
}

#[tokio::test]
async fn a_mount_is_not_smuggled_in_by_a_form() {
    let lab = Lab::start().await;
    let secret = secret_of_team_b(&lab).await;
    let alice = lab.user("alice");
    push_blob(&alice, "team-a/source", &noise(6, 60)).await;
    let form = format!("mount={secret}&from=team-b/secret");
    let part = |name: &str, value: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let parts = part("mount", &secret) + &part("from", "team-b/secret") + "--B--\r\n";
    let kinds = [
        ("application/x-www-form-urlencoded", &form),
        ("application/x-www-form-urlencoded; charset=utf-8", &form),
        ("Application/X-WWW-Form-Urlencoded", &form),
        (" application/x-www-form-urlencoded", &form),
        ("multipart/form-data; boundary=B", &parts),
        ("Multipart/Form-Data;boundary=\"B\"", &parts),
    ];
    for (kind, body) in kinds {
        for query in [
            "",
            "?from=team-a/source",
            &format!("?mount={secret}&from=team-a/source"),
        ] {
            let answer = alice
                .post(&format!("/v2/team-a/app/blobs/uploads/{query}"))
                .header("content-type", kind)
                .body(Bytes::from(body.clone()))
                .send()
                .await;
            assert_not_mounted(&lab, &answer, &secret).await;
        }
    }
    // The same trap on the request that commits an upload.
    let session = begin_upload(&alice, "team-a/app").await;
    let answer = alice
        .put(&session)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(format!("digest={secret}")))
        .send()
        .await;
    assert!((400..500).contains(&answer.status), "{answer:?}");
    assert_not_mounted(&lab, &answer, &secret).await;
}

#[tokio::test]
async fn two_content_types_do_not_hide_a_form() {
    let lab = Lab::start().await;
    let secret = secret_of_team_b(&lab).await;
    let answer = lab
        .user("alice")
        .post("/v2/team-a/app/blobs/uploads/")
        .header("content-type", "application/octet-stream")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Bytes::from(format!("mount={secret}&from=team-b/secret")))
        .send()
        .await;
    assert_not_mounted(&lab, &answer, &secret).await;
}

/// Reads one interim or final answer's status line and the head behind it.
async fn read_head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let read = crate::support::within(crate::support::PATIENCE, "a head", stream.read_u8());
        match read.await {
            Ok(byte) => head.push(byte),
            Err(_closed) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_body_is_only_asked_for_when_it_is_wanted() {
    use tokio::io::AsyncWriteExt as _;
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let head = |session: &str, client: &Client, user: Option<&str>| {
        let authorization = user.map_or(String::new(), |user| {
            let value = crate::support::http::basic(user, &crate::support::password(user));
            format!("Authorization: {value}\r\n")
        });
        format!(
            "PATCH {session} HTTP/1.1\r\nHost: {}\r\n{authorization}\
             Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
            client.authority
        )
    };
    for (user, expected) in [(None, "HTTP/1.1 401"), (Some("bob"), "HTTP/1.1 403")] {
        let mut stream = alice.raw().await.unwrap();
        stream
            .write_all(head(&session, &alice, user).as_bytes())
            .await
            .unwrap();
        let answer = read_head(&mut stream).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
    let mut stream = alice.raw().await.unwrap();
    stream
        .write_all(head(&session, &alice, Some("alice")).as_bytes())
        .await
        .unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 100"), "{answer}");
    stream.write_all(b"12345").await.unwrap();
    let answer = read_head(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
}
