//! Who may use whom, read from the sources; and words that have no place in them.

use std::path::{Path, PathBuf};

/// What each top-level module may name by `crate::`. What is not listed may use nothing.
const MAY_USE: &[(&str, &[&str])] = &[
    // words
    ("registry", &[]),
    ("identity", &["registry"]),
    ("trace", &[]),
    // judgement
    ("policy", &["identity", "registry", "limit"]),
    ("limit", &["identity"]),
    ("page", &[]),
    ("whole_file", &[]),
    ("token", &["identity", "registry", "policy"]),
    // the outside; `config` lends them the values of their section
    (
        "authn",
        &["identity", "token", "limit", "config", "whole_file", "tls"],
    ),
    ("tls", &["identity", "whole_file"]),
    (
        "upstream",
        &["policy", "registry", "tls", "identity", "trace", "config"],
    ),
    (
        "audit",
        &["identity", "registry", "policy", "limit", "trace", "config"],
    ),
    ("store", &["identity", "limit", "audit", "config"]),
    (
        "state",
        &[
            "audit", "authn", "policy", "limit", "store", "token", "identity", "upstream", "tls",
            "config",
        ],
    ),
    // the life of a request
    ("request", &["registry"]),
    (
        "access",
        &[
            "request", "state", "authn", "policy", "limit", "store", "token", "audit", "identity",
            "registry", "upstream", "config",
        ],
    ),
    (
        "proxy",
        &[
            "request", "state", "access", "upstream", "audit", "identity", "registry", "policy",
            "limit", "trace", "config",
        ],
    ),
    (
        "transport",
        &["request", "proxy", "tls", "identity", "limit"],
    ),
    // running it
    ("supervisor", &[]),
    ("spans", &["audit", "config"]),
    (
        "config",
        &[
            "policy",
            "limit",
            "authn",
            "tls",
            "identity",
            "registry",
            "token",
            "audit",
            "upstream",
            "transport",
            "whole_file",
        ],
    ),
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            into.push(path);
        }
    }
}

/// The code before the tests, without comments.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let uncommented = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    code.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

/// The first names behind each `crate::`, also of a group in braces.
fn used(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect()
        };
        match rest.strip_prefix('{') {
            None => names.push(word(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut start = true;
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
            }
        }
    }
    names
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn modules_use_only_those_below_them() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut broken = Vec::new();
    for path in files {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let module = inside
            .iter()
            .next()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs");
        // What fuzzers call is test code, of the module that it stands in.
        if inside.file_stem().is_some_and(|name| name == "fuzz") {
            continue;
        }
        // What runs the house may use every room of it.
        if matches!(
            module,
            "main" | "lib" | "cli" | "reload" | "admin" | "telemetry"
        ) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{module} is not in the table"));
            continue;
        };
        for name in used(&code(&path)) {
            if name != module && !allowed.contains(&name.as_str()) {
                broken.push(format!("{} uses {name}", inside.display()));
            }
        }
    }
    broken.sort();
    broken.dedup();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn nothing_uses_the_command_line() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    for path in files {
        if path.components().any(|part| part.as_os_str() == "cli") {
            continue;
        }
        let names = used(&code(&path));
        assert!(
            !names.iter().any(|name| name == "cli"),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_group_in_braces_is_read_by_its_first_names() {
    let code =
        "use crate::{a::{b, c}, d, e::f};\nuse crate::g::h; pub(crate) fn x() { crate::i() }";
    assert_eq!(used(code), ["a", "d", "e", "g", "i"]);
}

#[test]
fn the_repository_names_nothing_outside_of_itself() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "bench", "conf", "docker", "scripts"] {
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

fn everything(folder: &Path, into: &mut Vec<PathBuf>) {
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
