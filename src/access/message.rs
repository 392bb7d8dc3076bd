//! What refusals tell people: who, what and where.

use crate::identity::Subject;
use crate::registry::{Action, RepoName};
use crate::request::Authority;

/// Characters of a user's name that are shown at most.
const LONGEST_NAME: usize = 100;

/// `alice may not push to public/app`. The same whether or not there is such a repository.
pub(super) fn may_not(subject: &Subject, action: Action, repository: Option<&RepoName>) -> String {
    let (user, deed) = (subject.as_str().unwrap_or("nobody"), deed(action));
    match repository {
        Some(repository) => format!("{} may not {deed} {repository}", shown(user)),
        None => format!("{} may not {deed} this registry", shown(user)),
    }
}

/// `robo may not move team-a/app:v1, which exists; choose another tag`
pub(super) fn may_not_move(subject: &Subject, place: &str) -> String {
    let user = shown(subject.as_str().unwrap_or("nobody"));
    format!("{user} may not move {place}, which exists; choose another tag")
}

/// `log in: docker login registry.example.com`
pub(super) fn log_in(authority: Option<&Authority>) -> String {
    match authority {
        Some(authority) => format!("log in: docker login {}", authority.as_str()),
        None => "log in".to_owned(),
    }
}

/// `alice may not push to public/app without a password; log in: ...`
pub(super) fn password_missing(may_not: &str, authority: Option<&Authority>) -> String {
    format!("{may_not} without a password; {}", log_in(authority))
}

fn deed(action: Action) -> &'static str {
    match action {
        Action::Catalog => "list all of",
        Action::Delete => "delete from",
        Action::Overwrite => "overwrite tags in",
        Action::Pull => "pull from",
        Action::Push => "push to",
    }
}

/// A name that a client may print: no character of it can end a line, colour a terminal or turn the
/// text around, and a long one is cut.
fn shown(name: &str) -> String {
    let mut text: String = name
        .chars()
        .take(LONGEST_NAME)
        .map(|letter| {
            if letter.is_alphanumeric() || letter.is_ascii_graphic() || letter == ' ' {
                letter
            } else {
                char::REPLACEMENT_CHARACTER
            }
        })
        .collect();
    if name.chars().nth(LONGEST_NAME).is_some() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_NAME, may_not, may_not_move, shown};
    use crate::identity::Subject;
    use crate::registry::{Action, RepoName};

    #[test]
    fn a_denial_names_who_what_and_where() {
        let told = |action, repository: Option<&str>| {
            let repository = repository.and_then(RepoName::parse);
            may_not(
                &Subject::read("alice").unwrap(),
                action,
                repository.as_ref(),
            )
        };
        assert_eq!(
            told(Action::Push, Some("public/app")),
            "alice may not push to public/app"
        );
        assert_eq!(
            told(Action::Pull, Some("public/app")),
            "alice may not pull from public/app"
        );
        assert_eq!(
            told(Action::Delete, None),
            "alice may not delete from this registry"
        );
    }

    #[test]
    fn a_tag_that_exists_is_named() {
        assert_eq!(
            may_not_move(&Subject::read("robo").unwrap(), "team-a/app:v1"),
            "robo may not move team-a/app:v1, which exists; choose another tag"
        );
    }

    #[test]
    fn a_name_is_shown_as_text_and_nothing_else() {
        for (name, seen) in [
            ("alice", "alice"),
            ("spiffe://example.com/ci", "spiffe://example.com/ci"),
            ("Bj\u{f6}rn J", "Bj\u{f6}rn J"),
            ("CORP\\jdoe\"", "CORP\\jdoe\""),
            ("a\u{1b}[31m\r\nb", "a\u{fffd}[31m\u{fffd}\u{fffd}b"),
            ("a\u{202e}b\u{200b}", "a\u{fffd}b\u{fffd}"),
        ] {
            assert_eq!(shown(name), seen);
        }
        let long = shown(&"x".repeat(10_000));
        assert_eq!(long.len(), LONGEST_NAME + 3);
    }
}
