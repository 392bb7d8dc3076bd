//! `portcullis certs`: a trial CA, its certificates, and the time that certificates have left.
//!
//! For trials, tests and small sites. It keeps the CA's key in a file, and no list of what it issued
//! but of what it revoked; a company with a CA of its own uses that.

mod show;

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueHint};
use jiff::{SignedDuration, Timestamp};
use portcullis::tls::issue::{Authority, Client, Pair, Validity, token_key};

use super::files::{self, Existing, Readers};

const CA_YEARS: u16 = 10;
/// With the day before the first, 825: clients of Apple refuse more, from whatever CA.
const LEAF_DAYS: u32 = 824;
/// Of a revocation list.
const LIST_DAYS: u32 = 365;
/// The file of the revocation list.
const LIST: &str = "clients.crl";

/// Make a trial CA and certificates, show when certificates end.
#[derive(Debug, clap::Args)]
pub(crate) struct Certs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Makes a CA: ca.pem, which clients are given, and ca.key, which is given to no one.
    Ca {
        /// Where its files go; made if missing.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Name of the CA.
        #[arg(long, default_value = "Portcullis trial CA")]
        name: String,
        /// Replaces the CA that is there; what it issued is worthless afterwards.
        #[arg(long)]
        force: bool,
    },
    /// Makes the certificate of a server: server.pem and server.key.
    Server {
        /// Where ca.pem and ca.key are and the new files go.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// A host name or address that clients type; may be repeated.
        #[arg(long = "name", required = true, value_name = "HOST")]
        names: Vec<String>,
        /// Lifetime in days.
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// Replaces server.pem and server.key if they are there.
        #[arg(long)]
        force: bool,
    },
    /// Makes the certificate of a client: NAME.pem and NAME.key.
    Client {
        /// Where ca.pem and ca.key are and the new files go.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Whom it names: the subject's CN, and the name of the files.
        #[arg(long)]
        name: String,
        /// The subject's OU, which can be read as a group; may be repeated.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// A URI that it names as well, such as `spiffe://example.com/ci`.
        #[arg(long = "uri", value_name = "URI")]
        uris: Vec<String>,
        /// A mail address that it names as well.
        #[arg(long = "email", value_name = "ADDRESS")]
        emails: Vec<String>,
        /// Lifetime in days.
        #[arg(long, default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
        /// Replaces NAME.pem and NAME.key if they are there.
        #[arg(long)]
        force: bool,
    },
    /// Makes the list of revoked certificates, at first an empty one, or renews it: clients.crl.
    ///
    /// It is named in `tls.client_certificates.crl`. After its end no client certificate is accepted:
    /// run this again before, and reload the server.
    Crl {
        /// Where ca.pem and ca.key are and clients.crl goes.
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Lifetime in days.
        #[arg(long, default_value_t = LIST_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
    },
    /// Puts a certificate on the list of revoked ones, clients.crl; a server refuses it from its
    /// next reload on.
    #[command(allow_missing_positional = true)]
    Revoke {
        /// Where ca.pem and ca.key are, and clients.crl.
        #[arg(default_value = "certs", value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// The NAME of NAME.pem there, or the path of a certificate.
        #[arg(required = true)]
        name: PathBuf,
        /// Lifetime of the list in days.
        #[arg(long, default_value_t = LIST_DAYS, value_parser = clap::value_parser!(u32).range(1..))]
        days: u32,
    },
    /// Makes a key for `token.signing_key`.
    TokenKey {
        /// Where it goes.
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Replaces the key that is there; all tokens that it signed are worthless afterwards.
        #[arg(long)]
        force: bool,
    },
    /// Shows names and end of certificates; exit code 1 if one has ended.
    Show(show::Args),
}

impl Certs {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        self.perform(Timestamp::now(), &mut std::io::stdout().lock())
    }

    fn perform(self, now: Timestamp, out: &mut dyn Write) -> Result<ExitCode> {
        match self.action {
            Action::Ca { dir, name, force } => ca(&dir, &name, existing(force), now, out)?,
            Action::Server {
                dir,
                names,
                days,
                force,
            } => {
                let authority = open(&dir)?;
                let pair = authority.server(&names, Validity::days(now, days)?)?;
                keep(&dir, "server", &pair, existing(force), out)?;
            }
            Action::Client {
                dir,
                name,
                groups,
                uris,
                emails,
                days,
                force,
            } => {
                let stem = file_stem(&name)?;
                let client = Client {
                    name: &name,
                    groups: &groups,
                    uris: &uris,
                    emails: &emails,
                };
                let pair = open(&dir)?.client(&client, Validity::days(now, days)?)?;
                keep(&dir, stem, &pair, existing(force), out)?;
            }
            Action::Crl { dir, days } => revoke(&dir, None, now, days, out)?,
            Action::Revoke { dir, name, days } => revoke(&dir, Some(&name), now, days, out)?,
            Action::TokenKey { file, force } => {
                let key = token_key()?;
                files::write(&file, key.as_bytes(), Readers::Server, existing(force))?;
                writeln!(out, "wrote {}", file.display())?;
            }
            Action::Show(args) => return args.run(now, out),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn existing(force: bool) -> Existing {
    if force {
        Existing::Replace
    } else {
        Existing::Keep
    }
}

fn ca(
    dir: &Path,
    name: &str,
    existing: Existing,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<()> {
    files::make_folder(dir)?;
    let authority = Authority::create(name, Validity::years(now, CA_YEARS)?)?;
    keep(dir, "ca", authority.pair(), existing, out)?;
    writeln!(
        out,
        "give {} to clients; keep ca.key to yourself",
        dir.join("ca.pem").display()
    )?;
    Ok(())
}

/// Writes the revocation list anew, with one more certificate if one is named.
fn revoke(
    dir: &Path,
    name: Option<&Path>,
    now: Timestamp,
    days: u32,
    out: &mut dyn Write,
) -> Result<()> {
    let authority = open(dir)?;
    let until = now.checked_add(SignedDuration::from_secs(
        i64::from(days).saturating_mul(24 * 60 * 60),
    ))?;
    let certificate = name.map(|name| certificate_of(dir, name)).transpose()?;
    let list = dir.join(LIST);
    files::edit(&list, None, |old| {
        let old = old.map(str::from_utf8).transpose();
        let old = old.with_context(|| format!("{} is not in PEM", list.display()))?;
        let revoked = authority.revoke(old, certificate.as_deref(), now, until)?;
        if revoked.is_repeat {
            writeln!(out, "it was revoked before")?;
        }
        let ends = until.strftime("%F");
        writeln!(
            out,
            "wrote {}: {} revoked, good until {ends}",
            list.display(),
            revoked.count
        )?;
        Ok(revoked.pem.into_bytes())
    })?;
    writeln!(
        out,
        "a server that has it in tls.client_certificates.crl reads it at a reload (SIGHUP)"
    )?;
    Ok(())
}

/// A certificate by the name of its files, or by its path.
fn certificate_of(dir: &Path, name: &Path) -> Result<String> {
    let mut file = name.as_os_str().to_owned();
    file.push(".pem");
    let named = dir.join(file);
    let path = if named.exists() { &named } else { name };
    fs::read_to_string(path).with_context(|| {
        format!(
            "neither {} nor {} can be read",
            named.display(),
            name.display()
        )
    })
}

fn open(dir: &Path) -> Result<Authority> {
    let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    ensure!(
        certificate.exists() && key.exists(),
        "{0} holds no ca.pem and ca.key; make them first: portcullis certs ca {0}",
        dir.display()
    );
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    Authority::open(read(&certificate)?, read(&key)?.into())
        .with_context(|| format!("{} and {}", certificate.display(), key.display()))
}

/// Writes `STEM.pem` and `STEM.key`, and says so.
pub(crate) fn keep(
    dir: &Path,
    stem: &str,
    pair: &Pair,
    existing: Existing,
    out: &mut dyn Write,
) -> Result<()> {
    // Not `with_extension`: a user may be called first.last.
    let certificate = dir.join(format!("{stem}.pem"));
    let key = dir.join(format!("{stem}.key"));
    files::expect_free(&[&certificate, &key], existing)?;
    // No server needs the key of an authority or of a client.
    let readers = match stem {
        "server" => Readers::Server,
        _ => Readers::Owner,
    };
    files::write(&key, pair.key.as_bytes(), readers, existing)?;
    let pem = pair.certificate.as_bytes();
    files::write(&certificate, pem, Readers::Everybody, existing)?;
    writeln!(out, "wrote {}", certificate.display())?;
    let mode = fs::metadata(&key).map_or(0, |key| key.mode());
    let whose = match mode & 0o077 {
        0 => "its owner alone",
        _ => "the server and its owner alone",
    };
    writeln!(out, "wrote {} ({whose} can read it)", key.display())?;
    Ok(())
}

fn file_stem(name: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@' | '+');
    ensure!(
        !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
        "'{}' cannot name a file: use letters, digits and . _ - @ +, not beginning with a dot; \
         other names fit into --uri or --email",
        name.escape_debug()
    );
    ensure!(
        !matches!(name, "ca" | "server"),
        "'{name}' would overwrite the {name}'s own files; choose another --name"
    );
    Ok(name)
}

#[cfg(test)]
mod tests;
