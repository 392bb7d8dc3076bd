//! The systemd unit that serves with a configuration, read from its files: `systemctl` is not
//! everywhere where `check` is run, as in images that are being built.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Where units are, the first one of a name counts (systemd.unit(5)).
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const PROGRAM: &str = "portcullis";
const CONFIGURATION: &str = "/etc/portcullis/portcullis.toml";

/// The user that a unit runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) file: PathBuf,
    pub(super) user: Option<String>,
    pub(super) group: Option<String>,
    pub(super) more_groups: Vec<String>,
    pub(super) is_dynamic: bool,
    folders: Vec<PathBuf>,
    commands: Vec<String>,
    configuration: Option<String>,
}

impl Unit {
    /// The one that serves with this configuration.
    pub(super) fn that_serves(configuration: &Path) -> Option<Self> {
        let wanted = configuration.canonicalize().ok()?;
        let units = units(&FOLDERS.map(Path::new)).into_iter();
        units
            .map(|(name, file)| Self::read(&name, &file))
            .find(|unit| {
                let with = unit.configuration();
                with.is_some_and(|with| with.canonicalize().is_ok_and(|with| with == wanted))
            })
    }

    /// Its name without the suffix.
    pub(super) fn name(&self) -> &str {
        let stem = self.file.file_stem().and_then(OsStr::to_str);
        stem.unwrap_or_default()
    }

    /// Folders that systemd makes for it, and gives to it.
    pub(super) fn own_folders(&self) -> Vec<PathBuf> {
        self.folders.clone()
    }

    fn read(name: &str, file: &Path) -> Self {
        let mut unit = Self {
            file: file.to_owned(),
            ..Self::default()
        };
        for part in std::iter::once(file.to_owned()).chain(drop_ins(name)) {
            unit.add(&std::fs::read_to_string(part).unwrap_or_default());
        }
        unit
    }

    /// The lines of one more file, which come after those before. Where a list is allowed, an empty
    /// value begins it anew.
    fn add(&mut self, text: &str) {
        let mut is_service = false;
        let text = text.replace("\\\n", " ");
        for line in text.lines().map(str::trim) {
            if line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') {
                is_service = line == "[Service]";
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| is_service) else {
                continue;
            };
            self.set(key.trim(), value.trim());
        }
    }

    fn set(&mut self, key: &str, value: &str) {
        let one = || (!value.is_empty()).then(|| value.to_owned());
        let words = || value.split_whitespace().map(str::to_owned);
        match key {
            "User" => self.user = one(),
            "Group" => self.group = one(),
            "DynamicUser" => self.is_dynamic = ["1", "yes", "true", "on"].contains(&value),
            "SupplementaryGroups" if value.is_empty() => self.more_groups.clear(),
            "SupplementaryGroups" => self.more_groups.extend(words()),
            "ExecStart" if value.is_empty() => self.commands.clear(),
            "ExecStart" => self.commands.push(value.to_owned()),
            "Environment" => {
                let set = value.split_whitespace().map(|word| word.trim_matches('"'));
                let mut set = set.filter_map(|word| word.strip_prefix("PORTCULLIS_CONFIG="));
                if let Some(set) = set.next_back() {
                    self.configuration = Some(set.to_owned());
                }
            }
            "StateDirectory" => self.make("/var/lib", value),
            "LogsDirectory" => self.make("/var/log", value),
            "CacheDirectory" => self.make("/var/cache", value),
            "RuntimeDirectory" => self.make("/run", value),
            _ => {}
        }
    }

    fn make(&mut self, below: &str, value: &str) {
        let names = value.split_whitespace();
        let names = names.filter_map(|name| name.split(':').next());
        self.folders
            .extend(names.map(|name| Path::new(below).join(name)));
    }

    /// With which configuration it serves; `None` if it does something else.
    fn configuration(&self) -> Option<PathBuf> {
        let command = self.commands.last()?;
        let words: Vec<_> = command
            .split_whitespace()
            .map(|word| word.trim_matches(['"', '\'']))
            .collect();
        let (program, rest) = words.split_first()?;
        let program = Path::new(program.trim_start_matches(['-', '@', ':', '+', '!']));
        if program.file_name()? != PROGRAM || !rest.contains(&"serve") {
            return None;
        }
        let follows = rest.iter().zip(rest.iter().skip(1));
        let apart = follows.filter(|(flag, _)| **flag == "--config");
        let apart = apart.map(|(_, value)| *value);
        let joined = rest
            .iter()
            .filter_map(|word| word.strip_prefix("--config="));
        let named = apart.chain(joined).last();
        let named = named.or(self.configuration.as_deref());
        Some(named.unwrap_or(CONFIGURATION).into())
    }
}

/// Every unit by its name. One that is masked (a link to /dev/null) is read as empty.
fn units(folders: &[&Path]) -> BTreeMap<String, PathBuf> {
    files(folders, "service")
}

fn drop_ins(unit: &str) -> Vec<PathBuf> {
    let folders = FOLDERS.map(|folder| Path::new(folder).join(format!("{unit}.d")));
    let folders: Vec<_> = folders.iter().map(PathBuf::as_path).collect();
    files(&folders, "conf").into_values().collect()
}

/// The files that end so, in the order of their names; of two with the same name the first.
fn files(folders: &[&Path], end: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for folder in folders {
        let Ok(entries) = std::fs::read_dir(folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.extension() == Some(OsStr::new(end)) {
                found.entry(name).or_insert(path);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Unit;

    fn unit(parts: &[&str]) -> Unit {
        let mut unit = Unit::default();
        for part in parts {
            unit.add(part);
        }
        unit
    }

    #[test]
    fn our_own_unit_is_understood() {
        let unit = unit(&[include_str!("../../../conf/portcullis.service")]);
        assert!(unit.is_dynamic);
        assert_eq!(unit.more_groups, ["portcullis-conf"]);
        assert_eq!(
            unit.own_folders(),
            ["/var/lib/portcullis", "/run/portcullis"].map(Path::new)
        );
        let with = unit.configuration().unwrap();
        assert_eq!(with, Path::new("/etc/portcullis/portcullis.toml"));
    }

    #[test]
    fn drop_ins_add_change_and_begin_anew() {
        let unit = unit(&[
            "[Unit]\nUser=nobody\n[Service]\nUser = one\nSupplementaryGroups=a b\n\
             ExecStart=/usr/bin/portcullis serve\n# User=comment\n",
            "[Service]\nUser=two\nSupplementaryGroups=\nSupplementaryGroups=c\nExecStart=\n\
             ExecStart=-/opt/portcullis \\\n  serve --config=/srv/p.toml\nDynamicUser=no\n",
        ]);
        assert_eq!(unit.user.as_deref(), Some("two"));
        assert_eq!(unit.more_groups, ["c"]);
        assert!(!unit.is_dynamic);
        assert_eq!(unit.configuration().unwrap(), Path::new("/srv/p.toml"));
    }

    #[test]
    fn the_configuration_is_the_one_that_is_served() {
        for (lines, expected) in [
            (
                "ExecStart=/usr/bin/portcullis serve",
                Some("/etc/portcullis/portcullis.toml"),
            ),
            (
                "ExecStart=/usr/bin/portcullis serve --config \"/a b\"",
                Some("/a"),
            ),
            (
                "Environment=A=b PORTCULLIS_CONFIG=/c\nExecStart=/x/portcullis serve",
                Some("/c"),
            ),
            ("ExecStart=/usr/bin/portcullis audit verify", None),
            ("ExecStart=/usr/sbin/nginx serve", None),
            ("", None),
        ] {
            let unit = unit(&["[Service]\n", &format!("[Service]\n{lines}\n")]);
            assert_eq!(
                unit.configuration().as_deref(),
                expected.map(Path::new),
                "{lines}"
            );
        }
    }
}
