//! The key that signs tokens where the configuration names none: one that is kept in a file, so that a
//! restart logs nobody out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use portcullis::config::Config;
use portcullis::tls::{self, issue};
use portcullis::token::Keys;
use portcullis::{reload, tls::TlsError};
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
    if !path.exists() {
        let key = issue::token_key()?;
        // Another process that has made it meanwhile is as good.
        let made = files::write(path, key.as_bytes(), Readers::Owner, Existing::Keep);
        if !path.exists() {
            made?;
        }
    }
    let key = read(path).with_context(|| format!("cannot use {}", path.display()))?;
    Keys::new(&key).with_context(|| format!("cannot use {}", path.display()))?;
    Ok(key)
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let key = tls::private_key(path)?;
    Ok(Zeroizing::new(key.secret_der().to_vec()))
}
