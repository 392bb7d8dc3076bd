//! The trail from its outside: what is acknowledged is in the file, whatever happens to it.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::{Audit, AuditError, NotNow, Plan, Purpose};
use crate::audit::verify::{Proofs, Verified, VerifyError, verify};
use crate::audit::{
    ChainKey, Event, Outcome, PublicKey, Record, Settings, Signer, SyslogAddress, SyslogSettings,
    WhenUnwritable,
};
use crate::identity::Claim;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("audit.jsonl")
    }
}

fn config(file: &Path) -> Settings {
    Settings::of_file(file)
}

fn open(file: &Path) -> Arc<Audit> {
    Audit::open(Plan::new(config(file))).unwrap()
}

async fn adopt(audit: &Audit, plan: Plan) {
    audit.adopt(audit.prepare(plan).unwrap()).await;
}

async fn write(audit: &Arc<Audit>) -> Result<(), AuditError> {
    let mut record = Record::open(audit, Event::Request);
    record.answer(Outcome::Allowed, 200);
    record.close_and_wait().await
}

fn records(file: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn sequence(file: &Path) -> Vec<u64> {
    let numbers = records(file).into_iter();
    numbers
        .map(|record| record["seq"].as_u64().unwrap())
        .collect()
}

fn events(file: &Path) -> Vec<String> {
    let records = records(file).into_iter();
    records
        .map(|record| record["event"].as_str().unwrap().to_owned())
        .collect()
}

fn verified(files: &[PathBuf]) -> Result<Verified, VerifyError> {
    verify(files, &Proofs::default(), &|_bytes| {})
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_and_a_torn_line() {
    let folder = Folder::new();
    let file = folder.file();
    let audit = open(&file);
    write(&audit).await.unwrap();
    write(&audit).await.unwrap();
    drop(audit);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}{{\"seq\":3,\"torn")).unwrap();
    let audit = open(&file);
    write(&audit).await.unwrap();
    assert_eq!(sequence(&file), [1, 2, 3, 4]);
    assert_eq!(events(&file), ["request", "request", "torn", "request"]);
    let aside = std::fs::read_dir(folder.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains(".torn-"))
        .unwrap();
    assert_eq!(std::fs::read_to_string(aside).unwrap(), "{\"seq\":3,\"torn");
    let verified = verified(&[file]).unwrap();
    assert_eq!((verified.records, verified.end_proven), (4, Some(4)));
}

#[tokio::test]
async fn the_chain_goes_on_over_rotations_and_restarts() {
    let folder = Folder::new();
    let (file, old, older) = (
        folder.file(),
        folder.0.path().join("old"),
        folder.0.path().join("older"),
    );
    let audit = open(&file);
    write(&audit).await.unwrap();
    std::fs::rename(&file, &older).unwrap();
    adopt(&audit, Plan::new(config(&file))).await;
    write(&audit).await.unwrap();
    audit.finish().await;
    drop(audit);
    // Rotated while nothing runs.
    std::fs::rename(&file, &old).unwrap();
    let audit = open(&file);
    write(&audit).await.unwrap();
    audit.finish().await;
    assert_eq!((sequence(&older), sequence(&old)), (vec![1], vec![2]));
    assert_eq!(sequence(&file), [3]);
    let verified = verified(&[older, old, file]).unwrap();
    assert_eq!((verified.records, verified.end_proven), (3, Some(3)));
}

#[tokio::test]
async fn an_end_that_was_cut_off_stays_visible() {
    let folder = Folder::new();
    let file = folder.file();
    let audit = open(&file);
    for _ in 0..3 {
        write(&audit).await.unwrap();
    }
    audit.finish().await;
    drop(audit);
    let text = std::fs::read_to_string(&file).unwrap();
    let first = text.split_inclusive('\n').next().unwrap();
    std::fs::write(&file, first).unwrap();
    assert!(verified(std::slice::from_ref(&file)).is_err());
    let audit = open(&file);
    write(&audit).await.unwrap();
    assert_eq!(sequence(&file), [1, 4, 5]);
    assert_eq!(events(&file), ["request", "torn", "request"]);
    assert!(verified(&[file]).is_err());
}

#[tokio::test]
async fn a_full_disk_refuses_as_told_and_is_noticed_when_over() {
    let folder = Folder::new();
    let audit = open(Path::new("/dev/full"));
    assert!(audit.ready_for(Purpose::Write).is_ok());
    assert!(matches!(write(&audit).await, Err(AuditError::Unwritable)));
    assert!(audit.ready_for(Purpose::Read).is_ok());
    assert!(audit.ready_for(Purpose::Write).is_err());
    assert!(audit.sinks()[0].failing.is_some());
    let file = folder.file();
    adopt(&audit, Plan::new(config(&file))).await;
    write(&audit).await.unwrap();
    assert!(audit.ready_for(Purpose::Write).is_ok());
    assert_eq!(sequence(&file), [1, 2, 3]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("1 requests refused, 0 records lost"),
        "{text}"
    );
    assert_eq!(audit.sinks()[0].failing, None);
}

#[tokio::test]
async fn a_reader_that_stops_is_not_waited_for_and_misses_nothing() {
    let folder = Folder::new();
    let fifo = folder.0.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let mut setting = config(&fifo);
    setting.timeout = Duration::from_millis(300);
    // No reader: it starts all the same.
    let audit = Audit::open(Plan::new(setting.clone())).unwrap();
    assert!(write(&audit).await.is_err());
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(&fifo)
        .unwrap();
    while !audit.writable() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A reader that does not read: the pipe fills up, and whoever waits is told.
    let mut written: u64 = 1;
    while write(&audit).await.is_ok() {
        written += 1;
    }
    assert!(!audit.writable());
    adopt(&audit, Plan::new(setting)).await;
    // It reads on: every line is there, once.
    let mut text = String::new();
    let mut bytes = [0; 4096];
    while !audit.writable() || !audit.trail.is_drained() {
        match reader.read(&mut bytes) {
            Ok(count) => text.push_str(std::str::from_utf8(&bytes[..count]).unwrap()),
            Err(_empty) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    while let Ok(count @ 1..) = reader.read(&mut bytes) {
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    let requests = text.matches("\"event\":\"request\"").count() as u64;
    assert_eq!(requests, written + 1);
    let copy = folder.0.path().join("copy");
    std::fs::write(&copy, text).unwrap();
    assert!(verified(&[copy]).is_ok());
}

#[tokio::test]
async fn a_sink_that_is_not_required_fails_alone_and_is_told() {
    let folder = Folder::new();
    let file = folder.file();
    let path = folder.0.path().join("syslog");
    let mut setting = config(&file);
    setting.syslog = Some(SyslogSettings {
        address: SyslogAddress::Unix(path.clone()),
        ca: None,
        required: false,
    });
    let audit = Audit::open(Plan::new(setting)).unwrap();
    write(&audit).await.unwrap();
    while audit.sinks()[1].failing.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(audit.writable());
    write(&audit).await.unwrap();
    let listening = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    while audit.sinks()[1].failing.is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    audit.finish().await;
    listening.set_nonblocking(true).unwrap();
    let mut message = [0; 4096];
    let mut received = Vec::new();
    while let Ok(length) = listening.recv(&mut message) {
        received.push(String::from_utf8_lossy(&message[..length]).into_owned());
    }
    let lines = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(received.len(), lines.len());
    for (message, line) in received.iter().zip(lines) {
        assert!(message.ends_with(line), "{message}");
    }
    assert_eq!(events(&file), ["request", "audit", "request", "audit"]);
}

#[tokio::test]
async fn keys_and_checkpoints_hold_over_reload_and_restart() {
    let folder = Folder::new();
    let file = folder.file();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let public = rcgen::PublicKeyData::subject_public_key_info(&pair);
    let signer = Arc::new(Signer::new(&pair.serialize_der()).unwrap());
    let [one, two] = [[1; 32], [2; 32]].map(|bytes| ChainKey::from_bytes(&bytes).unwrap());
    let plan = |key: &ChainKey| Plan {
        key: key.clone(),
        signer: Some(Arc::clone(&signer)),
        ..Plan::new(config(&file))
    };
    let audit = Audit::open(plan(&one)).unwrap();
    write(&audit).await.unwrap();
    adopt(&audit, plan(&two)).await;
    write(&audit).await.unwrap();
    audit.finish().await;
    drop(audit);
    let audit = Audit::open(plan(&two)).unwrap();
    for _ in 0..2500 {
        let record = Record::open(&audit, Event::Request);
        record.close();
    }
    audit.finish().await;
    let proofs = Proofs {
        keys: vec![two, one],
        public: vec![PublicKey::new(&public).unwrap()],
        from: None,
    };
    let verified = verify(std::slice::from_ref(&file), &proofs, &|_bytes| {}).unwrap();
    assert_eq!(verified.keys.len(), 2);
    assert_eq!(verified.signed, Some(verified.last.unwrap().seq));
    assert!(verified.checkpoints >= 5, "{}", verified.checkpoints);
    let said = events(&file)
        .iter()
        .filter(|event| *event == "rekey")
        .count();
    // Once at the first key, once at the second; none at a restart with the same.
    assert_eq!(said, 2);
    assert!(
        verify(
            &[file],
            &Proofs {
                keys: Vec::new(),
                ..proofs
            },
            &|_bytes| {}
        )
        .is_err()
    );
}

/// Refuses a login of a user and says what the client was told to quote.
fn refuse(audit: &Arc<Audit>, user: &str) -> String {
    let mut record = Record::open(audit, Event::Login);
    record.source([192, 0, 2, 7].into());
    record.claim(&Claim::of_text(user));
    record.answer(Outcome::Failed, 401);
    record.reason("wrong password");
    record.settle_reference();
    let reference = record.reference_id().to_owned();
    record.close();
    reference
}

#[tokio::test]
async fn refusals_of_one_source_are_counted_beyond_its_share() {
    let folder = Folder::new();
    let file = folder.file();
    let audit = open(&file);
    let told: Vec<_> = (0..1500)
        .map(|number| refuse(&audit, &format!("user-{number}")))
        .collect();
    // What got a permit is never among them.
    let mut permitted = Record::open(&audit, Event::Request);
    permitted.source([192, 0, 2, 7].into());
    permitted.permitted();
    permitted.answer(Outcome::Allowed, 200);
    permitted.close();
    audit.flush_suppressed();
    audit.finish().await;
    let records = records(&file);
    let suppressed = records.last().unwrap();
    assert_eq!(suppressed["event"], "suppressed");
    let alone = records.len() - 2;
    assert!((50..150).contains(&alone), "{alone}");
    assert_eq!(records[alone]["outcome"], "allowed");
    assert_eq!(suppressed["count"], 1500 - alone);
    assert_eq!(
        (&suppressed["client"], &suppressed["status"]),
        (&"192.0.2.7".into(), &401.into())
    );
    let users = suppressed["users"].as_array().unwrap();
    assert_eq!(users[0], format!("user-{alone}"));
    let shared: std::collections::HashSet<_> = told[alone..].iter().collect();
    assert_eq!(shared.len(), 1);
    assert_eq!(suppressed["ref"], told[alone]);
}

#[tokio::test]
async fn a_full_queue_has_no_place_for_what_commits() {
    let folder = Folder::new();
    let fifo = folder.0.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    // Somebody has to have it open for reading, and reads nothing.
    let reader = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(&fifo)
        .unwrap();
    let mut plan = Plan::new(config(&fifo));
    plan.config.timeout = Duration::from_millis(300);
    let audit = Audit::open(plan).unwrap();
    let source = |number: u8| std::net::IpAddr::from([192, 0, 2, number]);
    let record = |number| {
        let mut record = Record::open(&audit, Event::Request);
        record.source(source(number));
        record.permitted();
        record
    };
    let held: Vec<_> = (0..=u8::MAX)
        .cycle()
        .map_while(|number| audit.spare_place(crate::limit::Claimant::proven(source(number))))
        .collect();
    assert!(held.len() > 1000);
    let mut writer = record(9);
    assert!(writer.reserve().take().await.is_err());
    assert_eq!(audit.room_for(source(9)).await, Err(NotNow::Full));
    audit.mode.store(
        super::mode_number(WhenUnwritable::Serve),
        std::sync::atomic::Ordering::Relaxed,
    );
    assert!(writer.reserve().take().await.is_ok());
    audit.mode.store(
        super::mode_number(WhenUnwritable::RefuseWrites),
        std::sync::atomic::Ordering::Relaxed,
    );
    drop(held);
    assert!(writer.reserve().take().await.is_ok());
    assert_eq!(audit.room_for(source(9)).await, Ok(()));
    drop((writer, reader));
}

#[tokio::test]
async fn many_tasks_wait_and_each_finds_its_record() {
    let folder = Folder::new();
    let file = folder.file();
    let audit = open(&file);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let audit = Arc::clone(&audit);
        tasks.spawn(async move {
            for _ in 0..50 {
                write(&audit).await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(sequence(&file), (1..=3200).collect::<Vec<u64>>());
    assert!(verified(&[file]).is_ok());
}

#[test]
fn what_a_mode_refuses() {
    let folder = Folder::new();
    let audit = open(&folder.file());
    for mode in [
        WhenUnwritable::Refuse,
        WhenUnwritable::RefuseWrites,
        WhenUnwritable::Serve,
    ] {
        audit.mode.store(
            super::mode_number(mode),
            std::sync::atomic::Ordering::Relaxed,
        );
        assert!(audit.ready_for(Purpose::Write).is_ok());
    }
}
