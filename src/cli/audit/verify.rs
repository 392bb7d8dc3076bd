//! `portcullis audit verify`: whether a trail is as it was written, and what that proves.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use portcullis::audit::verify::{
    AcceptedStart, Begins, Finding, Proofs, Verified, VerifyError, verify,
};
use portcullis::audit::{ChainKey, PublicKey, is_beside};
use portcullis::tls;
use serde_json::json;

use super::trail::Trail;
use crate::cli::terminal::{print, print_error};

/// Time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Verify that the audit trail is as it was written
///
/// Finds records that were changed, removed, added or moved, and a beginning or an end that was cut off.
/// Exit code 1 and the first such place if there is one. A trail may begin where `audit prune` has cut it.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    trail: Trail,

    /// A key file of the chain besides the `audit.key_file` of the configuration, if it is read; once
    /// for each key it has had
    #[arg(long, value_name = "FILE")]
    key_file: Vec<PathBuf>,

    /// A public key in PEM; every checkpoint must be signed with one of them
    #[arg(long, value_name = "FILE")]
    public_key: Vec<PathBuf>,

    /// Accept that the trail begins at this record, and the older ones are missing: its number, or
    /// `oldest` for the oldest one of the files given
    #[arg(long, value_name = "SEQ", value_parser = from)]
    from: Option<AcceptedStart>,

    /// Print the result as JSON on stdout
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let (mut files, config) = match self.trail.find() {
            Ok(found) => found,
            Err(code) => return Ok(code),
        };
        let configured = config.and_then(|config| config.audit.key_file);
        let proofs = Proofs {
            keys: self
                .key_file
                .iter()
                .chain(&configured)
                .map(|path| chain_key(path))
                .collect::<Result<_>>()?,
            public: self
                .public_key
                .iter()
                .map(|path| public_key(path))
                .collect::<Result<_>>()?,
            from: self.from,
        };
        files.retain(|path| !is_beside(path));
        if files.is_empty() {
            bail!("none of the files given is a part of a trail");
        }
        let progress = Progress::of(&files);
        let result = verify(&files, &proofs, &|bytes| progress.add(bytes));
        progress.end();
        match result {
            Ok(verified) if self.json => print(&good(&verified)?)?,
            Ok(verified) => print(&as_text(&verified, &proofs))?,
            Err(VerifyError::Broken(finding)) => {
                if self.json {
                    print(&bad(&finding)?)?;
                } else {
                    print_error(&finding.to_string());
                }
                return Ok(ExitCode::FAILURE);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn from(text: &str) -> Result<AcceptedStart, String> {
    if text == "oldest" {
        return Ok(AcceptedStart::Oldest);
    }
    let number = text.parse().map(AcceptedStart::Record);
    number.map_err(|_cause| "write the number of a record, or `oldest`".to_owned())
}

pub(super) fn chain_key(path: &Path) -> Result<ChainKey> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ChainKey::from_bytes(&bytes).with_context(|| format!("cannot use {}", path.display()))
}

fn public_key(path: &Path) -> Result<PublicKey> {
    let der = tls::public_key(path)?;
    PublicKey::new(&der).with_context(|| format!("cannot use {}", path.display()))
}

fn good(verified: &Verified) -> Result<String> {
    let mut value = serde_json::to_value(verified)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("good".to_owned(), json!(true));
    }
    Ok(format!("{value:#}\n"))
}

fn bad(finding: &Finding) -> Result<String> {
    let value = json!({
        "good": false,
        "file": finding.file,
        "line": finding.line,
        "problem": finding.problem.to_string(),
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&value)?))
}

/// The summary for people: what is proven, and what is not.
fn as_text(verified: &Verified, proofs: &Proofs) -> String {
    let (Some(first), Some(last)) = (&verified.first, &verified.last) else {
        return "no records\n".to_owned();
    };
    let mut text = format!(
        "{} records in {} file{}, whole and in order\n",
        verified.records,
        verified.files.len(),
        if verified.files.len() == 1 { "" } else { "s" },
    );
    let mut row = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ok = writeln!(text, "  {name:<10}{value}").is_ok();
    };
    let time = |time: &Option<String>| time.clone().unwrap_or_else(|| "unknown time".to_owned());
    let older = match verified.begins {
        Begins::Whole => String::new(),
        Begins::Pruned { by } => format!("; record {by} says that older ones were pruned"),
        Begins::Accepted => format!(
            "\n{:12}begins at record {}, as --from accepts; the trail itself begins at record {}",
            "", first.seq, verified.expected_first
        ),
    };
    row(
        "from",
        &format!("record {}, {}{older}", first.seq, time(&first.time)),
    );
    row("to", &format!("record {}, {}", last.seq, time(&last.time)));
    row("hash", &last.hash);
    row(
        "end",
        &match verified.end_proven {
            Some(seq) if seq >= last.seq => {
                "proven: the .chain file beside the trail names it".to_owned()
            }
            Some(seq) => {
                format!("proven up to record {seq}, which the .chain file beside the trail names")
            }
            None => "not proven: there is no .chain file beside the trail".to_owned(),
        },
    );
    row("key", &keys(&verified.keys));
    row(
        "signed",
        &match verified.signed {
            Some(seq) => format!(
                "up to checkpoint {seq}; {} records after it are not yet",
                last.seq.saturating_sub(seq)
            ),
            None if proofs.public.is_empty() => {
                "not looked at: no --public-key was given".to_owned()
            }
            None => "no".to_owned(),
        },
    );
    text
}

fn keys(keys: &[Option<String>]) -> String {
    let named: Vec<_> = keys.iter().flatten().map(String::as_str).collect();
    if named.is_empty() {
        "none: whoever can write the file could have written it anew".to_owned()
    } else {
        named.join(", then ")
    }
}

/// A bar on a terminal, and nothing elsewhere.
struct Progress {
    total: u64,
    done: Cell<u64>,
    shown: Cell<Option<Instant>>,
}

impl Progress {
    fn of(files: &[PathBuf]) -> Self {
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
        let is_seen = std::io::stderr().is_terminal();
        Self {
            total: if is_seen {
                files.iter().map(length).sum()
            } else {
                0
            },
            done: Cell::new(0),
            shown: Cell::new(None),
        }
    }

    fn add(&self, bytes: u64) {
        self.done.set(self.done.get().saturating_add(bytes));
        let is_due = self
            .shown
            .get()
            .is_none_or(|shown| shown.elapsed() >= PROGRESS_INTERVAL);
        if self.total == 0 || !is_due {
            return;
        }
        self.shown.set(Some(Instant::now()));
        let share = self.done.get().saturating_mul(40).checked_div(self.total);
        let full = usize::try_from(share.unwrap_or(0)).unwrap_or(0).min(40);
        let bar = format!(
            "{}{}",
            "#".repeat(full),
            ".".repeat(40_usize.saturating_sub(full))
        );
        Self::draw(&format!(
            "\r[{bar}] {} of {} MiB",
            self.done.get() >> 20,
            self.total >> 20
        ));
    }

    /// Takes the bar away.
    fn end(&self) {
        if self.shown.get().is_some() {
            Self::draw("\r\x1b[K");
        }
    }

    fn draw(text: &str) {
        // A bar that cannot be shown is no failure.
        let _shown = write!(std::io::stderr(), "{text}").is_ok();
    }
}
