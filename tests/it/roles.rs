//! Who may do what where.

use bytes::Bytes;

use crate::support::image::{Image, MANIFEST, begin_upload};
use crate::support::{Answer, Client, Http, Lab};

/// The probes, each with the right it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Pull,
    Push,
    Create,
    Overwrite,
    Delete,
}

impl Probe {
    const ALL: [Self; 5] = [
        Self::Pull,
        Self::Push,
        Self::Create,
        Self::Overwrite,
        Self::Delete,
    ];

    async fn run(self, lab: &Lab, client: &Client, repo: &str, seed: u64) -> Answer {
        let ada = lab.user("ada");
        let image = Image::new(seed);
        match self {
            Self::Pull => {
                let call = client.get(&format!("/v2/{repo}/manifests/v1"));
                call.header("accept", MANIFEST).send().await
            }
            Self::Push => {
                client
                    .post(&format!("/v2/{repo}/blobs/uploads/"))
                    .send()
                    .await
            }
            Self::Create => {
                image.push(&ada, repo, "there").await;
                image
                    .push_manifest(client, repo, &format!("new-{seed}"))
                    .await
            }
            Self::Overwrite => {
                image.push(&ada, repo, "there").await;
                image.push_manifest(client, repo, "moving").await
            }
            Self::Delete => {
                image.push(&ada, repo, "doomed").await;
                client
                    .delete(&format!("/v2/{repo}/manifests/{}", image.digest()))
                    .send()
                    .await
            }
        }
    }

    fn success(self) -> u16 {
        match self {
            Self::Pull => 200,
            Self::Push | Self::Delete => 202,
            Self::Create | Self::Overwrite => 201,
        }
    }
}

#[tokio::test]
async fn each_role_does_what_it_says_and_nothing_else() {
    use Probe::{Create, Overwrite, Pull, Push};
    let lab = Lab::start().await;
    let ada = lab.user("ada");
    let repos = [
        "team-a/app",
        "team-a/prod",
        "team-b/app",
        "public/app",
        "home/gina/x",
    ];
    for repo in repos {
        assert_eq!(Image::new(1).push(&ada, repo, "v1").await.status, 201);
        assert_eq!(Image::new(2).push(&ada, repo, "moving").await.status, 201);
    }
    let developer = [Pull, Push, Create, Overwrite];
    let table: [(&str, &str, &[Probe]); 16] = [
        ("ada", "team-b/app", &Probe::ALL),
        ("mona", "team-a/app", &Probe::ALL),
        ("alice", "team-a/app", &developer),
        ("gina", "team-a/app", &[Pull]),
        // May create a tag and not move one.
        ("robo", "team-a/app", &[Pull, Push, Create]),
        // A deny wins.
        ("alice", "team-a/prod", &[Pull]),
        ("mona", "team-a/prod", &Probe::ALL),
        ("alice", "team-b/app", &[]),
        ("bob", "team-a/app", &[]),
        ("stranger", "team-a/app", &[]),
        ("stranger", "public/app", &[Pull]),
        ("", "public/app", &[Pull]),
        ("", "team-a/app", &[]),
        // `${user}` is the caller's name and nobody else's.
        ("gina", "home/gina/x", &Probe::ALL),
        ("alice", "home/gina/x", &[]),
        ("", "home/gina/x", &[]),
    ];
    let mut seed = 10;
    for (user, repo, allowed) in table {
        let client = match user {
            "" => lab.nobody().await,
            user => lab.user(user),
        };
        for probe in Probe::ALL {
            seed += 1;
            let answer = probe.run(&lab, &client, repo, seed).await;
            if allowed.contains(&probe) {
                assert_eq!(
                    answer.status,
                    probe.success(),
                    "{user} {probe:?} {repo}: {answer:?}"
                );
            } else if user.is_empty() {
                answer.assert_problem(401, "UNAUTHORIZED");
            } else {
                answer.assert_problem(403, "DENIED");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_does_not_tell_whether_the_repository_exists() {
    let lab = Lab::start().await;
    Image::new(1)
        .push(&lab.user("ada"), "team-a/app", "v1")
        .await;
    for client in [lab.user("bob"), lab.anonymous()] {
        let mut faces = Vec::new();
        for repo in ["team-a/app", "team-a/nix"] {
            for reference in ["v1", "v2"] {
                let path = format!("/v2/{repo}/manifests/{reference}");
                let answer = client.get(&path).send().await;
                let text = answer
                    .text()
                    .replace(&answer.reference(), "REF")
                    .replace(repo, "REPO");
                faces.push((answer.status, text));
            }
        }
        faces.dedup();
        assert_eq!(faces.len(), 1, "{faces:?}");
    }
}

#[tokio::test]
async fn create_only_holds_for_digests_with_tags_too() {
    let lab = Lab::start().await;
    let image = Image::new(3);
    let ada = lab.user("ada");
    image.push(&ada, "team-a/app", "v1").await;
    Image::new(4).push(&ada, "team-a/app", "taken").await;
    // 1.2 end-7b: a manifest by digest, under tags named in the query.
    let by_digest = format!("team-a/app/manifests/{}", image.digest());
    let call = |user: &str, query: &str| {
        lab.user(user)
            .put(&format!("/v2/{by_digest}{query}"))
            .header("content-type", MANIFEST)
            .body(image.manifest.clone())
            .send()
    };
    call("robo", "?tag=fresh&tag=taken")
        .await
        .assert_problem(403, "DENIED");
    assert_eq!(call("robo", "").await.status, 201);
    assert_eq!(call("alice", "?tag=taken").await.status, 201);
}

#[tokio::test]
async fn who_may_only_create_may_push_the_same_again() {
    let lab = Lab::start().await;
    let robo = lab.user("robo");
    let (image, other) = (Image::new(1), Image::new(2));
    for http in Http::BOTH {
        let robo = robo.over(http);
        for _ in 0..3 {
            assert_eq!(image.push(&robo, "team-a/app", "v1").await.status, 201);
        }
        let moved = other.push(&robo, "team-a/app", "v1").await;
        moved.assert_problem(403, "DENIED");
    }
    let there = lab
        .user("ada")
        .head("/v2/team-a/app/manifests/v1")
        .header("accept", MANIFEST)
        .send()
        .await;
    assert_eq!(
        there.header("docker-content-digest"),
        Some(image.digest().as_str())
    );
}

#[tokio::test]
async fn an_upload_belongs_to_who_began_it() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    for (number, other) in ["mona", "robo", "gina", "bob", "ada"]
        .into_iter()
        .enumerate()
    {
        let session = begin_upload(&alice, "team-a/app").await;
        let body = Bytes::from(format!("{number}"));
        let other = lab.user(other);
        let answers = [
            other.get(&session).send().await,
            other.patch(&session).body(body.clone()).send().await,
            crate::support::image::finish_upload(
                &other,
                &session,
                body.clone(),
                &crate::support::image::digest(&body),
            )
            .await,
            other.delete(&session).send().await,
            lab.anonymous()
                .patch(&session)
                .body(body.clone())
                .send()
                .await,
        ];
        for answer in answers {
            assert!(matches!(answer.status, 401 | 403 | 404), "{answer:?}");
            assert!(!answer.reference().is_empty());
        }
        // And is still there for its owner.
        let status = alice.get(&session).send().await;
        assert_eq!(status.status, 204, "{status:?}");
    }
}

#[tokio::test]
async fn an_upload_stays_in_its_repository() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let moved = session.replace("/team-a/app/", "/team-a/other/");
    for answer in [
        alice.get(&moved).send().await,
        alice.patch(&moved).body("x").send().await,
    ] {
        assert!(matches!(answer.status, 403 | 404), "{answer:?}");
        assert!(
            !answer.reference().is_empty(),
            "answered by the registry: {answer:?}"
        );
    }
}

#[tokio::test]
async fn an_upload_session_cannot_be_forged_or_guessed() {
    let lab = Lab::start().await;
    let alice = lab.user("alice");
    let session = begin_upload(&alice, "team-a/app").await;
    let (path, query) = session.split_once('?').expect("a sealed session");
    // A direct session of the registry's own, and one that never was.
    let direct = begin_upload(&lab.registry().client(), "team-a/app").await;
    let broken = {
        let mut text = session.clone();
        let last = text.pop().unwrap();
        text.push(if last == 'A' { 'B' } else { 'A' });
        text
    };
    let unknown =
        path.rsplit_once('/').unwrap().0.to_owned() + "/0f8fad5b-d9cb-469f-a165-70867728950e";
    for forged in [
        path.to_owned(),
        direct,
        broken,
        format!("{unknown}?{query}"),
        unknown,
    ] {
        let answer = alice.patch(&forged).body("x").send().await;
        assert!((400..405).contains(&answer.status), "{forged}: {answer:?}");
        assert!(
            !answer.reference().is_empty(),
            "answered by the registry: {answer:?}"
        );
    }
}
