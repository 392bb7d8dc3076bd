//! Owner, group and mode of a file.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::process::{getegid, geteuid};

use crate::cli::account::{Map, group_name, stands_in, user_name};

/// The access list of a file, where it has one beyond its mode.
const ACCESS_LIST: &str = "system.posix_acl_access";
/// No access list is longer on the file systems that have them.
const LONGEST_LIST: usize = 64 * 1024;

/// Readers of a new file that replaces none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Those of the configuration; without one all users, as far as the umask allows.
    Everybody,
    /// The owner of the configuration and its group, but no other: secrets that a server reads.
    Server,
    /// The user of this process alone: secrets that no server reads.
    Owner,
}

/// Rights that a file is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    /// Owner and group; `None` for those of this process.
    owner: Option<u32>,
    group: Option<u32>,
    /// `None`: that of a new file, as far as the umask allows.
    mode: Option<u32>,
    list: Option<Vec<u8>>,
}

/// Rights that a file was given.
pub(super) struct Given {
    owner: u32,
    group: u32,
    list: bool,
}

impl Rights {
    /// Those of the file that is replaced.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let mut list = vec![0; LONGEST_LIST];
        let list = match fgetxattr(file, ACCESS_LIST, list.as_mut_slice()) {
            Ok(length) => {
                list.truncate(length);
                Some(list)
            }
            // There is none, or the file system knows none.
            Err(_none) => None,
        };
        Ok(Self {
            owner: Some(metadata.uid()),
            group: Some(metadata.gid()),
            mode: Some(metadata.mode() & 0o777),
            list,
        })
    }

    /// The same for the owner alone, for files that no server reads.
    pub(super) fn for_its_owner(self) -> Self {
        Self {
            mode: self.mode.map(|mode| mode & 0o600),
            list: None,
            ..self
        }
    }

    /// Those of a new file, after a configuration that the server can read.
    pub(super) fn beside(configuration: &Metadata, readers: Readers) -> Self {
        let written = configuration.mode() & 0o666;
        let mode = match readers {
            Readers::Everybody => written,
            // Where everybody may read the configuration, the usual group of who made it was not
            // chosen: it may be that of all users.
            Readers::Server
                if written & 0o004 != 0 && configuration.gid() == getegid().as_raw() =>
            {
                written & 0o600
            }
            Readers::Server => written & 0o660,
            Readers::Owner => written & 0o600,
        };
        Self {
            owner: Some(configuration.uid()),
            group: Some(configuration.gid()),
            mode: Some(mode | 0o600),
            list: None,
        }
    }

    /// Those of a new file without a configuration.
    pub(super) fn own(readers: Readers) -> Self {
        Self {
            owner: None,
            group: None,
            mode: match readers {
                Readers::Everybody => None,
                Readers::Server | Readers::Owner => Some(0o600),
            },
            list: None,
        }
    }

    /// The same for a folder: the right to read becomes the right to enter as well.
    pub(super) fn for_a_folder(&self) -> Self {
        let enter = |mode: u32| mode | ((mode & 0o444) >> 2);
        Self {
            mode: self.mode.map(enter),
            ..self.clone()
        }
    }

    /// The mode at first: no other user opens the file before it has its owner and group.
    pub(super) fn first_mode(&self) -> u32 {
        if self.mode.is_some() { 0o600 } else { 0o644 }
    }

    /// Gives a new file what can be given. Its group may do nothing if it is not the one it should be.
    pub(super) fn give(&self, file: &File) -> io::Result<Given> {
        let has = file.metadata()?;
        // Who only stands in for those that are not known here is not given anything.
        let owner = self.owner.filter(|owner| *owner != has.uid());
        let owner = owner.filter(|owner| !stands_in(*owner, Map::Users));
        let group = self.group.filter(|group| *group != has.gid());
        let group = group.filter(|group| !stands_in(*group, Map::Groups));
        if owner.is_some() || group.is_some() {
            // Who is not root may give it to a group of his own.
            let _given = fchown(file, owner, group)
                .or_else(|_not_both| fchown(file, None, group))
                .or_else(|_no_group| fchown(file, owner, None));
        }
        let now = file.metadata()?;
        let is_theirs = self.group.is_none_or(|group| group == now.gid());
        if let Some(mode) = self.mode {
            let mode = if is_theirs { mode } else { mode & !0o070 };
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        let mut has_list = true;
        if let Some(list) = &self.list {
            has_list = is_theirs && fsetxattr(file, ACCESS_LIST, list, XattrFlags::empty()).is_ok();
            if let (false, Some(mode)) = (has_list, self.mode) {
                // Without its list the mode's middle is not what the group may.
                file.set_permissions(Permissions::from_mode(mode & !0o070))?;
            }
        }
        Ok(Given {
            owner: now.uid(),
            group: now.gid(),
            list: has_list,
        })
    }

    /// In a user namespace that does not know them, one number stands for all.
    fn is_unknown_here(&self) -> bool {
        self.owner.is_some_and(|id| stands_in(id, Map::Users))
            || self.group.is_some_and(|id| stands_in(id, Map::Groups))
    }

    fn whose(&self) -> String {
        let owner = self.owner.map_or_else(String::new, user_name);
        let group = self.group.map_or_else(String::new, group_name);
        format!("{owner}:{group}")
    }
}

impl Given {
    /// Why somebody who could read the file that is replaced could not read this one.
    pub(super) fn cuts_off(&self, old: &Rights) -> Option<String> {
        let mode = old.mode.unwrap_or_default();
        if mode & 0o004 != 0 {
            return None;
        }
        let other_group = old.group != Some(self.group);
        let other_owner = old.owner != Some(self.owner) && old.owner != Some(0);
        let group_lost = other_group && mode & 0o040 != 0;
        // With its group the owner may read it too.
        let owner_lost = other_owner && (other_group || mode & 0o040 == 0);
        (group_lost || owner_lost || !self.list).then(|| {
            format!(
                "it belongs to {}, who could not read what replaces it, because only root can give \
                 it to them: run this as root, or as its owner",
                old.whose()
            )
        })
    }

    /// A warning, with the remedy, where a file has not got what it should have.
    pub(super) fn missing(&self, wanted: &Rights, path: &Path) -> Option<String> {
        let owner = wanted.owner.is_none_or(|owner| owner == self.owner);
        let group = wanted.group.is_none_or(|group| group == self.group);
        if owner && group {
            return None;
        }
        let (path, whose) = (quoted(path), wanted.whose());
        if wanted.is_unknown_here() {
            return Some(format!(
                "warning: {path} belongs to {}:{}, because those who read the others are not known in \
                 this container: see that the server can read it, from outside",
                user_name(self.owner),
                group_name(self.group),
            ));
        }
        let mode = wanted.mode.unwrap_or(0o644);
        Some(format!(
            "warning: {path} belongs to {}:{}; so that the server can read it: \
             sudo chown {whose} {path} && sudo chmod {mode:o} {path}",
            user_name(self.owner),
            group_name(self.group),
        ))
    }
}

/// The configuration that a file in `folder` belongs to: the one that is named, or that of the
/// environment if it is above, or the nearest `portcullis.toml` above. It has to be of root, of
/// whoever runs this or of the owner of the folder: anybody else does not choose who reads secrets.
pub(super) fn configuration(folder: &Path, named: Option<&Path>) -> Option<Metadata> {
    if let Some(named) = named {
        return named.metadata().ok();
    }
    let folder = folder.canonicalize().ok()?;
    let owner = folder.metadata().ok()?.uid();
    let set = std::env::var_os("PORTCULLIS_CONFIG").map(PathBuf::from);
    let is_above = |file: &PathBuf| {
        let of = file.parent().and_then(|of| of.canonicalize().ok());
        of.is_some_and(|of| folder.starts_with(of))
    };
    let above = folder
        .ancestors()
        .map(|above| above.join("portcullis.toml"));
    let mut candidates = set.filter(is_above).into_iter().chain(above);
    candidates.find_map(|candidate| {
        let trusted = |file: &Metadata| [0, geteuid().as_raw(), owner].contains(&file.uid());
        let link = candidate.symlink_metadata().ok()?;
        let file = candidate.metadata().ok()?;
        (file.is_file() && trusted(&link) && trusted(&file)).then_some(file)
    })
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
