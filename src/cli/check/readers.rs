//! Files that the server's user cannot read, although the user of this command can.

use std::path::Path;

use portcullis::config::{Config, Diagnostic};

use super::named_files::{key_of, named_files};
use crate::cli::service::Service;

/// Files that the server could not read or write, for lack of rights.
pub(super) fn findings(config: &Config, service: &Service) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let mut at = |key: &str, barred: Option<(String, String)>| {
        let Some((message, help)) = barred else {
            return;
        };
        let one = if key.is_empty() {
            Diagnostic::about_file(&config.file, message)
        } else {
            config.error_at(key, message)
        };
        let one = one.with_help(help);
        found.push(if service.is_guessed() {
            one.as_warning()
        } else {
            one
        });
    };
    at("", service.cannot_read(&config.file));
    for path in named_files(config) {
        at(&key_of(config, path), service.cannot_read(path));
    }
    for (key, path) in &config.password_files {
        at(key, service.cannot_read(path));
    }
    at("auth.keys.file", service.cannot_read(&config.auth.keys));
    let file = &config.audit.file;
    let mut beside = file.as_os_str().to_owned();
    beside.push(".chain");
    let beside = Some(Path::new(&beside)).filter(|beside| beside.exists());
    for path in std::iter::once(file.as_path()).chain(beside) {
        at("audit.file", service.cannot_append(path));
    }
    found
}
