//! The text of `keys.toml`, changed so that what people wrote beside the keys stays.

use std::fmt::Write;

use ipnet::IpNet;
use jiff::Timestamp;
use portcullis::authn::keys::write_digest;

/// The beginning of a new file.
pub(super) const HEAD: &str = "\
# Robot keys, written by `portcullis key`. A key itself stands nowhere, only its SHA-256.
# Changes are in force at the next use of a key. The lines may be edited.
";

/// A key to be added.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    pub(super) digest: [u8; 32],
    pub(super) role: &'a str,
    pub(super) repositories: &'a [String],
    pub(super) networks: &'a [IpNet],
    pub(super) created: Timestamp,
    pub(super) expires: Option<Timestamp>,
}

/// The text with one more key at its end.
pub(super) fn add(old: &str, entry: &Entry<'_>) -> String {
    let mut text = if old.is_empty() { HEAD } else { old }.to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let networks: Vec<_> = entry.networks.iter().map(ToString::to_string).collect();
    let mut pairs = vec![
        ("name", quoted(entry.name)),
        ("hash", quoted(&write_digest(&entry.digest))),
        ("role", quoted(entry.role)),
        ("repositories", list(entry.repositories)),
    ];
    if !networks.is_empty() {
        pairs.push(("networks", list(&networks)));
    }
    pairs.push(("created", quoted(&format!("{:.0}", entry.created))));
    if let Some(end) = entry.expires {
        pairs.push(("expires", quoted(&format!("{end:.0}"))));
    }
    text.push_str("\n[[key]]\n");
    for (key, value) in pairs {
        // Writing into a string does not fail.
        let _ok = writeln!(text, "{key} = {value}").is_ok();
    }
    text
}

/// The text without the key whose header stands in a line, counted from 1: up to the next header,
/// without the comment right above that one.
pub(super) fn without(old: &str, line: usize) -> String {
    let lines: Vec<&str> = old.split_inclusive('\n').collect();
    let (before, rest) = lines
        .split_at_checked(line.saturating_sub(1))
        .unwrap_or((&lines, &[]));
    let is_header = |line: &&str| line.trim_start().starts_with('[');
    let own = rest
        .iter()
        .skip(1)
        .take_while(|line| !is_header(line))
        .count();
    let mut end = own.saturating_add(1).min(rest.len());
    while end < rest.len()
        && end > 1
        && rest
            .get(end.saturating_sub(1))
            .is_some_and(|line| line.trim_start().starts_with('#'))
    {
        end = end.saturating_sub(1);
    }
    let after = rest.get(end..).unwrap_or_default();
    [before, after].concat().concat()
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::{Entry, add, without};

    #[test]
    fn an_entry_is_appended_and_taken_out_again() {
        let networks = ["10.0.0.0/8".parse().unwrap()];
        let repositories = ["team-a/**".to_owned(), "b".to_owned()];
        let entry = Entry {
            name: "ci",
            digest: [0x0f; 32],
            role: "we \"quote\"",
            repositories: &repositories,
            networks: &networks,
            created: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            expires: Some("2027-01-02T03:04:05Z".parse().unwrap()),
        };
        let text = add("", &entry);
        insta::assert_snapshot!(text, @r#"
        # Robot keys, written by `portcullis key`. A key itself stands nowhere, only its SHA-256.
        # Changes are in force at the next use of a key. The lines may be edited.

        [[key]]
        name = "ci"
        hash = "sha256:0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
        role = 'we "quote"'
        repositories = ["team-a/**", "b"]
        networks = ["10.0.0.0/8"]
        created = "2026-01-02T03:04:05Z"
        expires = "2027-01-02T03:04:05Z"
        "#);
        let old = "# ours\n[[key]]\nname = \"a\"";
        let both = add(old, &entry);
        assert!(both.starts_with("# ours\n[[key]]\nname = \"a\"\n\n[[key]]\nname = \"ci\"\n"));
        assert_eq!(without(&both, 5), "# ours\n[[key]]\nname = \"a\"\n\n");
    }

    #[test]
    fn what_stands_around_a_key_stays() {
        let text = "# head\n\n# one\n[[key]]\nname = \"a\"\n# of a\nrole = \"b\"\n\n# two\n  [[key]]\nname = \"c\"\n";
        assert_eq!(
            without(text, 4),
            "# head\n\n# one\n# two\n  [[key]]\nname = \"c\"\n"
        );
        assert!(without(text, 10).ends_with("\n# two\n"));
        assert_eq!(without("[[key]]", 1), "");
        assert_eq!(without("", 1), "");
    }
}
