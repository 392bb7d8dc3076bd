//! Scopes as clients ask for them: `repository:team/app:pull,push registry:catalog:*`.

use crate::identity::Grant;
use crate::registry::{Action, RepoName};

/// More entries in one token than any client asks for.
const MAX_SCOPES: usize = 64;

/// What one scope asks for, before the policy has had its say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To see the catalog.
    Catalog,
    /// To act on a repository; `*` has been written out.
    Repository {
        /// Its name.
        name: RepoName,
        /// How.
        actions: Vec<Action>,
    },
}

/// Reads all `scope` values of a request. Each may hold several scopes separated by spaces;
/// duplicates are merged, and what is not known here is left out, which is never an error.
pub fn parse_scopes<'a>(values: impl Iterator<Item = &'a str>) -> Vec<Asked> {
    let mut asked: Vec<Asked> = Vec::new();
    for scope in values.flat_map(str::split_ascii_whitespace) {
        match parse(scope) {
            Some(Asked::Catalog) if !asked.contains(&Asked::Catalog) => asked.push(Asked::Catalog),
            Some(Asked::Repository { name, actions }) => merge(&mut asked, name, actions),
            Some(Asked::Catalog) | None => {}
        }
        if asked.len() >= MAX_SCOPES {
            break;
        }
    }
    asked
}

/// The type ends at the first colon and the actions begin at the last one.
fn parse(scope: &str) -> Option<Asked> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    match kind {
        "registry" if name == "catalog" => Some(Asked::Catalog),
        "repository" | "repository(plugin)" => {
            let actions = actions
                .split(',')
                .flat_map(actions_named)
                .copied()
                .collect();
            Some(Asked::Repository {
                name: RepoName::parse(name)?,
                actions,
            })
        }
        _ => None,
    }
}

fn actions_named(word: &str) -> &'static [Action] {
    match word {
        "*" => &[Action::Pull, Action::Push, Action::Delete],
        "delete" => &[Action::Delete],
        "pull" => &[Action::Pull],
        "push" => &[Action::Push],
        _ => &[],
    }
}

fn merge(asked: &mut Vec<Asked>, name: RepoName, actions: Vec<Action>) {
    let known = asked.iter_mut().find_map(|seen| match seen {
        Asked::Repository {
            name: seen,
            actions,
        } if *seen == name => Some(actions),
        Asked::Catalog | Asked::Repository { .. } => None,
    });
    if let Some(known) = known {
        for action in actions {
            if !known.contains(&action) {
                known.push(action);
            }
        }
    } else {
        let mut unique: Vec<Action> = Vec::new();
        for action in actions {
            if !unique.contains(&action) {
                unique.push(action);
            }
        }
        asked.push(Asked::Repository {
            name,
            actions: unique,
        });
    }
}

/// Writes grants as a space-separated scope, for the OAuth2 answer.
pub(super) fn write_scope(grants: &[Grant]) -> String {
    let written = grants.iter().map(|grant| match grant {
        Grant::Catalog => "registry:catalog:*".to_owned(),
        Grant::Repository { name, actions } => {
            let words: Vec<_> = actions.iter().map(|action| action.as_str()).collect();
            format!("repository:{name}:{}", words.join(","))
        }
    });
    written.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{Asked, parse_scopes};
    use crate::registry::{Action, RepoName};
    use proptest::prelude::*;

    fn repository(name: &str, actions: &[Action]) -> Asked {
        Asked::Repository {
            name: RepoName::parse(name).unwrap(),
            actions: actions.to_vec(),
        }
    }

    #[test]
    fn the_scopes_that_real_clients_send() {
        use Action::{Delete, Pull, Push};
        for (values, expected) in [
            (
                vec!["repository:pub/img:pull"],
                vec![repository("pub/img", &[Pull])],
            ),
            (
                vec!["repository:a:push,pull"],
                vec![repository("a", &[Push, Pull])],
            ),
            // containerd, on a push
            (
                vec!["repository:x:pull repository:x:pull,push"],
                vec![repository("x", &[Pull, Push])],
            ),
            // docker, on a push with a mount
            (
                vec!["repository:x:pull,push", "repository:y:pull"],
                vec![repository("x", &[Pull, Push]), repository("y", &[Pull])],
            ),
            // skopeo, on a delete
            (
                vec!["repository:x:*"],
                vec![repository("x", &[Pull, Push, Delete])],
            ),
            (
                vec!["registry:catalog:*", "registry:catalog:*"],
                vec![Asked::Catalog],
            ),
            (
                vec!["repository(plugin):x:pull"],
                vec![repository("x", &[Pull])],
            ),
            (vec!["repository:x:fly"], vec![repository("x", &[])]),
            (
                vec![
                    "",
                    " ",
                    "repository:x",
                    "x:y:z",
                    "registry:other:*",
                    "repository:X:pull",
                ],
                vec![],
            ),
            (vec!["repository:host:5000/x:pull"], vec![]),
        ] {
            assert_eq!(parse_scopes(values.iter().copied()), expected, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn no_scope_panics_and_none_is_doubled(text in "[a-z:,* ()/]{0,60}") {
            let asked = parse_scopes([text.as_str()].into_iter());
            for (i, one) in asked.iter().enumerate() {
                prop_assert!(!asked.iter().skip(i).skip(1).any(|other| other == one));
            }
        }
    }
}
