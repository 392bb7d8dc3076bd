//! As whom the server runs: what its systemd unit says, or else whom the configuration is for. `check`
//! is mostly run by root, who can read everything, and has to say what the server cannot.

mod unit;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use self::unit::Unit;
use super::account::{
    Account, ENTER, Map, READ, WRITE, group_entry, group_name, groups_of, stands_in, user_entry,
    user_name,
};

/// Users that systemd makes up (`DynamicUser=`) have these numbers.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// The user that the server runs as, and how that is known.
#[derive(Debug)]
pub(crate) struct Service {
    account: Account,
    basis: Basis,
    /// Folders that systemd makes for it, and gives to it.
    own_folders: Vec<PathBuf>,
}

/// Source of the knowledge.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Basis {
    /// It was said.
    Given,
    /// A unit says so.
    Unit(PathBuf),
    /// The owner and mode of the configuration: a guess.
    Configuration,
}

impl Service {
    /// The user named as `USER` or `USER:GROUP`.
    pub(crate) fn named(text: &str) -> Result<Self> {
        Ok(Self {
            account: Account::named(text)?,
            basis: Basis::Given,
            own_folders: Vec::new(),
        })
    }

    /// The user who serves this configuration on this machine, as far as files say. `Err` if a unit
    /// names a user who does not exist.
    pub(crate) fn found(configuration: &Path) -> Result<Option<Self>, String> {
        match Unit::that_serves(configuration) {
            Some(unit) => Self::of_unit(&unit).map(Some),
            None => Ok(Self::of_configuration(configuration)),
        }
    }

    fn of_unit(unit: &Unit) -> Result<Self, String> {
        let shown = unit.file.display();
        let group = |name: &str| {
            let id = name.parse().ok().or_else(|| group_entry(name));
            id.ok_or_else(|| format!("{shown} names a group `{name}` that does not exist"))
        };
        let name = match (&unit.user, unit.is_dynamic) {
            (Some(user), _) => user.clone(),
            (None, true) => unit.name().to_owned(),
            (None, false) => "root".to_owned(),
        };
        let (user, mut groups) = match user_entry(&name) {
            Some((id, first)) => (Some(id), groups_of(&name, first)),
            None if unit.is_dynamic => (None, Vec::new()),
            None => {
                // Of a directory, perhaps.
                let account = Account::named(&name).map_err(|_unknown| {
                    format!("{shown} names a user `{name}` who does not exist")
                })?;
                (account.user, account.groups)
            }
        };
        for name in unit.group.iter().chain(&unit.more_groups) {
            // One that is made up with the user owns nothing yet.
            match group(name) {
                Ok(id) => groups.push(id),
                Err(_made_up) if unit.is_dynamic && Some(name) == unit.group.as_ref() => {}
                Err(unknown) => return Err(unknown),
            }
        }
        Ok(Self {
            account: Account {
                shown: format!("user `{name}`"),
                user,
                groups,
            },
            basis: Basis::Unit(unit.file.clone()),
            own_folders: unit.own_folders(),
        })
    }

    /// A configuration that not all users may read is for its group, or for its owner.
    fn of_configuration(configuration: &Path) -> Option<Self> {
        let file = configuration.metadata().ok()?;
        if stands_in(file.uid(), Map::Users) || stands_in(file.gid(), Map::Groups) {
            return None;
        }
        let is_for = |bit: u32| file.mode() & bit != 0;
        let owner = user_name(file.uid());
        let usual = user_entry(&owner).map(|(_, group)| group);
        let account =
            if file.gid() != 0 && is_for(0o040) && !is_for(0o004) && usual != Some(file.gid()) {
                Account {
                    shown: format!("group `{}`", group_name(file.gid())),
                    user: None,
                    groups: vec![file.gid()],
                }
            } else if file.uid() != 0 {
                Account::named(&owner).ok()?
            } else {
                return None;
            };
        Some(Self {
            account,
            basis: Basis::Configuration,
            own_folders: Vec::new(),
        })
    }

    /// Returns true if that is only a guess.
    pub(crate) fn is_guessed(&self) -> bool {
        self.basis == Basis::Configuration
    }

    /// Why it cannot read a file, and what to do; `None` if it can, or if there is none.
    pub(crate) fn cannot_read(&self, path: &Path) -> Option<(String, String)> {
        self.cannot(path, READ, "read")
    }

    /// Why it cannot write to a file that is there, or make one that is not, and what to do.
    pub(crate) fn cannot_append(&self, path: &Path) -> Option<(String, String)> {
        let is_its_own = self.own_folders.iter().any(|own| path.starts_with(own));
        if path.exists() {
            let made_up = |file: std::fs::Metadata| DYNAMIC.contains(&file.uid());
            if is_its_own && self.account.user.is_none() && path.metadata().is_ok_and(made_up) {
                return None;
            }
            let barred = self.cannot(path, READ | WRITE, "write to")?;
            // The way to it is systemd's to make.
            return (!is_its_own || !barred.0.contains("cannot enter")).then_some(barred);
        }
        if is_its_own {
            return None;
        }
        self.cannot(path.parent()?, WRITE | ENTER, "make files in")
    }

    fn cannot(&self, path: &Path, wanted: u32, what: &str) -> Option<(String, String)> {
        let (by, file) = self.account.barred_by(path, wanted)?;
        let needed = if by == path { wanted } else { ENTER };
        // Whoever of a group it is may well own what the server made for itself alone.
        let is_any_member = self.is_guessed() && self.account.user.is_none();
        if is_any_member && file.uid() != 0 && (file.mode() >> 6) & needed == needed {
            return None;
        }
        let who = &self.account.shown;
        let (first, second) = (by.display(), path.display());
        let what = if by == path {
            format!("cannot {what} {second}: it")
        } else {
            format!("cannot {what} {second}, because it cannot enter {first}, which")
        };
        let (owner, group) = (user_name(file.uid()), group_name(file.gid()));
        let mode = file.mode() & 0o777;
        let basis = match &self.basis {
            Basis::Unit(file) => format!(" (the user is that of {})", file.display()),
            Basis::Configuration => {
                " (who can read the configuration; --as names another)".to_owned()
            }
            Basis::Given => String::new(),
        };
        let message =
            format!("{who} {what} belongs to {owner}:{group} and has mode {mode:04o}{basis}");
        Some((message, self.remedy(by, file.gid(), needed)))
    }

    fn remedy(&self, path: &Path, group: u32, wanted: u32) -> String {
        let shown = path.display();
        let bits: String = [(READ, 'r'), (WRITE, 'w'), (ENTER, 'x')]
            .into_iter()
            .filter_map(|(bit, letter)| (wanted & bit != 0).then_some(letter))
            .collect();
        match self.account.groups.last() {
            Some(own) if self.account.groups.contains(&group) || *own == group => {
                format!("chmod g+{bits} {shown}")
            }
            Some(own) => {
                let own = group_name(*own);
                format!("chgrp {own} {shown} && chmod g+{bits} {shown}")
            }
            None => format!("chmod o+{bits} {shown}, or give it to a group that the server is in"),
        }
    }
}
