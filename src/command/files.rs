//! Files that commands make: never half written, never over somebody's work by accident.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Who may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Everybody, as far as the umask allows.
    Everybody,
    /// Its owner alone: keys and passwords.
    Owner,
}

/// What happens to a file that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the command fails.
    Keep,
    /// The new one takes its place in one step.
    Replace,
}

/// Fails if one of `paths` is there and is to stay, before any of them is written.
pub(crate) fn expect_free(paths: &[&Path], existing: Existing) -> Result<()> {
    if existing == Existing::Replace {
        return Ok(());
    }
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => bail!("{} is already there; --force replaces it", path.display()),
        None => Ok(()),
    }
}

/// Writes a file and has it on disk when it returns.
pub(crate) fn write(
    path: &Path,
    content: &[u8],
    readers: Readers,
    existing: Existing,
) -> Result<()> {
    let written = match existing {
        Existing::Keep => create(path, content, readers),
        Existing::Replace => replace(path, content, readers),
    };
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is already there; --force replaces it", path.display())
        }
        other => other.with_context(|| format!("cannot write {}", path.display())),
    }
}

fn create(path: &Path, content: &[u8], readers: Readers) -> std::io::Result<()> {
    let mode = match readers {
        Readers::Everybody => 0o644,
        Readers::Owner => 0o600,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

// A file beside it and a rename: a proxy that reloads meanwhile reads the old or the new one.
fn replace(path: &Path, content: &[u8], readers: Readers) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let beside = path.with_file_name(name);
    create(&beside, content, readers)
        .and_then(|()| fs::rename(&beside, path))
        .inspect_err(|_| drop(fs::remove_file(&beside)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keeps_what_is_there_unless_told() {
        let folder = crate::command::scratch::Folder::new();
        let path = folder.path().join("a.key");
        write(&path, b"one", Readers::Owner, Existing::Keep).unwrap();
        let error = write(&path, b"two", Readers::Owner, Existing::Keep).unwrap_err();
        assert!(
            error.to_string().ends_with("--force replaces it"),
            "{error}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert!(expect_free(&[&path], Existing::Keep).is_err());

        write(&path, b"two", Readers::Owner, Existing::Replace).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "no leavings"
        );
    }

    #[test]
    fn only_the_owner_reads_secrets() {
        let folder = crate::command::scratch::Folder::new();
        let path = folder.path().join("a.key");
        write(&path, b"old", Readers::Everybody, Existing::Keep).unwrap();
        write(&path, b"new", Readers::Owner, Existing::Replace).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
