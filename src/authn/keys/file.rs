//! `keys.toml`: robot keys as `portcullis key` writes them and people may change them. Read as
//! strictly as the configuration, with every error and its place.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::document::{
    self, At, Diagnostic, Errors, Interpreter, List, Reading, Text, Wrong, find_role, schema_of,
    timestamp,
};
use crate::hash::{hex, sha256_from_hex};
use crate::identity::Confinement;
use crate::policy::{Pattern, Roles, canonical};

/// What stands before a key's digest.
const SHA256: &str = "sha256:";
/// The longest name of a key.
const MAX_NAME: usize = 64;

/// One robot key, as it is stored.
#[derive(Clone, Debug)]
pub struct RobotKey {
    /// What it is called, and the user part of its credentials.
    pub name: Box<str>,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// The role's name.
    pub role: Box<str>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// What its bearer may do.
    pub confinement: Arc<Confinement>,
    /// Line of its header, from 1.
    pub line: usize,
}

impl RobotKey {
    /// Whether another entry means the same key with the same rights, wherever it stands.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.digest == other.digest
            && self.role == other.role
            && self.confinement.is_same(&other.confinement)
    }
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Robot keys.
    #[serde(default)]
    key: Vec<At<Key>>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Key {
    /// What it is called.
    #[schemars(required, extend("examples" = ["ci"]))]
    name: Option<Text>,
    /// SHA-256 of the key.
    #[schemars(required)]
    hash: Option<Text>,
    /// A built-in role or one of `[roles]`.
    #[schemars(required, extend("examples" = ["developer"]))]
    role: Option<Text>,
    /// Patterns: `*` within a path part, `**` across.
    #[schemars(required, extend("examples" = [["team-a/**"]]))]
    repositories: Option<List>,
    /// From where; anywhere when absent.
    #[schemars(extend("examples" = [["10.0.0.0/8"]]))]
    networks: Option<List>,
    /// When it was made.
    #[schemars(extend("examples" = ["2027-01-31T00:00:00Z"]))]
    created: Option<Text>,
    /// Until when; for ever when absent.
    #[schemars(extend("examples" = ["2027-01-31T00:00:00Z"]))]
    expires: Option<Text>,
}

/// Reads a text as if it stood at `path`; `roles` are those of the configuration.
pub fn robot_keys(text: &str, path: &Path, roles: &Roles) -> Result<Vec<RobotKey>, Errors> {
    let Reading {
        file,
        source,
        mut found,
    } = document::read::<File>(text, path, &schema_of::<File>());
    let mut interpreter = Interpreter::new(&source, Path::new("/"), &|_| None, &mut found);
    let keys = file.map(|file| interpreter.robot_keys(&file, roles));
    match (Errors::among(&mut found), keys) {
        (None, Some(keys)) => Ok(keys),
        (Some(errors), _) => Err(errors),
        (None, None) => Err(Diagnostic::about_file(path, "this cannot be read").into()),
    }
}

/// Whether a robot key can be called that; it stands in credentials, paths and manifests.
pub fn check_key_name(name: &str) -> Result<(), String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let outer = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let fits = bytes.iter().copied().all(inner) && outer(bytes.first()) && outer(bytes.last());
    if fits && name.len() <= MAX_NAME {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of a key: use at most {MAX_NAME} letters and digits, and - _ . between them"
    ))
}

/// A pattern that a robot key can have.
pub fn key_pattern(text: &str) -> Result<Pattern, String> {
    if text.contains("${") {
        return Err("a key belongs to no user, so there is no ${user}".to_owned());
    }
    Pattern::parse(text).map_err(|wrong| wrong.message)
}

/// A digest, as it is stored.
pub fn write_digest(digest: &[u8; 32]) -> String {
    format!("{SHA256}{}", hex(digest))
}

pub(crate) fn read_digest(text: &str) -> Result<[u8; 32], Wrong> {
    let digest = text.strip_prefix(SHA256).and_then(sha256_from_hex);
    digest.ok_or_else(|| {
        Wrong::new("this is no digest of a key")
            .help("write \"sha256:\" and 64 hexadecimal digits, or make a key with `portcullis key create`")
    })
}

impl Interpreter<'_> {
    fn robot_keys(&mut self, file: &File, roles: &Roles) -> Vec<RobotKey> {
        let mut seen = HashSet::new();
        let keys = file.key.iter().filter_map(|key| {
            let name = key.value.name.as_ref()?;
            if !seen.insert(name.value.as_str()) {
                let wrong = Wrong::new(format!("there are two keys called {:?}", name.value));
                self.error(&name.span, wrong.help("give one of them another name"));
            }
            self.robot_key(key, roles)
        });
        keys.collect()
    }

    /// `None` only where something was found wrong.
    fn robot_key(&mut self, key: &At<Key>, roles: &Roles) -> Option<RobotKey> {
        let place = self.source.place(&key.span);
        let line = self.source.line(&key.span);
        let key = &key.value;
        let name = self.text(key.name.as_ref(), |name| {
            check_key_name(name).map_err(Wrong::new)?;
            Ok(Box::from(name))
        });
        for pattern in key.repositories.iter().flat_map(|list| &list.value) {
            if pattern.value.contains("${") {
                let wrong = key_pattern(&pattern.value).err().unwrap_or_default();
                self.error(&pattern.span, Wrong::new(wrong));
            }
        }
        let networks = self.networks(key.networks.as_ref());
        let confinement = Confinement {
            place: place.0,
            repositories: self.patterns(key.repositories.as_ref()),
            actions: self
                .text(key.role.as_ref(), |role| find_role(role, roles))
                .unwrap_or_default(),
            networks: networks.into_iter().map(canonical).collect(),
            expires: self.text(key.expires.as_ref(), timestamp),
        };
        Some(RobotKey {
            digest: self.text(key.hash.as_ref(), read_digest)?,
            role: key.role.as_ref()?.value.as_str().into(),
            created: self.text(key.created.as_ref(), timestamp),
            name: name?,
            confinement: Arc::new(confinement),
            line,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Roles, check_key_name, key_pattern, robot_keys, write_digest};
    use crate::registry::{Action, RepoName};
    use insta::assert_snapshot;
    use jiff::Timestamp;
    use proptest::prelude::*;
    use std::path::Path;

    fn roles() -> Roles {
        let developer = vec![Action::Pull, Action::Push, Action::Overwrite];
        Roles::from([
            ("developer".into(), developer),
            ("guest".into(), vec![Action::Pull]),
        ])
    }

    fn read(text: &str) -> Result<Vec<super::RobotKey>, super::Errors> {
        robot_keys(text, Path::new("keys.toml"), &roles())
    }

    #[test]
    fn a_key_means_what_is_written() {
        let hash = write_digest(&[0xab; 32]);
        let keys = read(&format!(
            r#"# ours
[[key]]
name = "ci"
hash = "{hash}"
role = "developer"
repositories = ["team-a/**"]
networks = ["::ffff:10.0.0.0/104"]
created = "2026-01-01T00:00:00Z"
expires = "2027-01-01T00:00:00Z"

[[key]]
name = "mirror"
hash = "{hash}"
role = "guest"
repositories = ["**"]
"#
        ))
        .unwrap();
        let [ci, mirror] = &keys[..] else {
            panic!("{keys:?}")
        };
        assert_eq!((&*ci.name, ci.digest, ci.line), ("ci", [0xab; 32], 2));
        assert_eq!(&*ci.confinement.place, "keys.toml:2");
        let may = |action, name: &str, from: &str, second: &str| {
            let repository = RepoName::parse(name).unwrap();
            let now: Timestamp = second.parse().unwrap();
            ci.confinement
                .covers(action, Some(&repository), from.parse().unwrap(), now)
        };
        let (here, now) = ("10.1.2.3", "2026-06-01T00:00:00Z");
        assert!(may(Action::Push, "team-a/app", here, now));
        assert!(may(Action::Push, "team-a/app", "::ffff:10.1.2.3", now));
        assert!(!may(Action::Delete, "team-a/app", here, now));
        assert!(!may(Action::Pull, "team-b/app", here, now));
        assert!(!may(Action::Pull, "team-a/app", "192.0.2.1", now));
        assert!(!may(
            Action::Pull,
            "team-a/app",
            here,
            "2027-01-01T00:00:00Z"
        ));
        assert_eq!(mirror.confinement.expires, None);
        assert_eq!(read("").unwrap().len(), 0);
    }

    #[test]
    fn everything_wrong_is_told_with_its_place() {
        let errors = read(
            r#"
[[key]]
name = "c i"
hash = "pcl_0123456789abcdef0123456789abcdef0123456"
role = "develper"
repositories = ["home/${user}/**"]
networks = ["10.0.0.1/8"]
expires = "tomorrow"

[[key]]
name = "ci"
hash = "sha256:12"
role = "guest"
repositories = []
reposit = "x"

[[key]]
name = "ci"
role = "guest"
repositories = ["a//b"]
"#,
        )
        .unwrap_err();
        let shown = errors.render(false);
        assert!(!shown.contains("pcl_0123456789"), "{shown}");
        let lines: Vec<_> = errors
            .diagnostics()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn names_and_patterns_of_the_command_line() {
        for good in ["ci", "team-a.push_2", "7"] {
            assert_eq!(check_key_name(good), Ok(()), "{good}");
        }
        let long = "x".repeat(65);
        for bad in ["", "a b", "a:b", "-ci", "ci-", "ä", "a/b", long.as_str()] {
            assert!(check_key_name(bad).is_err(), "{bad}");
        }
        assert!(key_pattern("team-a/**").is_ok());
        assert!(key_pattern("home/${user}/**").is_err());
        assert!(key_pattern("A").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\[\\[key\\]\\]\n|name = \"[a-z:]*\"\n|hash = \"sha256:[0-9a-fä]{0,64}\"\n|.{0,10}\n){0,8}") {
            drop(read(&text));
        }
    }
}
