//! Real clients copy images in and out while everything behind the proxy fails, and the proxy itself
//! is restarted: what they were told is stored comes back as it was.

use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use crate::support::book::{Book, Fault, Kept};
use crate::support::caller::joined;
use crate::support::chance::{Chance, seeds};
use crate::support::folder::Folder;
use crate::support::image::{MANIFEST, digest, noise};
use crate::support::password;
use crate::support::world::World;
use crate::tool::{Ran, can_run, run};

/// skopeo as one user, with a home of its own.
struct Skopeo {
    folder: Folder,
    host: String,
    repository: &'static str,
    chance: Chance,
    book: Arc<Book>,
}

impl Skopeo {
    fn new(world: &World, repository: &'static str, chance: Chance) -> Self {
        let folder = Folder::new();
        std::fs::create_dir(folder.join("certs")).unwrap();
        folder.write("certs/ca.crt", &world.lab.pki.ca);
        Self {
            folder,
            host: world.lab.authority(),
            repository,
            chance,
            book: Arc::clone(&world.book),
        }
    }

    fn run(&self, line: &str, input: &str) -> Ran {
        let mut command = Command::new("skopeo");
        command
            .arg("--insecure-policy")
            .args(line.split_whitespace());
        run(&self.folder, &mut command, input)
    }

    fn login(&self, user: &str) {
        let line = format!(
            "login --cert-dir certs -u {user} --password-stdin {}",
            self.host
        );
        self.run(&line, &password(user)).ok();
    }

    /// Copies until everybody is to stop. What was told to have worked is kept in mind.
    fn work(&mut self) {
        let path = format!("{}/{}", self.host, self.repository);
        while !self.book.stopping() {
            let tag = format!("t{}", self.chance.next());
            let digest = self.layout(&tag);
            let there = format!("docker://{path}:{tag}");
            let stored = self.copy(&format!(
                "copy --preserve-digests --dest-cert-dir certs oci:{tag}:v1 {there}"
            ));
            if stored {
                self.book.keep(Kept {
                    repository: self.repository,
                    path: format!("/v2/{}/manifests/{tag}", self.repository),
                    digest,
                });
                // It compares every digest itself.
                self.copy(&format!(
                    "copy --src-cert-dir certs {there} oci:back-{tag}:v1"
                ));
            }
            for folder in [tag.clone(), format!("back-{tag}")] {
                drop(std::fs::remove_dir_all(self.folder.join(folder)));
            }
        }
    }

    /// Whether it worked.
    fn copy(&self, line: &str) -> bool {
        let flight = self.book.depart();
        let ran = self.run(line, "");
        let failed = (!ran.worked).then(|| format!("{ran:?}"));
        self.book.arrive(flight, failed);
        ran.worked
    }

    /// An image of two layers that was never there before, as an OCI layout; its digest.
    fn layout(&mut self, name: &str) -> String {
        let blobs = format!("{name}/blobs/sha256");
        std::fs::create_dir_all(self.folder.join(&blobs)).unwrap();
        let store = |bytes: &Bytes| {
            let digest = digest(bytes);
            let file = digest.replace("sha256:", &format!("{blobs}/"));
            self.folder.write(&file, bytes);
            json!({"digest": digest, "size": bytes.len()})
        };
        let mut layers = Vec::new();
        for length in [3000, 3 << 20] {
            let mut layer = store(&noise(self.chance.next(), length));
            layer["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
            layers.push(layer);
        }
        let ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let mut config = store(&config.to_string().into());
        config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        });
        let mut manifest = store(&manifest.to_string().into());
        manifest["mediaType"] = json!(MANIFEST);
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "v1"});
        let digest = manifest["digest"].as_str().unwrap().to_owned();
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        self.folder
            .write(&format!("{name}/index.json"), index.to_string());
        let version = json!({"imageLayoutVersion": "1.0.0"});
        self.folder
            .write(&format!("{name}/oci-layout"), version.to_string());
        digest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn skopeo_loses_no_image_to_any_fault() {
    if !can_run(&["skopeo"]) {
        return;
    }
    let seed = seeds(&[4])[0];
    let server = "drain_timeout = \"20s\"\nhandshake_timeout = \"1s\"";
    let Some(mut world) = World::start(Some(64), server).await else {
        return;
    };
    let mut chance = Chance::new(seed);
    let workers: Vec<_> = [
        ("alice", "team-a/app"),
        ("erin", "home/erin/app"),
        ("mona", "team-a/app"),
    ]
    .into_iter()
    .zip(1..)
    .map(|((user, repository), stream)| {
        let mut skopeo = Skopeo::new(&world, repository, Chance::of(seed, stream));
        skopeo.login(user);
        tokio::task::spawn_blocking(move || skopeo.work())
    })
    .collect();
    world.book.attempts(3).await;
    let mut waves: Vec<Vec<Fault>> = Fault::ALL.map(|fault| vec![fault]).to_vec();
    let mut all = Fault::ALL.to_vec();
    chance.shuffle(&mut all);
    waves.push(all.split_off(3));
    waves.push(all);
    for wave in waves {
        for fault in &wave {
            world.begin_at_once(*fault, &mut chance).await;
            world.book.attempts(chance.next() % 2).await;
        }
        world.book.attempts(1).await;
        for fault in Fault::in_order_of_end(wave) {
            world.end(fault).await;
        }
        world.settle().await;
        world.book.attempts(chance.next() % 3).await;
    }
    world.book.stop(true);
    joined(workers).await;
    world.book.assert_right();
    world.pull_back().await;
    world.book.assert_right();
    world.assert_trail().await;
    eprintln!("seed {seed}: {}", world.book.counts());
}
