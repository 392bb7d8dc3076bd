//! The key that signs tokens where the configuration names none: one that is kept in a file, so that a
//! restart logs nobody out.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use portcullis::config::Config;
use portcullis::reload;
use portcullis::tls::{self, issue};
use portcullis::token::Keys;
use rustix::process::geteuid;
use zeroize::Zeroizing;

use super::files::{self, Existing, Readers};

/// Its file, in the folder for what lasts.
const FILE: &str = "token.key";

/// Reads the key, or makes it. Where that fails there is one for this process alone, and a warning.
pub(super) fn lasting(config: &Config) -> Result<Zeroizing<Vec<u8>>> {
    if config.token.signing_key.is_none() {
        let path = folder(config).join(FILE);
        match read_or_make(&path) {
            Ok(key) => return Ok(key),
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "no key for tokens can be kept: a restart ends all of them; set token.signing_key"
            ),
        }
    }
    Ok(reload::spare_key()?)
}

/// What systemd gives the service to keep things in, else where the audit trail is.
fn folder(config: &Config) -> PathBuf {
    let given = std::env::var_os("STATE_DIRECTORY").filter(|given| !given.is_empty());
    let first = given.and_then(|given| std::env::split_paths(&given).next());
    let beside = config.audit.file.parent().unwrap_or(Path::new("/"));
    first.unwrap_or_else(|| beside.to_owned())
}

fn read_or_make(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    if path.symlink_metadata().is_err() {
        let key = issue::token_key()?;
        match files::write(path, key.as_bytes(), Readers::Owner, Existing::Keep) {
            Ok(()) => tracing::info!(
                file = %path.display(),
                "made the key for tokens, so that a restart logs nobody out"
            ),
            // Another process that has made it meanwhile is as good.
            Err(_taken) if path.exists() => {}
            Err(error) => return Err(error),
        }
    }
    usable(path).with_context(|| format!("cannot use {}", path.display()))
}

fn usable(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    // Of a link both: what signs tokens is nobody else's to choose.
    let file = path.metadata()?;
    for meta in [&path.symlink_metadata()?, &file] {
        let is_ours = meta.uid() == 0 || meta.uid() == geteuid().as_raw();
        ensure!(
            is_ours,
            "it belongs to another user; remove it for a new one"
        );
    }
    let mode = file.mode();
    ensure!(
        mode & 0o022 == 0,
        "others can change it; remove it for a new one"
    );
    if mode & 0o044 != 0 {
        tracing::warn!(
            file = %path.display(),
            "others can read the key for tokens, and make tokens with it: chmod 600 it, or remove it \
             for a new one"
        );
    }
    let key = tls::private_key(path)?;
    let key = Zeroizing::new(key.secret_der().to_vec());
    Keys::new(&key)?;
    Ok(key)
}
