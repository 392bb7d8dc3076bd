//! The configuration: fills the settings that the rooms own. What is written is `file`'s, what it means
//! `meaning`'s; how it is read, and what is told when something is wrong, is [`document`]'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::authn::BackEndKind;
use crate::document::{self, Source};
pub use crate::document::{Diagnostic, Errors, Warning};
use crate::identity::Subject;
use crate::policy::{Limits, Policy, Roles};
use crate::telemetry::LogFormat;
use crate::{admin, audit, authn, store, telemetry, tls, token, transport, upstream, whole_file};

mod ending;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod meaning;
mod policy_test;
mod rules;
mod value;
mod words;

pub use file::schema;
pub use policy_test::{Expected, PolicyTest};
pub use value::time_to_live;

/// A checked configuration. Paths are absolute; what is named by path still has to be opened, but
/// for files with passwords, which have been read.
#[derive(Debug)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// `[server]`
    pub server: transport::Settings,
    /// `[tls]`
    pub tls: tls::Settings,
    /// `[upstream]`
    pub upstream: upstream::Settings,
    /// `[auth]`
    pub auth: authn::Settings,
    /// `[token]`
    pub token: token::Settings,
    /// `[[access]]`, `[[deny]]`, `[groups]`, `[roles]`
    pub policy: Arc<Policy>,
    /// The built-in roles and those of `[roles]`.
    pub roles: Roles,
    /// `[[policy_test]]`
    pub policy_tests: Vec<PolicyTest>,
    /// `[limits]`
    pub limits: Limits,
    /// `[limits.store]`: where replicas count together.
    pub store: Option<store::Settings>,
    /// `[audit]`
    pub audit: audit::Settings,
    /// `[admin]`
    pub admin: admin::Settings,
    /// `[log] format`
    pub log: LogFormat,
    /// `[telemetry]`
    pub telemetry: telemetry::Settings,
    /// The files with passwords, each with the key that names it. They have been read.
    pub password_files: Vec<(&'static str, PathBuf)>,
    /// The text, to quote from.
    source: Source,
}

impl Config {
    /// Reads a file, with the process's environment. Errors come together with the warnings.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), Errors> {
        usable(path, Self::inspect(path))
    }

    /// The same for whoever looks for all that is wrong: what there is of a configuration, as far as
    /// it can be understood, beside the errors. With errors it must not be put in force.
    pub fn inspect(path: &Path) -> (Option<Self>, Vec<Diagnostic>) {
        match whole_file::read_text(path, whole_file::MAX_CONFIG) {
            Ok(text) => Self::understand(&text, path, &|name| std::env::var(name).ok()),
            Err(error) => {
                let message = format!("the configuration cannot be read: {error}");
                let found = Diagnostic::about_file(path, message)
                    .with_help("name it with --config FILE or $PORTCULLIS_CONFIG");
                (None, vec![found])
            }
        }
    }

    /// Reads a text as if it stood at `path`. `env` is asked for `${env:NAME}`. The only files
    /// opened are those with passwords.
    pub fn parse(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Vec<Warning>), Errors> {
        usable(path, Self::understand(text, path, env))
    }

    fn understand(
        text: &str,
        path: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> (Option<Self>, Vec<Diagnostic>) {
        let document::Reading {
            file,
            source,
            mut found,
        } = document::read(text, path, &schema());
        let config = file.map(|file| meaning::understand(&file, source, path, env, &mut found));
        (config, found)
    }

    /// A subject as its back end compares it, where a directory is the only one: without case.
    pub fn as_compared(&self, subject: Subject) -> Subject {
        let names_users = !self.tls.client_certificates.username.is_empty();
        if self.auth.order == [BackEndKind::Ldap] && !names_users {
            subject.in_directory()
        } else {
            subject
        }
    }

    /// An error at a key, for whoever finds that what the key names is no good: the key's dotted
    /// path, as in `tls.private_key`.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        self.source.error_at_key(key, message)
    }
}

/// A configuration without errors, and its warnings.
fn usable(
    path: &Path,
    (config, mut found): (Option<Config>, Vec<Diagnostic>),
) -> Result<(Config, Vec<Warning>), Errors> {
    match (Errors::among(&mut found), config) {
        (None, Some(config)) => Ok((config, found)),
        (Some(errors), _) => Err(errors),
        (None, None) => Err(Diagnostic::about_file(path, "this cannot be read").into()),
    }
}

#[cfg(test)]
mod tests;
