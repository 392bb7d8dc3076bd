//! What the audit trail takes: records a second through its writer, each one waited for, and through
//! its verifier.

use std::path::PathBuf;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use portcullis::audit::verify::{Proofs, verify};
use portcullis::audit::{Audit, Event, Outcome, Plan, Record, Settings};
use tokio::runtime::Runtime;

/// Requests at a time, and how many each makes.
const CALLERS: usize = 64;
const RECORDS: usize = 100;

struct Trail {
    audit: Arc<Audit>,
    runtime: Runtime,
    folder: PathBuf,
}

impl Trail {
    fn open(name: &str) -> Option<Self> {
        let name = format!("portcullis-micro-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).ok()?;
        let plan = Plan::new(Settings::of_file(&folder.join("audit.jsonl")));
        let audit = Audit::open(plan).ok()?;
        let runtime = Runtime::new().ok()?;
        Some(Self {
            audit,
            runtime,
            folder,
        })
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

async fn write(audit: Arc<Audit>) -> usize {
    let mut written = 0;
    while written < RECORDS {
        let mut record = Record::open(&audit, Event::Login);
        record.claim(&portcullis::identity::Claim::of_text("alice"));
        record.answer(Outcome::Allowed, 200);
        if record.close_and_wait().await.is_err() {
            break;
        }
        written = written.saturating_add(1);
    }
    written
}

/// 64 callers who each wait for every record; the figure to look at is items a second.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn acknowledged_records(bencher: Bencher<'_, '_>) {
    let Some(trail) = Trail::open("write") else {
        return;
    };
    let all = CALLERS.saturating_mul(RECORDS);
    bencher.counter(ItemsCount::new(all)).bench_local(|| {
        trail.runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..CALLERS {
                tasks.spawn(write(Arc::clone(&trail.audit)));
            }
            tasks.join_all().await
        })
    });
}

/// A trail of so many records, from the file system's cache.
const VERIFIED: usize = 400_000;

#[divan::bench(sample_count = 10, sample_size = 1)]
fn verified_records(bencher: Bencher<'_, '_>) {
    let Some(trail) = Trail::open("verify") else {
        return;
    };
    trail.runtime.block_on(async {
        for _ in 0..VERIFIED {
            let mut record = Record::open(&trail.audit, Event::Login);
            record.claim(&portcullis::identity::Claim::of_text("alice"));
            record.answer(Outcome::Allowed, 200);
            record.close();
        }
        trail.audit.finish().await;
    });
    let files = [trail.folder.join("audit.jsonl")];
    bencher
        .counter(ItemsCount::new(VERIFIED))
        .bench_local(|| verify(&files, &Proofs::default(), &|_bytes| {}).is_ok());
}
