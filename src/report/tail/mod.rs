//! The last records of a trail and those that come, as lines for people or for machines.

mod follow;
mod line;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::audit::{Entry, Flaw, Lines, TrailFile, Unreadable};
use crate::policy::Pattern;
use crate::registry::RepoName;

pub use follow::Follow;
pub use line::Columns;

use line::ascii;

/// The end of a file that is looked at first, in bytes; doubled until there is enough.
const TAIL: u64 = 256 * 1024;

/// Conditions on a record; all of them have to hold.
#[derive(Debug, Default)]
pub struct Filter {
    /// The user, authenticated or claimed.
    pub user: Option<String>,
    /// A pattern over repository names.
    pub repository: Option<Pattern>,
    /// Outcomes; none means any.
    pub outcome: Vec<String>,
    /// Events; none means any.
    pub event: Vec<String>,
    /// The network of the client.
    pub client: Option<IpNet>,
    /// The reference, as it stands in a client's error message.
    pub reference: Option<String>,
}

impl Filter {
    /// Returns true if all conditions hold.
    fn fits(&self, entry: &Entry) -> bool {
        let user = |user: &String| entry.user.as_ref() == Some(user);
        let about = |pattern: &Pattern| {
            let name = entry.repository.as_deref().and_then(RepoName::parse);
            name.is_some_and(|name| pattern.matches(&name, entry.user.as_deref()))
        };
        let from = |network: &IpNet| {
            let client = entry.client.map(|client| client.to_canonical());
            client.is_some_and(|client| network.contains(&client))
        };
        let named = |reference: &String| entry.reference_id.eq_ignore_ascii_case(reference);
        let among =
            |words: &[String], word: &str| words.is_empty() || words.iter().any(|one| one == word);
        self.user.iter().all(user)
            && self.repository.iter().all(about)
            && self.client.iter().all(from)
            && self.reference.iter().all(named)
            && among(&self.outcome, entry.outcome.as_str())
            && among(&self.event, &entry.event)
    }

    /// Returns true without any condition.
    fn is_open(&self) -> bool {
        let Self {
            user,
            repository,
            outcome,
            event,
            client,
            reference,
        } = self;
        user.is_none()
            && repository.is_none()
            && client.is_none()
            && reference.is_none()
            && outcome.is_empty()
            && event.is_empty()
    }
}

/// Form of the lines.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Columns for people.
    Columns(Columns),
    /// The records themselves, in ASCII.
    Json,
}

/// The newest file of a trail, and where its last whole line ends.
pub type Newest = (TrailFile, u64);

/// A choice of records, and the form in which they are shown.
#[derive(Debug)]
pub struct Tail {
    /// Conditions on a record.
    pub filter: Filter,
    /// Form of the lines.
    pub form: Form,
}

impl Tail {
    /// The last `count` lines that fit of the files of a trail, in any order; the newest file, and where
    /// its last whole line ends, if it can grow.
    pub fn last_of_all(
        &self,
        mut files: Vec<TrailFile>,
        count: usize,
        reading: Reading,
    ) -> Result<(Vec<String>, Option<Newest>), Unreadable> {
        files.sort_by_cached_key(first_time);
        let (mut found, mut newest) = (VecDeque::new(), None);
        while let Some(file) = files.pop() {
            let wanted = count.saturating_sub(found.len());
            let last = match file.plain() {
                Some(plain) => self
                    .last(plain, wanted, reading)
                    .map(|(last, end)| (last, Some(end))),
                None => self.last_unpacked(&file, wanted).map(|last| (last, None)),
            };
            let (last, end) = last.map_err(|source| Unreadable {
                path: file.path().to_owned(),
                source,
            })?;
            last.into_iter()
                .rev()
                .for_each(|line| found.push_front(line));
            if newest.is_none() {
                newest = Some((file, end));
            }
            if found.len() >= count {
                break;
            }
        }
        let newest = newest.and_then(|(file, end)| Some((file, end?)));
        Ok((found.into(), newest))
    }

    fn last_unpacked(&self, file: &TrailFile, count: usize) -> io::Result<Vec<String>> {
        let mut lines = Lines::new(BufReader::new(file.reader()?));
        let mut found = VecDeque::new();
        while let Some(line) = lines.read()? {
            found.extend(self.shown(lines.text(), line));
            if found.len() > count {
                found.pop_front();
            }
        }
        Ok(found.into())
    }

    /// The last `count` lines that fit, and where the last whole line ends.
    fn last(&self, file: &File, count: usize, reading: Reading) -> io::Result<(Vec<String>, u64)> {
        let length = file.metadata()?.len();
        let mut window = TAIL;
        loop {
            let begin = length.saturating_sub(window);
            let mut from = file;
            from.seek(SeekFrom::Start(begin))?;
            let part = from.take(length.saturating_sub(begin));
            let mut lines = Lines::new(BufReader::new(part));
            if begin > 0 {
                // The first one is cut.
                lines.read()?;
            }
            let mut end = begin;
            let mut found = VecDeque::new();
            while let Some(line) = lines.read()? {
                let is_last = begin.saturating_add(lines.bytes()) == length;
                if reading == Reading::Following && line.is_err() && is_last {
                    break;
                }
                end = begin.saturating_add(lines.bytes());
                found.extend(self.shown(lines.text(), line));
                if found.len() > count {
                    found.pop_front();
                }
            }
            if begin == 0 || found.len() >= count {
                return Ok((found.into(), end));
            }
            window = window.saturating_mul(2);
        }
    }

    /// A line of the trail as it is shown, if it fits.
    pub fn line(&self, text: &[u8]) -> Option<String> {
        self.shown(text, Entry::parse(text))
    }

    fn shown(&self, text: &[u8], line: Result<Entry, Flaw>) -> Option<String> {
        match (line, self.form) {
            (Ok(entry), form) => self.filter.fits(&entry).then(|| match form {
                Form::Columns(columns) => columns.line(&entry),
                Form::Json => ascii(text),
            }),
            (Err(_), Form::Json) => None,
            (Err(flaw), Form::Columns(_)) => self
                .filter
                .is_open()
                .then(|| format!("(a line {flaw}, {} bytes)\n", text.len())),
        }
    }
}

/// When the first record of a file was written; a file without one is the newest.
fn first_time(file: &TrailFile) -> Timestamp {
    let first = || {
        let mut lines = Lines::new(BufReader::new(file.reader().ok()?));
        Some(lines.read().ok()??.ok()?.time)
    };
    first().unwrap_or(Timestamp::MAX)
}

/// Ways to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As it is now, to its end.
    Once,
    /// While it grows: an unfinished line at its end is left for later.
    Following,
}

#[cfg(test)]
mod tests {
    use super::{Filter, Form, Reading, Tail};
    use crate::audit::Entry;
    use crate::policy::Pattern;
    use std::fs::File;
    use tempfile::tempdir;

    fn record(number: u32, more: &str) -> String {
        format!(
            "{{\"time\":\"2026-01-01T00:00:00Z\",\"ref\":\"R{number}\",\"event\":\"request\",\
             \"outcome\":\"allowed\"{more}}}\n"
        )
    }

    fn last(file: &File, filter: Filter) -> (Vec<String>, u64) {
        let form = Form::Json;
        Tail { filter, form }.last(file, 3, Reading::Once).unwrap()
    }

    #[test]
    fn the_last_that_fit_are_found_however_far_back() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut text = record(1, ",\"user\":\"rare\"");
        for number in 2..6000 {
            text += &record(number, ",\"user\":\"often\"");
        }
        std::fs::write(&path, &text).unwrap();
        let file = File::open(&path).unwrap();
        let (found, end) = last(&file, Filter::default());
        assert_eq!(found.len(), 3);
        assert!(found[2].contains("R5999") && found[0].contains("R5997"));
        assert_eq!(end, u64::try_from(text.len()).unwrap());
        let rare = Filter {
            user: Some("rare".to_owned()),
            ..Filter::default()
        };
        let (found, _) = last(&file, rare);
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_filter_takes_what_is_all_of_it() {
        let line = record(
            7,
            ",\"user\":\"alice\",\"client\":\"::ffff:10.1.2.3\",\"repository\":\"home/alice/x\"",
        );
        let entry = Entry::parse(line.as_bytes()).unwrap();
        let one = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter.fits(&entry)
        };
        for (change, fits) in [
            ((|_| {}) as fn(&mut Filter), true),
            (|f| f.user = Some("alice".to_owned()), true),
            (|f| f.user = Some("Alice".to_owned()), false),
            (
                |f| f.repository = Some(Pattern::parse("home/${user}/**").unwrap()),
                true,
            ),
            (
                |f| f.repository = Some(Pattern::parse("home/*").unwrap()),
                false,
            ),
            (|f| f.client = Some("10.0.0.0/8".parse().unwrap()), true),
            (|f| f.client = Some("10.1.2.4/32".parse().unwrap()), false),
            (|f| f.reference = Some("r7".to_owned()), true),
            (
                |f| f.outcome = vec!["denied".to_owned(), "allowed".to_owned()],
                true,
            ),
            (|f| f.outcome = vec!["denied".to_owned()], false),
            (|f| f.event = vec!["login".to_owned()], false),
        ] {
            assert_eq!(one(change), fits);
        }
    }
}
