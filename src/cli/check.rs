//! `portcullis check`: everything that would keep `serve` from starting, or a reload from being
//! taken over, at once and with its place. Leaves nothing behind.

mod against;
mod named_files;
mod readers;
pub(super) mod server;

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use portcullis::authn::AuthnState;
use portcullis::authn::htpasswd::LineWarning;
use portcullis::config::{Config, Diagnostic};
use portcullis::reload::{self, BuildError, RetainedParts};
use portcullis::state::Rules;
use portcullis::store::StoreError;
use portcullis::tls::{self, ClientCertificateMode, TlsError};
use portcullis::upstream::{BlobSource, Pool, RedirectHost};
use rustix::fs::{Access, access};
use rustix::process::geteuid;
use serde_json::json;

use super::check_ldap::Answers;
use super::config_file::{ConfigFile, WRONG_CONFIGURATION};
use super::service::Service;
use super::terminal::{error_colours, print, print_error};
use against::Changes;
use named_files::key_of;
use server::error_of_server;

/// Time before its end from which a certificate or revocation list earns a warning.
const WARN_BEFORE: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Check the configuration and everything it names
///
/// Exit code 0: all is good. 1: the registry or the directory does not answer as it should, or
/// decisions of the past would change (--against). 78: the configuration is wrong.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    #[command(flatten)]
    config: ConfigFile,

    /// Print the findings as JSON on stdout
    #[arg(long)]
    json: bool,

    /// Take warnings for errors
    #[arg(long)]
    strict: bool,

    /// Ask the registry, the directory and the store as well whether they answer
    #[arg(long)]
    online: bool,

    /// Look for this user in the directory, and show what is found
    #[arg(long, value_name = "NAME", requires = "online")]
    user: Option<String>,

    /// Say what this user cannot read. By default, when root checks, it is the user of the systemd
    /// unit that serves with this configuration, or else whom the configuration is for
    #[arg(long = "as", value_name = "USER[:GROUP]", value_hint = clap::ValueHint::Username)]
    user_of_the_server: Option<String>,

    /// Decide everything in this audit file again, and show what would come out otherwise; may be
    /// repeated. Exit code 1 if anything would. Passwords are not asked about
    #[arg(long, value_name = "AUDIT", value_hint = clap::ValueHint::FilePath)]
    against: Vec<PathBuf>,
}

impl Check {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let path = self.config.config.clone();
        let Examined {
            summary,
            rules,
            config,
            mut found,
        } = examine(&path)?;
        if let Some(config) = &config {
            found.extend(self.unreadable(config)?);
            found = in_order(found);
        }
        let mut found = self.weighed(found);
        let mut directory_says = None;
        let mut blobs = None;
        let fits = found.iter().all(Diagnostic::is_warning);
        let changes = match &config {
            Some(config) if fits && !self.against.is_empty() => {
                Some(Changes::of(config, &self.against, Timestamp::now())?)
            }
            Some(_) | None => None,
        };
        if let (true, Some(rules), Some(config)) = (self.online, rules, config) {
            let registry = ask_registry(&config, &rules)?;
            if registry.is_none() {
                let (note, more) = follow_blob(&config, &rules)?;
                blobs = Some(note);
                found.extend(more);
            }
            found.extend(registry);
            found.extend(ask_store(&config, &rules)?);
            if let Some(directory) = rules.authenticator.directory() {
                let answers = Answers::of(directory, self.user.as_deref())?;
                found.extend(answers.findings(&config));
                directory_says = Some(answers);
            } else if self.user.is_some() {
                found.push(config.error_at("auth", "there is no directory to look for users in"));
            }
        }
        let found = self.weighed(found);
        let good = found.iter().all(Diagnostic::is_warning);
        let same = changes.as_ref().is_none_or(Changes::is_empty);
        if self.json {
            let findings: Vec<_> = found.iter().map(Diagnostic::to_json).collect();
            let mut report = json!({ "ok": good && same, "file": path, "findings": findings });
            if let (Some(changes), Some(report)) = (&changes, report.as_object_mut()) {
                report.insert("against".to_owned(), changes.to_json());
            }
            if let (Some(note), Some(report)) = (blobs, report.as_object_mut()) {
                report.insert("blobs".to_owned(), note.into());
            }
            if let (Some(answers), Some(report)) = (directory_says, report.as_object_mut()) {
                report.insert("directory".to_owned(), answers.to_json());
            }
            print(&format!("{report:#}\n"))?;
        } else {
            if let Some(answers) = directory_says {
                print(&answers.text())?;
            }
            if let Some(note) = blobs {
                print(&format!("{note}\n"))?;
            }
            let shown: Vec<_> = found
                .iter()
                .map(|one| one.render(error_colours()))
                .collect();
            if !shown.is_empty() {
                print_error(&format!("{}\n", shown.join("\n\n")));
            }
            match summary.filter(|_| good) {
                Some(summary) => print(&format!("{} is good: {summary}\n", path.display()))?,
                None => print_error(&format!("\n{}", count(&found))),
            }
            if let Some(changes) = &changes {
                print(&changes.text())?;
            }
        }
        Ok(match (good && same, fits) {
            (true, _) => ExitCode::SUCCESS,
            (false, true) => ExitCode::FAILURE,
            (false, false) => WRONG_CONFIGURATION.into(),
        })
    }

    /// Findings as bad as they are taken for.
    fn weighed(&self, found: Vec<Diagnostic>) -> Vec<Diagnostic> {
        if self.strict {
            found.into_iter().map(Diagnostic::as_error).collect()
        } else {
            found
        }
    }

    /// Files that the server cannot read. Without root the checks above have tried that.
    fn unreadable(&self, config: &Config) -> Result<Vec<Diagnostic>> {
        let service = match &self.user_of_the_server {
            Some(named) => Some(Service::named(named)?),
            None if geteuid().is_root() => match Service::found(&config.file) {
                Ok(service) => service,
                Err(unknown) => {
                    let found = Diagnostic::about_file(&config.file, unknown);
                    return Ok(vec![found.as_warning()]);
                }
            },
            None => None,
        };
        Ok(service.map_or_else(Vec::new, |service| readers::findings(config, &service)))
    }
}

/// What there is, as far as it can be said, and everything that is wrong with it.
#[derive(Default)]
struct Examined {
    summary: Option<String>,
    config: Option<Config>,
    rules: Option<Rules>,
    found: Vec<Diagnostic>,
}

fn examine(path: &Path) -> Result<Examined> {
    let (config, mut found) = Config::inspect(path);
    let Some(config) = config else {
        return Ok(Examined {
            found: in_order(found),
            ..Examined::default()
        });
    };
    let now = Timestamp::now();
    found.extend(config.run_policy_tests(now));
    let (rules, built) = build(&config)?;
    found.extend(built);
    found.extend(ends(&config, now));
    found.extend(config.certificate_faults(now));
    let found = in_order(found);
    let (accesses, denies) = config.policy.sizes();
    let counts = [
        (accesses, "access rule"),
        (denies, "deny rule"),
        (config.policy_tests.len(), "policy test"),
    ];
    let summary = counts.map(|(count, what)| number(count, what)).join(", ");
    Ok(Examined {
        summary: Some(summary),
        config: Some(config),
        rules,
        found,
    })
}

/// Each finding once: first those about the configuration, in the order of its lines, then those
/// about other files.
fn in_order(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut once: Vec<Diagnostic> = Vec::with_capacity(found.len());
    for one in found {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once.sort_by_key(|one| (!one.is_quoted(), one.position()));
    once
}

/// Reads from a file when what it holds ends.
type EndOf = fn(&Path) -> Result<Timestamp, TlsError>;

/// Warns of what ends soon: the server's certificate, and revocation lists, after whose end nobody
/// of their CA is let in.
fn ends(config: &Config, now: Timestamp) -> Vec<Diagnostic> {
    let tls = &config.tls;
    let certificate: (_, EndOf) = (&tls.certificate, tls::not_after);
    let lists = match tls.client_certificates.mode {
        ClientCertificateMode::Off => &[][..],
        ClientCertificateMode::Optional | ClientCertificateMode::Required => {
            &tls.client_certificates.crl
        }
    };
    let lists = lists
        .iter()
        .map(|list| (list, tls::revocation_ends as EndOf));
    let found = std::iter::once(certificate)
        .chain(lists)
        .filter_map(|(path, end_of)| {
            // A file that cannot be read is reported already.
            let end = end_of(path).ok()?;
            let left = end.duration_since(now);
            if left > WARN_BEFORE {
                return None;
            }
            let tense = if left.is_negative() {
                "expired"
            } else {
                "expires"
            };
            let message = format!(
                "{} {tense} on {}",
                path.display(),
                end.strftime("%F %R UTC")
            );
            Some(config.error_at(&key_of(config, path), message).as_warning())
        });
    found.collect()
}

/// Asks the registry for its version, as clients do first.
fn ask_registry(config: &Config, rules: &Rules) -> Result<Option<Diagnostic>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(match runtime.block_on(rules.upstream.probe()) {
        Ok(status) if status.is_success() => None,
        Ok(status) if status == 401 => {
            let found = config.error_at("upstream.url", "the registry asks for credentials");
            Some(found.with_help("give `upstream.username` and `upstream.password_file`"))
        }
        Ok(status) => {
            let message = format!("the registry answers GET /v2/ with {status}");
            Some(config.error_at("upstream.url", message))
        }
        Err(error) => Some(error_of_server(config, "upstream.url", error.to_string())),
    })
}

/// Looks where clients would read a blob from, and whether they may: what was seen, and what is wrong
/// with it.
fn follow_blob(config: &Config, rules: &Rules) -> Result<(String, Option<Diagnostic>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let about = |message| config.error_at("upstream.redirect_hosts", message);
    Ok(match runtime.block_on(rules.upstream.blob_source()) {
        Ok(BlobSource::NoBlob) => {
            let note = "the registry shows no image yet, so no blob was followed; look again \
                        after the first push";
            (note.to_owned(), None)
        }
        Ok(BlobSource::Registry) => {
            let note = "the registry serves blobs itself: one was read, without a redirect";
            (note.to_owned(), None)
        }
        Ok(BlobSource::Elsewhere(host, Ok(status))) => {
            let note = format!("the registry redirects blobs to {host}, which answers {status}");
            let message = format!("{host} does not give out blobs: it answers {status}");
            let found = (!status.is_success()).then(|| about(message).as_warning());
            (note, found)
        }
        Ok(BlobSource::Elsewhere(host, Err(error))) => {
            let note = format!("the registry redirects blobs to {host}");
            let found = about(format!(
                "{host}, where blobs are, does not answer here: {error}"
            ));
            let help = "clients have to reach it, and trust its certificate";
            (note, Some(found.with_help(help).as_warning()))
        }
        Ok(BlobSource::Barred(place)) => {
            let note = format!("the registry redirects blobs to {place}");
            let found = about(format!("no client may follow the registry to {place}"));
            let found = match RedirectHost::parse(&place) {
                Ok(_) => found.with_help(format!("add {place:?} to `redirect_hosts`")),
                Err(_) => found.with_help("switch the registry's own redirects off"),
            };
            (note, Some(found))
        }
        Err(error) => (format!("no blob was followed: {error}"), None),
    })
}

/// Asks the store for something harmless, as `serve` does before it relies on it.
fn ask_store(config: &Config, rules: &Rules) -> Result<Option<Diagnostic>> {
    let Some(store) = &rules.store else {
        return Ok(None);
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let Err(error) = runtime.block_on(store.probe()) else {
        return Ok(None);
    };
    let message = match error {
        StoreError::Forgets(_) => error.to_string(),
        StoreError::Closed
        | StoreError::Connect(_)
        | StoreError::Nonsense
        | StoreError::Password
        | StoreError::Refused(_)
        | StoreError::TimeOut(_) => format!(
            "{error}; until it answers, each replica goes by its own count, and nobody who may not \
             move tags can create one"
        ),
    };
    let found = error_of_server(config, "limits.store.url", message);
    Ok(Some(found))
}

/// Opens and builds all that `serve` would.
fn build(config: &Config) -> Result<(Option<Rules>, Vec<Diagnostic>)> {
    let memory = Arc::new(AuthnState::new(config.auth.cache_ttl));
    let pool = Arc::new(Pool::default());
    let parts = RetainedParts {
        memory: &memory,
        pool: &pool,
        store: None,
        store_counts: &Arc::default(),
        robots: None,
        spare_key: &reload::spare_key()?,
    };
    let (rules, mut found) = match reload::build(config, &parts, 1) {
        Ok((rules, weak)) => (Some(rules), weak.into_iter().map(weakness).collect()),
        Err(errors) => {
            let found: Vec<_> = errors
                .into_iter()
                .flat_map(|error| place(config, error))
                .collect();
            (None, found)
        }
    };
    found.extend(audit(config));
    if let Err(error) = reload::audit_plan(config) {
        found.extend(place(config, error));
    }
    Ok((rules, found))
}

fn weakness(weak: LineWarning) -> Diagnostic {
    let message = about_user(weak.user.as_deref(), &weak.cause);
    let found = Diagnostic::about_line(&weak.file, (weak.line, weak.column), message);
    found.with_help(weak.remedy).as_warning()
}

/// Tries to open the audit file for writing, without making one.
fn audit(config: &Config) -> Option<Diagnostic> {
    let file = &config.audit.file;
    let result = if file.is_file() {
        OpenOptions::new().append(true).open(file).map(drop)
    } else if file.exists() {
        // To open a FIFO is to wait for its reader.
        access(file, Access::WRITE_OK).map_err(Into::into)
    } else {
        let folder = file.parent().unwrap_or(Path::new("/"));
        access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(Into::into)
    };
    let error = result.err()?;
    let message = format!(
        "the audit file {} cannot be written: {error}",
        file.display()
    );
    Some(config.error_at("audit.file", message))
}

/// Says at which key, or in which other file, an error is to be mended.
fn place(config: &Config, error: BuildError) -> Vec<Diagnostic> {
    let message = error.to_string();
    let key = match error {
        BuildError::Audit(_) => "audit.file".to_owned(),
        BuildError::AuditKey { path, .. }
        | BuildError::Read { path, .. }
        | BuildError::SigningKey { path, .. } => key_of(config, &path),
        BuildError::RobotKeys(errors) => return errors.into_diagnostics(),
        BuildError::Seal => "token.signing_key".to_owned(),
        BuildError::Tls(error) => match error {
            TlsError::Read { path, .. }
            | TlsError::NoCertificate(path)
            | TlsError::NoKey(path)
            | TlsError::NoPublicKey(path)
            | TlsError::NoCrl(path)
            | TlsError::ClientCa(path)
            | TlsError::Crl(path)
            | TlsError::Unusable { path, .. } => {
                // A missing or wrong key is reported already.
                if path.as_os_str().is_empty() {
                    return Vec::new();
                }
                key_of(config, &path)
            }
            TlsError::Mismatch { .. } => "tls.private_key".to_owned(),
            TlsError::NoRoots => "upstream.url".to_owned(),
        },
        BuildError::User(line) => {
            let message = about_user(line.user.as_deref(), &line.cause);
            let place = (line.line, line.column);
            let found = Diagnostic::about_line(&line.file, place, message);
            return vec![found.with_help(line.remedy)];
        }
    };
    vec![config.error_at(&key, message)]
}

fn about_user(user: Option<&str>, cause: &impl std::fmt::Display) -> String {
    match user {
        Some(user) => format!("user `{user}`: {cause}"),
        None => cause.to_string(),
    }
}

fn count(found: &[Diagnostic]) -> String {
    let warnings = found.iter().filter(|one| one.is_warning()).count();
    let errors = found.len().saturating_sub(warnings);
    match warnings {
        0 => number(errors, "error"),
        _ => format!(
            "{}, {}",
            number(errors, "error"),
            number(warnings, "warning")
        ),
    }
}

fn number(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}

#[cfg(test)]
mod tests {
    use super::{Diagnostic, examine};
    use insta::assert_snapshot;
    use tempfile::{TempDir, tempdir};

    const CONFIG: &str = r#"
[tls]
certificate = "server.pem"
private_key = "server.key"
[upstream]
url = "https://127.0.0.1:5000"
ca = "ca.pem"
[auth.htpasswd]
file = "htpasswd"
[token]
signing_key = "token.key"
[audit]
file = "none/audit.jsonl"
[[access]]
repositories = ["**"]
who = ["user:alice"]
role = "guest"
[[policy_test]]
who = "user:alice"
action = "push"
repository = "a"
expect = "allow"
"#;

    fn told(folder: &TempDir) -> String {
        let path = folder.path().join("portcullis.toml");
        std::fs::write(&path, CONFIG).unwrap();
        let mut found = examine(&path).unwrap().found;
        found.sort_by_key(Diagnostic::position);
        let shown: Vec<_> = found.iter().map(|one| one.render(false)).collect();
        shown
            .join("\n\n")
            .replace(&format!("{}/", folder.path().display()), "")
    }

    #[test]
    fn every_file_that_cannot_be_used_is_shown_at_its_key() {
        assert_snapshot!("files_missing", told(&tempdir().unwrap()));
    }

    #[test]
    fn a_line_of_the_htpasswd_file_is_named_and_not_quoted() {
        let folder = tempdir().unwrap();
        std::fs::write(folder.path().join("htpasswd"), "alice:$1$hunter2\nbob\n").unwrap();
        let told = told(&folder);
        assert!(told.contains("htpasswd:1:"), "{told}");
        assert!(told.contains("htpasswd:2:"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }

    #[test]
    fn checking_makes_no_audit_file() {
        let folder = tempdir().unwrap();
        std::fs::create_dir(folder.path().join("none")).unwrap();
        assert!(!told(&folder).contains("audit"));
        assert!(!folder.path().join("none/audit.jsonl").exists());
    }
}
