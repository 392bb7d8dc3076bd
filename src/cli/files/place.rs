//! Where a file goes: its folder, held open, so that whatever becomes of paths meanwhile, a file is
//! read, made and renamed in one and the same folder.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{process, thread};

use anyhow::{Context, Result, bail};
use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, linkat, openat, renameat,
    renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::rights::{Given, Rights};

/// Links that are followed, as the system counts them.
const MAX_LINKS: u32 = 40;
/// Interval of attempts to take the lock.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Names tried for the file that becomes the new one.
const NAMES: u32 = 100;

/// Treatment of a file that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// It stays, and the command fails.
    Keep,
    /// The new one takes its place in one step.
    Replace,
}

/// A lock on a file's edits; its own file goes away with it.
pub(super) struct Lock<'a> {
    folder: &'a File,
    name: OsString,
    _file: File,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // Before the lock ends: who waits for it sees that the name leads elsewhere, and tries again.
        unlinkat(self.folder, &self.name, AtFlags::empty()).unwrap_or_default();
    }
}

pub(super) struct Place {
    path: PathBuf,
    name: OsString,
    folder: File,
}

impl Place {
    /// Behind a symbolic link the file itself is replaced, not the link. A link is followed if it was
    /// made by root, by whoever runs this, or by the owner of what it leads to: the owner of a folder
    /// does not choose which file of another is written anew.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let Some(target) = target_of(&path)? else {
                let folder = parent(&path);
                let name = path.file_name().context("this names no file")?.to_owned();
                let open = File::open(folder)
                    .with_context(|| format!("cannot open the folder {}", folder.display()))?;
                return Ok(Self {
                    name,
                    folder: open,
                    path,
                });
            };
            path = parent(&path).join(target);
        }
        bail!("{}: too many symbolic links", path.display())
    }

    /// The file, behind all links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn folder(&self) -> &Path {
        parent(&self.path)
    }

    /// Waits for other edits of this file, up to `patience`. The lock stands on a file of its own, which
    /// only its owner can open: on the folder, or on the file itself, every reader could hold one. Some
    /// network file systems know no such locks; then only the last of two edits counts.
    pub(super) fn lock(&self, patience: Duration) -> Result<Lock<'_>> {
        let name = OsString::from(format!(".{}.lock", self.name.to_string_lossy()));
        let path = self.folder().join(&name);
        let begun = Instant::now();
        loop {
            let file = self.lock_file(&name).with_context(|| {
                let path = path.display();
                format!(
                    "cannot lock {path}; if it is there and no other command is at work, remove it"
                )
            })?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if begun.elapsed() >= patience => bail!(
                    "{} is being changed by another command, which has held {} for {patience:?}: wait \
                     for it, or find it with `fuser {}` and end it",
                    self.path.display(),
                    path.display(),
                    path.display(),
                ),
                Err(Errno::WOULDBLOCK) => thread::sleep(POLL_INTERVAL),
                // One that was removed meanwhile locks nobody out.
                Ok(()) if !self.is_named(&file, &name)? => {}
                Ok(()) | Err(_) => {
                    return Ok(Lock {
                        folder: &self.folder,
                        name,
                        _file: file,
                    });
                }
            }
        }
    }

    fn lock_file(&self, name: &OsStr) -> io::Result<File> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(openat(&self.folder, name, how | OFlags::CLOEXEC, mode)?.into())
    }

    /// Whether a name in the folder still leads to an open file.
    fn is_named(&self, file: &File, name: &OsStr) -> io::Result<bool> {
        match statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => {
                let own = fstat(file)?;
                Ok((there.st_dev, there.st_ino) == (own.st_dev, own.st_ino))
            }
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The file that is there now.
    pub(super) fn open(&self) -> io::Result<Option<File>> {
        // A FIFO is not waited for.
        let how = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.folder, &self.name, how, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Some(file))
    }

    /// Puts a file there in one step. It has its owner, group and mode before a byte is written to it.
    /// `None` if there is one that is to stay.
    pub(super) fn put(
        &self,
        content: &[u8],
        rights: &Rights,
        replaces: bool,
        existing: Existing,
    ) -> Result<Option<Given>> {
        let (mut file, name) = self.temporary(rights)?;
        let mut put = || -> Result<Option<Given>> {
            let given = rights.give(&file)?;
            if replaces && let Some(reason) = given.cuts_off(rights) {
                bail!(reason);
            }
            file.write_all(content)?;
            file.sync_all()?;
            let there = self.name_it(&name, existing)?;
            Ok(there.then_some(given))
        };
        let put = put();
        if !matches!(put, Ok(Some(_))) {
            // The first error is the one to report.
            unlinkat(&self.folder, &name, AtFlags::empty()).unwrap_or_default();
        }
        let given = put?;
        self.folder
            .sync_all()
            .with_context(|| format!("cannot sync {}", self.folder().display()))?;
        Ok(given)
    }

    /// `false` if there is one that is to stay.
    fn name_it(&self, temporary: &OsStr, existing: Existing) -> io::Result<bool> {
        let (folder, name) = (&self.folder, &self.name);
        let renamed = match existing {
            Existing::Replace => renameat(folder, temporary, folder, name),
            Existing::Keep => {
                match renameat_with(folder, temporary, folder, name, RenameFlags::NOREPLACE) {
                    // Not every file system can; two names for a moment are as good.
                    Err(Errno::INVAL | Errno::NOSYS) => {
                        linkat(folder, temporary, folder, name, AtFlags::empty())
                            .and_then(|()| unlinkat(folder, temporary, AtFlags::empty()))
                    }
                    other => other,
                }
            }
        };
        match renamed {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A new file that no other user can open.
    fn temporary(&self, rights: &Rights) -> io::Result<(File, OsString)> {
        let shown = self.name.to_string_lossy();
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(rights.first_mode());
        // One may have been left behind by another process with the same number, as in containers.
        for number in 0..NAMES {
            let name = OsString::from(format!(".{shown}.{}-{number}.new", process::id()));
            match openat(&self.folder, &name, how | OFlags::CLOEXEC, mode) {
                Ok(file) => return Ok((file.into(), name)),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }
}

/// The target of a symbolic link; `None` for anything else.
fn target_of(path: &Path) -> Result<Option<PathBuf>> {
    let Ok(link) = path.symlink_metadata() else {
        return Ok(None);
    };
    if !link.is_symlink() {
        return Ok(None);
    }
    let target = path
        .read_link()
        .with_context(|| format!("cannot read the link {}", path.display()))?;
    let may_lead = link.uid() == 0
        || link.uid() == geteuid().as_raw()
        || path.metadata().is_ok_and(|end| end.uid() == link.uid());
    if !may_lead {
        bail!(
            "{} is a symbolic link, made by another user, to {}: name the file itself",
            path.display(),
            target.display()
        );
    }
    Ok(Some(target))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        Some(_) | None => Path::new("."),
    }
}

/// The whole text of a file.
pub(super) fn read(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(text)
}
