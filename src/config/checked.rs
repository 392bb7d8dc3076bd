//! A checked configuration: the settings of every room, and what its file says of where they stand.

use std::path::PathBuf;
use std::sync::Arc;

use super::policy_test::PolicyTest;
use crate::authn::BackEndKind;
use crate::document::{Diagnostic, Source};
use crate::identity::Subject;
use crate::policy::{Limits, Policy, Roles};
use crate::telemetry::LogFormat;
use crate::{admin, audit, authn, store, telemetry, tls, token, transport, upstream};

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
    pub(super) source: Source,
}

impl Config {
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
