//! Files that others on this machine can read or change, as far as their modes and owners say. Access
//! lists are not looked at.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::document::{Diagnostic, Interpreter, List, Text, Wrong};

/// What others must not do with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Passwords and keys: neither read nor changed.
    Secret,
    /// Certificates and rules: not changed.
    Trusted,
}

const READ: u32 = 0o004;
const WRITE: u32 = 0o002;
const GROUP_WRITE: u32 = 0o020;
/// In a folder with this bit only its owner can remove a file, and the folder's.
const STICKY: u32 = 0o1000;
/// Users from here on are people, but for those that systemd makes up for a service and the one that
/// stands for users of another name space.
const FIRST_PERSON: u32 = 1000;
const SYSTEMD: std::ops::RangeInclusive<u32> = 61_184..=65_519;
const OVERFLOW: u32 = 65_534;

impl Interpreter<'_> {
    /// Warns of others who can read or change the file that a key names.
    pub(super) fn warn_if_exposed(&mut self, file: Option<&Text>, content: Content) {
        let Some(text) = file else { return };
        for wrong in exposures(&self.folder.join(&text.value), self.folder, content) {
            self.warning(&text.span, wrong);
        }
    }

    /// The same of each file in a list.
    pub(super) fn warn_if_any_exposed(&mut self, files: Option<&List>, content: Content) {
        for file in files.into_iter().flat_map(|list| &list.value) {
            self.warn_if_exposed(Some(file), content);
        }
    }

    /// The same of a file that no key names.
    pub(super) fn warn_if_file_exposed(&mut self, path: &Path, content: Content) {
        for wrong in exposures(path, self.folder, content) {
            let found = Diagnostic::about_file(path, wrong.message).as_warning();
            self.found
                .push(found.with_help(wrong.help.unwrap_or_default()));
        }
    }
}

/// Everybody who can read or change a file, and what to do about it. Of a file that is not there, or
/// cannot be looked at, nothing is said.
fn exposures(path: &Path, folder: &Path, content: Content) -> Vec<Wrong> {
    let Ok(file) = path.metadata() else {
        return Vec::new();
    };
    let mut found = of_file(path, &file, content);
    let trusted = folder.metadata().map_or(0, |folder| folder.uid());
    found.extend(of_owner(path, file.uid(), &[trusted, geteuid().as_raw()]));
    found.extend(of_folders(path));
    found
}

fn of_file(path: &Path, file: &Metadata, content: Content) -> Vec<Wrong> {
    let (mode, path) = (file.mode(), path.display());
    let everybody = match content {
        Content::Secret => mode & (READ | WRITE),
        Content::Trusted => mode & WRITE,
    };
    let all = match everybody {
        0 => None,
        READ => Some(("read", "r")),
        WRITE => Some(("change", "w")),
        _ => Some(("read and change", "rw")),
    };
    let all = all.map(|(verb, bits)| {
        let wrong = Wrong::new(format!("every user of this machine can {verb} this file"));
        wrong.help(format!("chmod o-{bits} {path}"))
    });
    let group = (mode & GROUP_WRITE != 0).then(|| {
        let wrong = Wrong::new(format!("the group {} can change this file", file.gid()));
        wrong.help(format!("chmod g-w {path}"))
    });
    all.into_iter().chain(group).collect()
}

/// A person who owns it can change it, whatever its mode. The owner of the configuration's folder and the
/// user of this process can anyway.
fn of_owner(path: &Path, owner: u32, trusted: &[u32]) -> Option<Wrong> {
    let is_person = owner >= FIRST_PERSON && owner != OVERFLOW && !SYSTEMD.contains(&owner);
    (is_person && !trusted.contains(&owner)).then(|| {
        let message = format!("this file belongs to user {owner}, who can change it");
        Wrong::new(message).help(format!("chown root {}", path.display()))
    })
}

/// The folder by which every user can replace the file, by the path that is written or the real one.
fn of_folders(path: &Path) -> Option<Wrong> {
    let real = path.canonicalize().unwrap_or_else(|_gone| PathBuf::new());
    let mut folders = path.ancestors().skip(1).chain(real.ancestors().skip(1));
    let open = folders.find(|folder| {
        let mode = folder.metadata().map_or(0, |folder| folder.mode());
        mode & WRITE != 0 && mode & STICKY == 0
    })?;
    let open = open.display();
    let message =
        format!("every user of this machine can replace this file: {open} is writable by all");
    Some(Wrong::new(message).help(format!("chmod o-w {open}")))
}

#[cfg(test)]
mod tests {
    use super::{Content, exposures, of_owner};
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::Path;
    use tempfile::tempdir;

    fn chmod(path: &Path, mode: u32) {
        set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn told(path: &Path, content: Content) -> Vec<String> {
        let found = exposures(path, path.parent().unwrap(), content);
        let found = found.into_iter().map(|wrong| wrong.message);
        found.collect()
    }

    #[test]
    fn modes_that_let_others_read_or_change_a_file_are_told() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("token.key");
        assert!(told(&path, Content::Secret).is_empty());
        write(&path, "x").unwrap();
        for (mode, secret, trusted) in [
            (0o600, &[][..], &[][..]),
            (0o440, &[], &[]),
            (0o640, &[], &[]),
            (0o644, &["can read this"], &[]),
            (0o602, &["can change this"], &["can change this"]),
            (0o606, &["can read and change"], &["can change this"]),
            (0o660, &["the group"], &["the group"]),
            (0o664, &["can read this", "the group"], &["the group"]),
        ] {
            chmod(&path, mode);
            for (content, expected) in [(Content::Secret, secret), (Content::Trusted, trusted)] {
                let told = told(&path, content);
                assert_eq!(told.len(), expected.len(), "{mode:o} {told:?}");
                for (told, expected) in told.iter().zip(expected) {
                    assert!(told.contains(expected), "{mode:o} {told}");
                }
            }
        }
    }

    #[test]
    fn a_folder_that_everybody_can_write_to_is_told_wherever_it_is() {
        let folder = tempdir().unwrap();
        let open = folder.path().join("open");
        let inner = open.join("inner");
        create_dir(&open).unwrap();
        create_dir(&inner).unwrap();
        let (path, link) = (inner.join("token.key"), folder.path().join("link"));
        write(&path, "x").unwrap();
        chmod(&path, 0o600);
        symlink(&path, &link).unwrap();
        for (mode, count) in [(0o755, 0), (0o777, 1), (0o1777, 0)] {
            chmod(&open, mode);
            for path in [&path, &link] {
                assert_eq!(told(path, Content::Secret).len(), count, "{mode:o}");
            }
        }
    }

    #[test]
    fn a_person_who_owns_a_file_can_change_it() {
        let told = |owner: u32| of_owner(Path::new("a"), owner, &[0, 1000]).is_some();
        for owner in [0, 104, 999, 1000, 61_184, 65_534] {
            assert!(!told(owner), "{owner}");
        }
        for owner in [1001, 60_000, 70_000] {
            assert!(told(owner), "{owner}");
        }
    }
}
