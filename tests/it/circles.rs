//! Whether the files of a room use each other in a circle, read from the sources. A name that one
//! module passes on (`pub use`) is followed to the file that it comes from.

use std::collections::{BTreeMap, BTreeSet};

use super::architecture::{code, everything, module, root};

type Path = Vec<String>;

/// The modules, each with its code.
struct Sources {
    code: BTreeMap<Path, String>,
    /// By module, the names that it passes on, and what they are there.
    passed_on: BTreeMap<Path, BTreeMap<String, Path>>,
}

impl Sources {
    fn new(code: BTreeMap<Path, String>) -> Self {
        let passed_on = code.iter().map(|(module, code)| {
            let public = imports(code).0.into_iter().filter(|(public, _)| *public);
            let names = public.filter_map(|(_, path)| Some((path.last()?.clone(), path)));
            (module.clone(), names.collect())
        });
        let passed_on = passed_on.collect();
        Self { code, passed_on }
    }

    /// What a module uses of its own room.
    fn uses(&self, module: &Path) -> BTreeSet<Path> {
        let (imports, rest) = imports(&self.code[module]);
        let private = imports.into_iter().filter(|(public, _)| !public);
        let paths = private.map(|(_, path)| path).chain(paths(&rest));
        let used = paths.filter_map(|path| self.file(&self.rooted(module, &path)?, 0));
        used.filter(|used| used != module && used[0] == module[0])
            .collect()
    }

    /// A path as it is written in a module, from the root; `None` for what is not ours.
    fn rooted(&self, module: &Path, path: &[String]) -> Option<Path> {
        let ups = path.iter().take_while(|part| *part == "super").count();
        let (base, rest) = match path.first()?.as_str() {
            "crate" | "portcullis" => (&[][..], &path[1..]),
            "self" => (&module[..], &path[1..]),
            "super" => (&module[..module.len().checked_sub(ups)?], &path[ups..]),
            name => {
                let child = [module, &[name.to_owned()][..]].concat();
                let passed_on = self.passed_on[module].contains_key(name);
                if !self.code.contains_key(&child) && !passed_on {
                    return None;
                }
                (&module[..], path)
            }
        };
        Some([base, rest].concat())
    }

    /// The module whose file defines what a path leads to.
    fn file(&self, path: &[String], steps: usize) -> Option<Path> {
        let known = |length: &usize| self.code.contains_key(&path[..*length]);
        let length = (1..=path.len()).take_while(known).last()?;
        let (found, rest) = path.split_at(length);
        let passed_on = rest.first().and_then(|name| {
            let found = found.to_vec();
            let from = self.passed_on[&found].get(name)?;
            self.rooted(&found, from)
        });
        match passed_on {
            Some(from) if steps < 8 => self.file(&[&from[..], &rest[1..]].concat(), steps + 1),
            Some(_) | None => Some(found.to_vec()),
        }
    }

    /// The modules that can be reached from themselves.
    fn in_circles(&self) -> BTreeSet<Path> {
        let uses: BTreeMap<_, _> = self.code.keys().map(|one| (one, self.uses(one))).collect();
        let is_in_circle = |module: &Path| {
            let mut seen = BTreeSet::new();
            let mut open = vec![module];
            while let Some(one) = open.pop() {
                open.extend(uses[one].iter().filter(|used| seen.insert(*used)));
            }
            seen.contains(module)
        };
        let modules = self.code.keys().filter(|module| is_in_circle(module));
        modules.cloned().collect()
    }
}

/// The paths of all `use`, each with whether it is public, and the code without them.
fn imports(code: &str) -> (Vec<(bool, Path)>, String) {
    let (mut imports, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let before = line.split("use ").next().unwrap_or_default().trim();
        let is_use = before.is_empty() || (before.starts_with("pub") && !before.contains(' '));
        if !is_use || !line.contains("use ") {
            rest += line;
            rest.push('\n');
            continue;
        }
        let mut text = line.split_once("use ").unwrap().1.to_owned();
        while !text.contains(';') {
            let Some(next) = lines.next() else { break };
            text += next;
        }
        let text = text.split(';').next().unwrap();
        imports.extend(
            expanded(text)
                .into_iter()
                .map(|path| (!before.is_empty(), path)),
        );
    }
    (imports, rest)
}

/// The paths of one `use`, whose groups stand in braces.
fn expanded(text: &str) -> Vec<Path> {
    let Some((before, group)) = text.split_once('{') else {
        let text = text.split(" as ").next().unwrap();
        let parts = text.split("::").map(|part| part.trim().to_owned());
        return vec![parts.filter(|part| part != "self").collect()];
    };
    let before: Path = before
        .split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let group = group.rsplit_once('}').unwrap().0;
    let mut depth = 0;
    let each = group.split(|c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    each.filter(|part| !part.trim().is_empty())
        .flat_map(expanded)
        .map(|path| [&before[..], &path[..]].concat())
        .collect()
}

/// The paths in code that stand at their place, like `super::x` or `child::x`.
fn paths(code: &str) -> Vec<Path> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let words = code.split(|c: char| !is_part(c));
    words
        .filter(|word| word.contains("::") && !word.starts_with(':'))
        .map(|word| {
            let parts = word.split("::").map(str::to_owned);
            parts.filter(|part| !part.is_empty()).collect()
        })
        .collect()
}

#[test]
fn files_of_a_room_use_each_other_in_no_circle() {
    let source = root().join("src");
    let mut files = Vec::new();
    everything(&source, &mut files);
    let mut all = BTreeMap::new();
    for path in files {
        let module = module(path.strip_prefix(&source).unwrap());
        let is_test = |part: &String| part == "fuzz" || part == "tests";
        if path.extension().is_some_and(|kind| kind == "rs") && !module.iter().any(is_test) {
            all.insert(module, code(&std::fs::read_to_string(&path).unwrap()));
        }
    }
    let found = Sources::new(all).in_circles();
    let found: Vec<_> = found.iter().map(|module| module.join("::")).collect();
    assert!(found.is_empty(), "in a circle: {found:?}");
}

#[test]
fn a_name_is_followed_to_its_file() {
    let sources = [
        ("a", "mod b;\nmod c;\npub use b::{X, deep::Y as Z};\n"),
        ("a::b", "use super::c::W;\nfn f() -> super::V {}\n"),
        ("a::b::deep", "pub struct Y;\n"),
        (
            "a::c",
            "use super::{\n    X,\n    b::{self},\n};\nuse std::fmt;\n",
        ),
        ("d", "use crate::a::X;\nuse self::e::E;\n"),
        ("d::e", "pub struct E;\n"),
    ];
    let path = |text: &str| -> Path { text.split("::").map(str::to_owned).collect() };
    let code = sources.map(|(module, code)| (path(module), code.to_owned()));
    let sources = Sources::new(code.into());
    let uses = |module: &str| -> Vec<_> {
        let used = sources.uses(&path(module));
        used.iter().map(|used| used.join("::")).collect()
    };
    assert_eq!(uses("a"), Vec::<String>::new());
    assert_eq!(uses("a::b"), ["a", "a::c"]);
    assert_eq!(uses("a::c"), ["a::b"]);
    assert_eq!(uses("d"), ["d::e"]);
    let circles: Vec<_> = sources.in_circles().into_iter().collect();
    assert_eq!(circles, [path("a::b"), path("a::c")]);
}
