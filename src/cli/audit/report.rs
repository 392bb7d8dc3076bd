//! `portcullis audit report`: credentials, refusals, pulls and pushes, for the people answerable.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::ValueHint;
use jiff::{SignedDuration, Timestamp};
use portcullis::audit::TrailFile;
use portcullis::config::{Config, time_to_live};
use portcullis::report::terminal::escape_controls;
use portcullis::report::{
    Configured, Found, Gathered, JSON_KEYS, Period, Summary, Terms, TextLook, size,
};

use super::trail;
use crate::cli::config_file::{ConfigFile, load};
use crate::cli::files::{self, Existing, Readers};
use crate::cli::terminal::{self, print, print_error};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

/// Report who used which credential, what was refused, what was pulled and pushed
///
/// Reads any number of trail files, of any size, in any order, also compressed ones (gzip, zstd). Lines
/// that are no records are counted and named. Exit code 0, also when there is something to look at; 1
/// when a file could not be read or holds no record.
#[derive(Debug, clap::Args)]
#[command(after_long_help = JSON_KEYS)]
pub(crate) struct Report {
    /// Files of the trail, also rotated ones; `-` is standard input; by default all of the
    /// configuration's trail
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    files: Vec<PathBuf>,

    /// A configuration: its users, keys, certificates and password hashes are looked at as well.
    /// Without FILE by default that of `serve`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Only what happened from then on: 2026-11-22, 2026-11-22T08:00:00Z, or an age such as 30d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,

    /// Only what happened before
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Moment>,

    /// Time without a use after which a credential is called unused
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = span)]
    unused: SignedDuration,

    /// Keys and certificates that end within this time are pointed out
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = span)]
    expiring: SignedDuration,

    /// Rows of each table
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    top: u16,

    /// Print JSON; --help has its keys
    #[arg(long)]
    json: bool,

    /// Write one self-contained page to this file instead
    #[arg(long, value_name = "FILE", conflicts_with = "json", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
}

/// A point in time, or an age.
#[derive(Clone, Copy, Debug)]
pub(super) enum Moment {
    At(Timestamp),
    Ago(SignedDuration),
}

impl Moment {
    pub(super) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(age) => now.saturating_sub(age).unwrap_or(Timestamp::MIN),
        }
    }
}

pub(super) fn moment(text: &str) -> Result<Moment, String> {
    let midnight = || format!("{text}T00:00:00Z").parse::<Timestamp>();
    if let Ok(time) = text.parse().or_else(|_no_time| midnight()) {
        return Ok(Moment::At(time));
    }
    span(text).map(Moment::Ago).map_err(|_neither| {
        "write a day such as 2026-11-22, a time such as 2026-11-22T08:00:00Z, or an age such as 30d"
            .to_owned()
    })
}

fn span(text: &str) -> Result<SignedDuration, String> {
    let time = time_to_live(text)?.ok_or("write a duration such as 90d")?;
    SignedDuration::try_from(time).map_err(|error| error.to_string())
}

impl Report {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let usual = || self.files.is_empty().then(ConfigFile::usual);
        let config = self.config.clone().or_else(usual);
        let config = match config.as_deref().map(load).transpose() {
            Ok(loaded) => loaded.map(|(config, _warnings)| config),
            Err(code) => return Ok(code),
        };
        let (gathered, unread) = self.gather(config.as_ref());
        for problem in &unread {
            print_error(problem);
        }
        if gathered.is_empty() && !unread.is_empty() {
            return Ok(ExitCode::FAILURE);
        }
        let summary = self.summary(gathered, config.as_ref(), Timestamp::now());
        if let Some(path) = &self.html {
            let page = summary.html();
            files::write(path, page.as_bytes(), Readers::Owner, Existing::Replace)?;
            print_error(&format!("wrote {}", path.display()));
        } else if self.json {
            print(&format!("{:#}\n", summary.json()))?;
        } else {
            let look = TextLook {
                width: terminal::width(),
                colours: terminal::colours(),
            };
            print(&summary.text(look))?;
        }
        Ok(if unread.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Reads all files; what could not be read is told of, and does not keep the others from it.
    fn gather(&self, config: Option<&Config>) -> (Gathered, Vec<String>) {
        let now = Timestamp::now();
        let mut gathered = Gathered::new(Period {
            since: self.since.map(|since| since.before(now)),
            until: self.until.map(|until| until.before(now)),
        });
        let (mut piped, mut paths): (Vec<_>, Vec<_>) = self
            .files
            .iter()
            .cloned()
            .partition(|path| path == Path::new("-"));
        if let (true, Some(config)) = (self.files.is_empty(), config) {
            paths = trail::of(config);
        }
        let (files, unreadable) = TrailFile::open_all(&paths);
        let mut unread: Vec<_> = unreadable.iter().map(ToString::to_string).collect();
        for file in &files {
            let name = file.path().display().to_string();
            let read = file
                .reader()
                .and_then(|from| gather_file(&name, from, file.length(), &mut gathered));
            unread.extend(
                read.err()
                    .map(|error| format!("cannot read {name}: {error}")),
            );
        }
        if piped.pop().is_some() {
            let read = gather_file("-", io::stdin(), None, &mut gathered);
            unread.extend(read.err().map(|error| format!("cannot read -: {error}")));
        }
        (gathered, unread)
    }

    fn summary(&self, gathered: Gathered, config: Option<&Config>, now: Timestamp) -> Summary {
        let terms = Terms {
            now,
            unused: self.unused,
            soon: self.expiring,
        };
        let configured = config.map(|config| Configured {
            auth: &config.auth,
            roles: &config.roles,
            endings: config.endings(),
        });
        Summary::new(gathered, configured, terms, self.top.into())
    }
}

fn gather_file(
    name: &str,
    from: impl Read,
    length: Option<u64>,
    gathered: &mut Gathered,
) -> io::Result<()> {
    let mut progress = Progress::new(name, length);
    let read = gathered.read(name, from, |bytes| progress.show(bytes));
    progress.clear();
    let is_foreign = "none of its lines is an audit record";
    match read? {
        Found::Lines { records: 0 } => Err(io::Error::new(io::ErrorKind::InvalidData, is_foreign)),
        Found::Lines { .. } | Found::Nothing => Ok(()),
    }
}

/// Progress of the reading, shown on a terminal.
struct Progress<'a> {
    name: &'a str,
    length: Option<u64>,
    since: Option<Instant>,
    shown: bool,
}

impl<'a> Progress<'a> {
    fn new(name: &'a str, length: Option<u64>) -> Self {
        Self {
            name,
            length,
            since: io::stderr().is_terminal().then(Instant::now),
            shown: false,
        }
    }

    fn show(&mut self, bytes: u64) {
        if self
            .since
            .is_none_or(|since| since.elapsed() < PROGRESS_INTERVAL)
        {
            return;
        }
        self.since = Some(Instant::now());
        self.shown = true;
        let done = match self.length {
            Some(length) if length > 0 => {
                let part = bytes.saturating_mul(100).checked_div(length);
                format!("{:3} %", part.unwrap_or_default())
            }
            Some(_) | None => size(bytes),
        };
        let name = escape_controls(self.name);
        // An error on stderr has no other place to be shown.
        let _written = write!(io::stderr(), "\r\u{1b}[Kreading {name} {done}").is_ok();
    }

    fn clear(&self) {
        if self.shown {
            let _written = write!(io::stderr(), "\r\u{1b}[K").is_ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::moment;

    #[test]
    fn moments_are_days_times_and_ages() {
        let now: Timestamp = "2026-05-11T00:00:00Z".parse().unwrap();
        for (text, time) in [
            ("2026-05-01", "2026-05-01T00:00:00Z"),
            ("2026-05-01T06:00:00+02:00", "2026-05-01T04:00:00Z"),
            ("10d", "2026-05-01T00:00:00Z"),
            ("36h", "2026-05-09T12:00:00Z"),
        ] {
            assert_eq!(
                moment(text).unwrap().before(now).to_string(),
                time,
                "{text}"
            );
        }
        for text in ["", "yesterday", "2026-13-01", "never", "1y"] {
            assert!(moment(text).is_err(), "{text}");
        }
    }
}
