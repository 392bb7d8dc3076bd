//! What the audit trail takes: records a second through its writer, each one waited for.

use std::path::PathBuf;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use portcullis::audit::{Audit, Event, Outcome, Record};
use portcullis::config::WhenUnwritable;
use tokio::runtime::Runtime;

/// Requests at a time, and how many each makes.
const CALLERS: usize = 64;
const RECORDS: usize = 100;

struct Trail {
    audit: Arc<Audit>,
    runtime: Runtime,
    file: PathBuf,
}

impl Trail {
    fn open() -> Option<Self> {
        let name = format!("portcullis-micro-{}.jsonl", std::process::id());
        let file = std::env::temp_dir().join(name);
        let audit = Audit::open(&file, WhenUnwritable::RefuseWrites).ok()?;
        let runtime = Runtime::new().ok()?;
        Some(Self {
            audit,
            runtime,
            file,
        })
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        std::fs::remove_file(&self.file).ok();
    }
}

async fn write(audit: Arc<Audit>) -> usize {
    let mut written = 0;
    while written < RECORDS {
        let mut record = Record::open(&audit, audit.slot().await, Event::Login);
        record.claim("alice");
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
    let Some(trail) = Trail::open() else {
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
