//! The last use of each robot key, from the end of a trail.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use jiff::Timestamp;

use crate::audit::{Entry, Event, Outcome};
use crate::identity::{ROBOT, Subject};

/// Bytes read at the end of the file: some 30,000 records. Older uses are unknown.
const TAIL: u64 = 16 << 20;

/// The time of the last record in which a key was accepted, by the key's name. Without a readable
/// file there are none.
pub fn last_key_uses(audit: &Path) -> HashMap<String, Timestamp> {
    let tail = tail(audit).unwrap_or_default();
    let mut used = HashMap::new();
    for line in tail.split(|byte| *byte == b'\n') {
        if let Some((name, time)) = use_of(line) {
            used.insert(name, time);
        }
    }
    used
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    Ok(text)
}

/// The key that was used, if it is a record of that. The first line of a tail is cut and no JSON.
fn use_of(line: &[u8]) -> Option<(String, Timestamp)> {
    let mark = format!("\"{ROBOT}");
    line.windows(mark.len())
        .any(|part| part == mark.as_bytes())
        .then_some(())?;
    let record = Entry::parse(line).ok()?;
    let Some(Subject::Robot(robot)) = record.subject() else {
        return None;
    };
    // A denial and an interrupted download are uses too; a wrong key is none.
    let used = match record.outcome {
        Outcome::Aborted | Outcome::Allowed | Outcome::Denied => true,
        Outcome::Challenged | Outcome::Error | Outcome::Failed | Outcome::Limited => false,
    };
    let accepted = used && !record.is(Event::Key) && !record.is(Event::Lockout);
    accepted.then_some((robot.name().to_owned(), record.time))
}

#[cfg(test)]
mod tests {
    use super::last_key_uses;
    use tempfile::tempdir;

    #[test]
    fn the_last_accepted_use_counts() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        assert!(last_key_uses(&path).is_empty());
        let line = |second: u32, user: &str, outcome: &str, event: &str| {
            format!(
                "{{\"time\":\"2026-06-01T00:00:{second:02}Z\",\"event\":\"{event}\",\
                 \"outcome\":\"{outcome}\",\"user\":{user}}}\n"
            )
        };
        let text = [
            "cut\":\"key:ci\"}\n".to_owned(),
            line(1, "\"key:ci\"", "allowed", "request"),
            line(2, "\"key:ci\"", "denied", "request"),
            line(3, "\"key:ci\"", "failed", "request"),
            line(4, "\"key:ci\"", "allowed", "lockout"),
            line(5, "\"key:ci\"", "allowed", "key"),
            line(5, "\"alice\"", "allowed", "request"),
            line(6, "null", "allowed", "request"),
            line(7, "\"key:other\"", "failed", "login"),
            line(8, "\"key:ci\",\"auth\":\"ldap\"", "allowed", "request"),
        ];
        std::fs::write(&path, text.concat()).unwrap();
        let used = last_key_uses(&path);
        assert_eq!(used.len(), 1, "{used:?}");
        assert_eq!(used["ci"].to_string(), "2026-06-01T00:00:02Z");
    }
}
