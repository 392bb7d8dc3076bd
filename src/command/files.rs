//! Files that commands make and change: never half written, never over somebody's work by accident.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::process;

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Of a new file that is edited: what stands in it is nobody else's business.
const EDITED_MODE: u32 = 0o600;

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

fn create(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
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
fn replace(path: &Path, content: &[u8], readers: Readers) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", process::id()));
    let beside = path.with_file_name(name);
    create(&beside, content, readers)
        .and_then(|()| fs::rename(&beside, path))
        .inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Replaces a file's text, or makes the file, in one step; two edits at a time follow each other.
pub(crate) fn edit(
    path: &Path,
    change: impl FnOnce(Option<&[u8]>) -> Result<Vec<u8>>,
) -> Result<()> {
    // Behind a symbolic link the file itself is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_absent| path.to_owned());
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    };
    let lock = File::open(folder)
        .with_context(|| format!("cannot open the folder {}", folder.display()))?;
    // Some network file systems know no such locks; then only the last of two edits counts.
    flock(&lock, FlockOperation::LockExclusive).unwrap_or_default();
    let old = read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let new = change(old.as_ref().map(|(text, _)| text.as_slice()))?;
    exchange(
        path,
        folder,
        old.map(|(_, metadata)| metadata).as_ref(),
        &new,
    )
    .with_context(|| format!("cannot replace {}; it is unchanged", path.display()))?;
    lock.sync_all()
        .with_context(|| format!("cannot sync {}", folder.display()))
}

/// The text and metadata of a file; `None` if there is no such file.
fn read(path: &Path) -> io::Result<Option<(Vec<u8>, Metadata)>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(Some((text, metadata)))
}

fn exchange(path: &Path, folder: &Path, old: Option<&Metadata>, text: &[u8]) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!(".{name}.{}.new", process::id()));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(EDITED_MODE)
        .open(&temporary)?;
    let written = fill(&mut file, old, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    written
}

fn fill(file: &mut File, old: Option<&Metadata>, text: &[u8]) -> io::Result<()> {
    if let Some(old) = old {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&*file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.write_all(text)?;
    file.sync_all()
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
