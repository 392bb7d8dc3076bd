//! Users and groups of this machine, and what they may do with files. Asked about others than who
//! runs this, so the answer is worked out as the system would (`path_resolution(7)`, `acl(5)`).

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use rustix::fs::getxattr;

/// Of a file's mode and of an access list's entries alike.
pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const ENTER: u32 = 1;

/// A user for whom the rights on files are examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// As it is called in messages.
    pub(crate) shown: String,
    /// `None` where it is made up when it is needed (`DynamicUser=`), or is any member of a group.
    pub(crate) user: Option<u32>,
    pub(crate) groups: Vec<u32>,
}

impl Account {
    /// `USER` or `USER:GROUP`, names or numbers.
    pub(crate) fn named(text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let shown = format!("user `{user}`");
        let (user, mut groups) = match (user.parse(), user_entry(user)) {
            (_, Some((id, first))) => (id, groups_of(user, first)),
            (Ok(id), None) => (id, Vec::new()),
            (Err(_not_a_number), None) => match asked_of_the_system(user) {
                Some(found) => found,
                None => bail!("there is no user `{user}` on this machine"),
            },
        };
        if let Some(group) = group {
            match group.parse().ok().or_else(|| group_entry(group)) {
                Some(id) => groups = vec![id],
                None => bail!("there is no group `{group}` on this machine"),
            }
        }
        Ok(Self {
            shown,
            user: Some(user),
            groups,
        })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.user == Some(0)
    }

    /// The first thing on the way to a file that keeps it from doing what is `wanted` with it; `None`
    /// if nothing does, or if there is no such file.
    pub(crate) fn barred_by<'p>(
        &self,
        path: &'p Path,
        wanted: u32,
    ) -> Option<(&'p Path, Metadata)> {
        if self.is_root() {
            return None;
        }
        let mut above: Vec<_> = path.ancestors().skip(1).collect();
        above.reverse();
        let steps = above.into_iter().map(|folder| (folder, ENTER));
        for (step, wanted) in steps.chain([(path, wanted)]) {
            let metadata = step.metadata().ok()?;
            if !self.may(step, &metadata, wanted) {
                return Some((step, metadata));
            }
        }
        None
    }

    fn may(&self, path: &Path, file: &Metadata, wanted: u32) -> bool {
        let all = |bits: u32| bits & wanted == wanted;
        if self.user == Some(file.uid()) {
            return all(file.mode() >> 6);
        }
        let mut list = vec![0; 64 * 1024];
        let entries = match getxattr(path, "system.posix_acl_access", list.as_mut_slice()) {
            Ok(length) => list.get(..length).map(entries).unwrap_or_default(),
            // There is none, or the file system knows none.
            Err(_none) => Vec::new(),
        };
        if entries.is_empty() {
            let is_theirs = self.groups.contains(&file.gid());
            return all(file.mode() >> if is_theirs { 3 } else { 0 });
        }
        // With a list, these three bits of the mode are its mask.
        let mask = file.mode() >> 3;
        let named = |entry: &&Entry| entry.tag == USER && self.user == Some(entry.id);
        if let Some(entry) = entries.iter().find(named) {
            return all(entry.bits & mask);
        }
        let of_group = |entry: &&Entry| match entry.tag {
            OWNING_GROUP => self.groups.contains(&file.gid()),
            GROUP => self.groups.contains(&entry.id),
            _ => false,
        };
        let mut groups = entries.iter().filter(of_group).peekable();
        if groups.peek().is_some() {
            return groups.any(|entry| all(entry.bits & mask));
        }
        all(file.mode())
    }
}

const USER: u16 = 2;
const OWNING_GROUP: u16 = 4;
const GROUP: u16 = 8;

/// An entry of an access list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    bits: u32,
    id: u32,
}

/// An access list as the kernel gives it (`posix_acl_xattr.h`): a version, 2, then tag, permissions
/// and number of each entry, all in the order of little-endian machines.
fn entries(list: &[u8]) -> Vec<Entry> {
    let entry = |bytes: &[u8]| {
        let [t0, t1, p0, p1, i0, i1, i2, i3] = *bytes else {
            return None;
        };
        Some(Entry {
            tag: u16::from_le_bytes([t0, t1]),
            bits: u16::from_le_bytes([p0, p1]).into(),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        })
    };
    match list.split_at_checked(4) {
        Some(([2, 0, 0, 0], rest)) => rest.chunks(8).filter_map(entry).collect(),
        Some(_) | None => Vec::new(),
    }
}

/// A user's name, or the number where there is none.
pub(crate) fn user_name(id: u32) -> String {
    name_in("/etc/passwd", id)
}

/// A group's name, or the number where there is none.
pub(crate) fn group_name(id: u32) -> String {
    name_in("/etc/group", id)
}

/// A group's number.
pub(crate) fn group_entry(name: &str) -> Option<u32> {
    let text = std::fs::read_to_string("/etc/group").ok()?;
    let entry = text.lines().find_map(|line| fields_of(line, name))?;
    entry.get(2)?.parse().ok()
}

/// A user's number and first group.
pub(crate) fn user_entry(name: &str) -> Option<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let by_name = text.lines().find_map(|line| fields_of(line, name));
    let by_number = || {
        let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
        lines.find(|entry| entry.get(2).is_some_and(|id| *id == name))
    };
    let entry = by_name.or_else(by_number)?;
    Some((entry.get(2)?.parse().ok()?, entry.get(3)?.parse().ok()?))
}

/// All groups of a user.
pub(crate) fn groups_of(user: &str, first: u32) -> Vec<u32> {
    let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let others = text.lines().filter_map(|line| {
        let entry: Vec<_> = line.split(':').collect();
        let is_member = entry.get(3)?.split(',').any(|member| member == user);
        entry.get(2).filter(|_| is_member)?.parse().ok()
    });
    std::iter::once(first).chain(others).collect()
}

/// For users who stand in no file but in a directory.
fn asked_of_the_system(user: &str) -> Option<(u32, Vec<u32>)> {
    let numbers = |how: &str| -> Option<Vec<u32>> {
        let output = Command::new("id").args([how, "--", user]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        text.split_whitespace().map(|id| id.parse().ok()).collect()
    };
    Some((*numbers("-u")?.first()?, numbers("-G")?))
}

fn fields_of<'l>(line: &'l str, name: &str) -> Option<Vec<&'l str>> {
    let fields: Vec<_> = line.split(':').collect();
    (fields.first() == Some(&name)).then_some(fields)
}

fn name_in(file: &str, id: u32) -> String {
    let id = id.to_string();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = lines.find(|entry| entry.get(2) == Some(&&*id));
    let name = found.and_then(|entry| entry.first().map(|name| (*name).to_owned()));
    name.unwrap_or(id)
}

/// Numbers that a user namespace maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    Users,
    Groups,
}

/// Whether a number stands for all those that this user namespace, as of a container, does not know.
pub(crate) fn stands_in(id: u32, map: Map) -> bool {
    let (map, overflow) = match map {
        Map::Users => ("/proc/self/uid_map", "/proc/sys/kernel/overflowuid"),
        Map::Groups => ("/proc/self/gid_map", "/proc/sys/kernel/overflowgid"),
    };
    let read = |file: &str| std::fs::read_to_string(file);
    let overflow = read(overflow)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    id == overflow.unwrap_or(65_534)
        && read(map)
            .is_ok_and(|map| map.split_whitespace().collect::<Vec<_>>() != ["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::{Account, Entry, Map, entries, group_entry, stands_in, user_entry, user_name};

    #[test]
    fn users_and_groups_are_names_or_numbers() {
        assert_eq!(user_entry("root"), Some((0, 0)));
        assert_eq!(user_entry("0"), Some((0, 0)));
        assert_eq!(group_entry("root"), Some(0));
        assert_eq!(
            (&*user_name(0), &*user_name(4_000_123)),
            ("root", "4000123")
        );
        let root = Account::named("root").unwrap();
        assert!(root.is_root() && root.groups.first() == Some(&0));
        let number = Account::named("4000123:4000124").unwrap();
        assert_eq!(
            (number.user, &*number.groups),
            (Some(4_000_123), &[4_000_124][..])
        );
        for wrong in ["no-such-user-here", "root:no-such-group-here", ""] {
            assert!(Account::named(wrong).is_err(), "{wrong}");
        }
        assert!(!stands_in(0, Map::Users) && !stands_in(4_000_123, Map::Groups));
    }

    #[test]
    fn access_lists_are_read_as_the_kernel_writes_them() {
        let list = [
            &[2, 0, 0, 0][..],
            &[1, 0, 6, 0, 255, 255, 255, 255],
            &[2, 0, 4, 0, 0x39, 0x30, 0, 0],
        ]
        .concat();
        let user = Entry {
            tag: 2,
            bits: 4,
            id: 12_345,
        };
        assert_eq!(entries(&list).get(1), Some(&user));
        for (cut, expected) in [(20, 2), (19, 1), (12, 1), (4, 0), (3, 0), (0, 0)] {
            assert_eq!(entries(&list[..cut]).len(), expected, "{cut}");
        }
        assert_eq!(entries(&[1, 0, 0, 0, 1, 0, 6, 0, 0, 0, 0, 0]), []);
    }
}
