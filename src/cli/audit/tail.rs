//! `portcullis audit tail`: the last records, and those that follow.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use ipnet::IpNet;
use portcullis::audit::{Event, Outcome, TrailFile};
use portcullis::policy::Pattern;
use portcullis::report::tail::{self, Columns, Follow, Form, Reading};

use super::trail::Trail;
use crate::cli::terminal;

/// Show the last records of a trail, and those that come
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    #[command(flatten)]
    trail: Trail,

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

/// Conditions on a record; all of them have to hold.
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

    /// With this reference, as it stands in a client's error message
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

impl From<Filter> for tail::Filter {
    fn from(filter: Filter) -> Self {
        let Filter {
            user,
            repository,
            outcome,
            event,
            client,
            reference,
        } = filter;
        Self {
            user,
            repository,
            outcome,
            event,
            client,
            reference,
        }
    }
}

impl Tail {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let files = match self.trail.find() {
            Ok((files, _config)) => files,
            Err(code) => return Ok(code),
        };
        let (files, unreadable) = TrailFile::open_all(&files);
        if let Some(first) = unreadable.into_iter().next() {
            return Err(first.into());
        }
        let columns = Columns {
            width: terminal::width(),
            colours: terminal::colours(),
        };
        let (form, head) = if self.json {
            (Form::Json, String::new())
        } else {
            (Form::Columns(columns), Columns::head())
        };
        let filter = self.filter.into();
        let tail = tail::Tail { filter, form };
        let reading = if self.follow {
            Reading::Following
        } else {
            Reading::Once
        };
        let (last, newest) = tail.last_of_all(files, self.lines, reading)?;
        let mut out = io::stdout().lock();
        let written = write!(out, "{head}{}", last.concat()).and_then(|()| out.flush());
        if !is_open(written)? || !self.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let Some((newest, end)) = newest else {
            bail!("nothing follows a compressed file: name the file that is written");
        };
        let shown = newest.path().display();
        let file = newest
            .reopened()
            .with_context(|| format!("cannot read {shown}"))?;
        let mut follow = Follow::new(newest.path().to_owned(), file, end);
        loop {
            let mut text = String::new();
            follow
                .next(|line| text.extend(tail.line(line)))
                .with_context(|| format!("cannot read {shown}"))?;
            let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
            if !is_open(written)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Returns true while stdout is read; its end (`| head`) is no failure.
fn is_open(written: io::Result<()>) -> Result<bool> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.context("cannot write to stdout").map(|()| true),
    }
}
