//! `portcullis audit tail`: the last records, and those that come, for people who look on.

mod follow;
mod line;

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueHint;
use clap::builder::PossibleValuesParser;
use ipnet::IpNet;
use portcullis::audit::{Entry, Event, Flaw, Lines, Outcome};
use portcullis::policy::Pattern;
use portcullis::registry::RepoName;

use super::super::terminal;
use follow::Follow;
use line::{Columns, ascii};

/// The end of a file that is looked at first, in bytes; doubled until there is enough.
const TAIL: u64 = 256 * 1024;

/// Show the last records of a trail, and those that come
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// A file of the trail
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Go on with what is written from now on, also when the file is rotated
    #[arg(short, long)]
    follow: bool,

    /// How many of the last records that fit
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,

    #[command(flatten)]
    filter: Filter,

    /// Print the records themselves, one JSON object a line
    #[arg(long)]
    json: bool,
}

/// What a record must be to be shown: all of it.
#[derive(Debug, Default, clap::Args)]
struct Filter {
    /// Of this user, found out or claimed
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// About these repositories, as in an access rule
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    repository: Option<Pattern>,

    /// With these outcomes
    #[arg(long, value_name = "OUTCOME", value_delimiter = ',', value_parser = PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)))]
    outcome: Vec<String>,

    /// Of these events
    #[arg(long, value_name = "EVENT", value_delimiter = ',', value_parser = PossibleValuesParser::new(Event::ALL.map(Event::as_str)))]
    event: Vec<String>,

    /// From this network or address
    #[arg(long, value_name = "CIDR", value_parser = network)]
    client: Option<IpNet>,

    /// With this reference, as a client was told it
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<String>,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| error.message)
}

fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_not_a_network| address())
        .map_err(|_neither| "write a network such as 10.0.0.0/8, or an address".to_owned())
}

impl Filter {
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

    /// Whether everything fits.
    fn is_open(&self) -> bool {
        self.user.is_none()
            && self.repository.is_none()
            && self.client.is_none()
            && self.reference.is_none()
            && self.outcome.is_empty()
            && self.event.is_empty()
    }
}

impl Tail {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let shown = self.file.display();
        let file = File::open(&self.file).with_context(|| format!("cannot open {shown}"))?;
        let columns = Columns {
            width: terminal::width(),
            colours: terminal::colours(),
        };
        let (last, end) = self
            .last(&file, columns)
            .with_context(|| format!("cannot read {shown}"))?;
        let mut out = io::stdout().lock();
        let head = if self.json {
            String::new()
        } else {
            Columns::head()
        };
        let written = write!(out, "{head}{}", last.concat()).and_then(|()| out.flush());
        if !is_open(written)? || !self.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let mut follow = Follow::new(self.file.clone(), file, end);
        loop {
            let mut text = String::new();
            follow
                .next(|line| text.extend(self.shown(line, Entry::parse(line), columns)))
                .with_context(|| format!("cannot read {}", self.file.display()))?;
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            if !is_open(written)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    /// The last lines that fit, and where the last whole line ends.
    fn last(&self, file: &File, columns: Columns) -> io::Result<(Vec<String>, u64)> {
        let length = file.metadata()?.len();
        let mut window = TAIL;
        loop {
            let begin = length.saturating_sub(window);
            let mut from = file;
            from.seek(SeekFrom::Start(begin))?;
            let part = io::Read::take(from, length.saturating_sub(begin));
            let mut lines = Lines::new(BufReader::new(part));
            if begin > 0 {
                // The first one is cut.
                lines.read()?;
            }
            let mut end = begin;
            let mut found = std::collections::VecDeque::new();
            while let Some(line) = lines.read()? {
                if self.follow && line.is_err() && begin.saturating_add(lines.bytes()) == length {
                    // Perhaps the rest of it is still to come.
                    break;
                }
                end = begin.saturating_add(lines.bytes());
                found.extend(self.shown(lines.text(), line, columns));
                if found.len() > self.lines {
                    found.pop_front();
                }
            }
            if begin == 0 || found.len() >= self.lines {
                let end = if found.is_empty() && end == 0 { 0 } else { end };
                return Ok((found.into(), end));
            }
            window = window.saturating_mul(2);
        }
    }

    /// A line as it is shown, if it fits.
    fn shown(&self, text: &[u8], line: Result<Entry, Flaw>, columns: Columns) -> Option<String> {
        match line {
            Ok(entry) => self.filter.fits(&entry).then(|| {
                if self.json {
                    ascii(text)
                } else {
                    columns.line(&entry)
                }
            }),
            Err(_) if self.json => None,
            Err(flaw) => self
                .filter
                .is_open()
                .then(|| format!("(a line {flaw}, {} bytes)\n", text.len())),
        }
    }
}

/// Whether somebody still reads; `| head` is no failure.
fn is_open(written: io::Result<()>) -> Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.context("cannot write to stdout").map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::line::Columns;
    use super::{Filter, Tail, network, pattern};
    use portcullis::audit::Entry;
    use std::fs::File;
    use std::path::Path;
    use tempfile::tempdir;

    const COLUMNS: Columns = Columns {
        width: 200,
        colours: false,
    };

    fn record(number: u32, more: &str) -> String {
        format!(
            "{{\"time\":\"2026-01-01T00:00:00Z\",\"ref\":\"R{number}\",\"event\":\"request\",\
             \"outcome\":\"allowed\"{more}}}\n"
        )
    }

    fn tail(file: &Path, lines: usize, filter: Filter) -> Tail {
        Tail {
            file: file.to_owned(),
            follow: false,
            lines,
            filter,
            json: true,
        }
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
        let (last, end) = tail(&path, 3, Filter::default())
            .last(&file, COLUMNS)
            .unwrap();
        assert_eq!(last.len(), 3);
        assert!(last[2].contains("R5999") && last[0].contains("R5997"));
        assert_eq!(end, u64::try_from(text.len()).unwrap());
        let rare = Filter {
            user: Some("rare".to_owned()),
            ..Filter::default()
        };
        let (last, _) = tail(&path, 3, rare).last(&file, COLUMNS).unwrap();
        assert_eq!(last.len(), 1, "{last:?}");
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
                |f| f.repository = Some(pattern("home/${user}/**").unwrap()),
                true,
            ),
            (|f| f.repository = Some(pattern("home/*").unwrap()), false),
            (|f| f.client = Some(network("10.0.0.0/8").unwrap()), true),
            (|f| f.client = Some(network("10.1.2.4").unwrap()), false),
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
