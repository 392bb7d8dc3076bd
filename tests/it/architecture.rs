//! Which room uses which, read from the sources; and words that have no place in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// All rooms (the top-level modules, and `main`), each with the rooms that it names. The list is
/// exact: a new arrow is added here, where a reviewer sees it, and one that is gone is removed.
const USES: &[(&str, &[&str])] = &[
    // words
    ("whole_file", &[]),
    ("hash", &[]),
    ("registry", &["hash"]),
    ("identity", &["hash", "registry"]),
    ("trace", &[]),
    ("policy", &["identity", "limit", "registry"]),
    ("limit", &["identity"]),
    ("document", &["identity", "policy", "registry"]),
    ("token", &["hash", "identity", "registry"]),
    // the outside
    (
        "authn",
        &[
            "document",
            "hash",
            "identity",
            "limit",
            "policy",
            "telemetry",
            "tls",
            "whole_file",
        ],
    ),
    ("tls", &["hash", "identity", "whole_file"]),
    (
        "upstream",
        &[
            "identity",
            "policy",
            "registry",
            "telemetry",
            "tls",
            "trace",
        ],
    ),
    ("store", &["audit", "identity", "limit", "tls"]),
    (
        "audit",
        &["hash", "identity", "limit", "registry", "tls", "trace"],
    ),
    // the life of a request
    ("request", &["identity", "registry", "state", "trace"]),
    (
        "state",
        &[
            "audit", "authn", "identity", "limit", "policy", "store", "tls", "token", "upstream",
        ],
    ),
    (
        "access",
        &[
            "audit",
            "authn",
            "identity",
            "limit",
            "policy",
            "registry",
            "request",
            "state",
            "store",
            "telemetry",
            "token",
            "upstream",
        ],
    ),
    (
        "proxy",
        &[
            "access",
            "audit",
            "identity",
            "limit",
            "policy",
            "registry",
            "request",
            "state",
            "store",
            "telemetry",
            "trace",
            "upstream",
        ],
    ),
    (
        "transport",
        &["identity", "limit", "proxy", "request", "telemetry", "tls"],
    ),
    // running it
    (
        "config",
        &[
            "admin",
            "audit",
            "authn",
            "document",
            "identity",
            "limit",
            "policy",
            "registry",
            "store",
            "telemetry",
            "tls",
            "token",
            "transport",
            "upstream",
            "whole_file",
        ],
    ),
    (
        "reload",
        &[
            "admin",
            "audit",
            "authn",
            "config",
            "identity",
            "limit",
            "policy",
            "proxy",
            "state",
            "store",
            "telemetry",
            "tls",
            "token",
            "transport",
            "upstream",
            "whole_file",
        ],
    ),
    ("supervisor", &[]),
    ("page", &["hash"]),
    (
        "admin",
        &[
            "audit",
            "authn",
            "hash",
            "limit",
            "page",
            "policy",
            "proxy",
            "state",
            "tls",
            "transport",
        ],
    ),
    ("telemetry", &[]),
    ("spans", &["audit", "telemetry"]),
    (
        "report",
        &[
            "audit", "authn", "document", "identity", "page", "policy", "registry", "tls",
        ],
    ),
    (
        "cli",
        &[
            "access",
            "admin",
            "audit",
            "authn",
            "config",
            "hash",
            "identity",
            "policy",
            "proxy",
            "registry",
            "reload",
            "report",
            "spans",
            "state",
            "store",
            "supervisor",
            "telemetry",
            "tls",
            "token",
            "transport",
            "upstream",
            "whole_file",
        ],
    ),
    ("main", &[]),
];

/// The arrows between rooms, each with a file that it starts from.
fn arrows() -> BTreeMap<(String, String), PathBuf> {
    let source = root().join("src");
    let mut files = Vec::new();
    everything(&source, &mut files);
    let mut arrows = BTreeMap::new();
    for path in files {
        let inside = path.strip_prefix(&source).unwrap();
        let module = module(inside);
        // lib.rs declares the rooms and uses none; what fuzzers call is test code.
        let is_test = |part: &String| part == "fuzz" || part == "tests";
        if path.extension().is_none_or(|kind| kind != "rs")
            || module == ["lib"]
            || module.iter().any(is_test)
        {
            continue;
        }
        for name in used(
            &code(&std::fs::read_to_string(&path).unwrap()),
            module.len(),
        ) {
            if name != module[0] {
                arrows.insert((module[0].clone(), name), inside.to_owned());
            }
        }
    }
    arrows
}

/// The path of a file's module: `audit/record/mod.rs` is `audit::record`.
pub(super) fn module(inside: &Path) -> Vec<String> {
    let inside = inside.with_extension("");
    let mut parts: Vec<_> = inside
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// The code without comments and without what is compiled for tests alone.
pub(super) fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() == "#[cfg(test)]" {
            let item = lines.next().unwrap_or_default();
            if item.starts_with("mod tests") {
                break;
            }
            // rustfmt closes an item where it has opened it.
            let end = line.replace("#[cfg(test)]", "}");
            if !item.ends_with(';') {
                lines.by_ref().find(|line| line.starts_with(&end));
            }
            continue;
        }
        code += line.split("//").next().unwrap_or_default();
        code.push('\n');
    }
    code
}

/// The rooms that a file names, `depth` modules below the root: by `crate::` or, in the binary,
/// `portcullis::`, and by as many `super::` as lead up to the root.
fn used(code: &str, depth: usize) -> BTreeSet<String> {
    let up = "super::".repeat(depth);
    let mut names = BTreeSet::new();
    for root in ["crate::", "portcullis::", &up] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
                names.extend(first_names(&code[at + root.len()..]));
            }
        }
    }
    names
}

/// The first name of a path, or of each path of a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        let is_part = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
        text.chars().take_while(is_part).collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![word(path)];
    };
    let mut names = Vec::new();
    let (mut depth, mut start) = (0, true);
    for (at, c) in group.char_indices() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => start = true,
            c if start && !c.is_whitespace() => {
                names.push(word(&group[at..]));
                start = false;
            }
            _ => {}
        }
    }
    names
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn rooms_use_the_rooms_that_are_listed() {
    let found = arrows();
    let listed: BTreeSet<(String, String)> = USES
        .iter()
        .flat_map(|(room, used)| used.iter().map(|used| ((*room).into(), (*used).into())))
        .collect();
    let new = found.iter().filter(|(arrow, _)| !listed.contains(*arrow));
    let mut wrong: Vec<_> = new
        .map(|((from, to), file)| format!("new: {from} uses {to} ({})", file.display()))
        .collect();
    let gone = listed.iter().filter(|arrow| !found.contains_key(*arrow));
    wrong.extend(gone.map(|(from, to)| format!("gone: {from} uses {to}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    let lib = code(&std::fs::read_to_string(root().join("src/lib.rs")).unwrap());
    let declared = lib
        .split("pub mod ")
        .skip(1)
        .filter_map(|rest| rest.split(';').next());
    let declared: BTreeSet<_> = declared
        .chain(["main", "cli"])
        .filter(|room| *room != "fuzz")
        .collect();
    let rooms: BTreeSet<_> = USES.iter().map(|(room, _)| *room).collect();
    assert_eq!(rooms, declared);
}

#[test]
fn rooms_use_each_other_in_no_circle() {
    let found = arrows();
    let reaches = |from: &str, to: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(room) = open.pop() {
            for (a, b) in found.keys() {
                if *a == room && seen.insert(b.clone()) {
                    open.push(b.clone());
                }
            }
        }
        seen.contains(to)
    };
    for (room, _) in USES {
        assert!(!reaches(room, room), "{room} is in a circle");
    }
}

#[test]
fn names_are_read_from_code_alone() {
    let text = "use crate::{a::{b, c}, d, e::f}; // crate::x\n\
                #[cfg(test)]\nmod only {\n    use crate::y;\n}\n\
                use crate::g::h; pub(crate) fn x() { crate::i() }\n\
                use super::super::j; use super::k; use mycrate::l;\n\
                #[cfg(test)]\nmod tests {\n    use crate::z;\n}\n";
    let names: Vec<_> = used(&code(text), 2).into_iter().collect();
    assert_eq!(names, ["a", "d", "e", "g", "i", "j"]);
}

#[test]
fn the_repository_names_nothing_outside_of_itself() {
    let mut files = Vec::new();
    for folder in [
        "src", "tests", "bench", "certs", "conf", "docker", "scripts",
    ] {
        let folder = root().join(folder);
        if folder.is_dir() {
            everything(&folder, &mut files);
        }
    }
    for name in [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "Makefile",
        "deny.toml",
    ] {
        files.push(root().join(name));
    }
    // Written so that this file does not find itself.
    let forbidden = [["../", "shared"].concat(), ["/wo", "rk/"].concat()];
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        for word in &forbidden {
            assert!(!text.contains(word), "{word} in {}", path.display());
        }
    }
}

pub(super) fn everything(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name == "target") {
            continue;
        }
        if path.is_dir() {
            everything(&path, into);
        } else {
            into.push(path);
        }
    }
}
