//! `portcullis audit prune`: removes the oldest files of a rotated trail, with a record of the cut.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueHint;
use jiff::{SignedDuration, Timestamp};
use portcullis::audit::prune::{Cut, Keep, remove};
use portcullis::audit::verify::{Proofs, Verified, verify};
use portcullis::audit::{ChainKey, Plan, Settings, siblings};
use portcullis::reload;
use serde_json::json;

use super::report::{Moment, moment};
use super::verify::chain_key;
use crate::cli::config_file::{ConfigFile, load};
use crate::cli::terminal::{print, print_error};

/// Remove the oldest files of a rotated trail, and record that in the trail
///
/// `audit verify` then accepts that the trail begins there. The trail is verified first, and nothing is removed
/// from one that is not whole. A running proxy writes the record; without one this command does, as the user
/// who owns the trail. The file that is written is never removed. Exit code 0, also when there is nothing to
/// remove.
#[derive(Debug, clap::Args)]
pub(crate) struct Prune {
    /// The trail; by default that of the configuration. With it, no configuration is read
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,

    #[command(flatten)]
    keep: Kept,

    /// Show what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,

    /// Remove also from a trail that does not verify, such as one whose beginning is missing; the record
    /// says so
    #[arg(long)]
    unverified: bool,

    /// A key file of the chain (`audit.key_file`) besides that of the configuration; once for each key it has
    /// had, the one in force last
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,

    /// Print the result as JSON on stdout
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Kept {
    /// Keep the newest rotated files, so many
    #[arg(long, value_name = "N")]
    keep: Option<usize>,

    /// Keep the files with records of the last so many days
    #[arg(long, value_name = "DAYS")]
    keep_days: Option<u32>,

    /// Keep the files with records from then on: 2026-11-22, 2026-11-22T08:00:00Z, or an age such as 30d
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<Moment>,
}

impl Kept {
    /// `None` if nothing was given.
    fn part(&self, now: Timestamp) -> Option<Keep> {
        let Self {
            keep,
            keep_days,
            before,
        } = self;
        let day = |days: u32| {
            Moment::Ago(SignedDuration::from_hours(
                i64::from(days).saturating_mul(24),
            ))
        };
        let since = before.or_else(|| keep_days.map(day));
        let since = since.map(|moment| Keep::Since(moment.before(now)));
        since.or_else(|| keep.map(Keep::Files))
    }
}

impl Prune {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let keys = self.key_file.iter().map(|path| chain_key(path));
        let mut keys = keys.collect::<Result<Vec<_>>>()?;
        let plan = match &self.file {
            Some(file) => {
                let mut plan = Plan::new(Settings::of_file(file));
                plan.key = keys.last().cloned().unwrap_or_default();
                plan
            }
            None => match load(&self.config.config) {
                Ok((config, _warnings)) => reload::audit_plan(&config)?,
                Err(code) => return Ok(code),
            },
        };
        if plan.key.name().is_some() {
            keys.push(plan.key.clone());
        }
        let trail = plan.config.file.clone();
        let trail = trail.as_path();
        let keep = self.keep.part(Timestamp::now());
        let keep = keep.context("nothing says what to keep")?;
        let Some(cut) = Cut::of(trail, keep)? else {
            bail!("{} has no record", trail.display());
        };
        let (begins, note) = match verified(trail, keys) {
            Ok(verified) => (verified.expected_first, String::new()),
            Err(flaw) if self.unverified => (1, format!("; it did not verify: {flaw}")),
            Err(flaw) => {
                print_error(&flaw);
                print_error(
                    "nothing was removed; --unverified removes the oldest files all the same",
                );
                return Ok(ExitCode::FAILURE);
            }
        };
        let removed = if self.dry_run {
            cut.files.clone()
        } else {
            if cut.first > begins {
                cut.record(plan, &note)?;
            }
            // With what a command that was ended has left.
            remove(trail, cut.first.max(begins))?
        };
        self.report(&removed, cut.first.max(begins))?;
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, files: &[PathBuf], first: u64) -> Result<()> {
        if self.json {
            let value = json!({"dry_run": self.dry_run, "removed": files, "first": first});
            return print(&format!("{value:#}\n"));
        }
        let mut text = match (files.len(), self.dry_run) {
            (0, _) => "nothing to remove".to_owned(),
            (1, true) => "would remove 1 file".to_owned(),
            (1, false) => "removed 1 file".to_owned(),
            (count, true) => format!("would remove {count} files"),
            (count, false) => format!("removed {count} files"),
        };
        let would = if self.dry_run {
            "would begin"
        } else {
            "begins"
        };
        // Writing to a String cannot fail.
        let _ok = writeln!(text, "; the trail {would} at record {first}").is_ok();
        for file in files {
            let _ok = writeln!(text, "  {}", file.display()).is_ok();
        }
        print(&text)
    }
}

/// Verifies the trail; the problem as text.
fn verified(trail: &Path, keys: Vec<ChainKey>) -> Result<Verified, String> {
    let proofs = Proofs {
        keys,
        ..Proofs::default()
    };
    let verified = verify(&siblings(trail), &proofs, &|_bytes| {});
    verified.map_err(|error| error.to_string())
}
