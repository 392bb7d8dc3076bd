//! Anchored globs over whole repository names.
//!
//! `*` is any run inside one path part, `**` crosses parts, `${user}` is the caller's name. A
//! matcher of our own because a general glob crate reads `?`, `[a-z]` and `{a,b}` too, which no
//! rule should need, and because `${user}` must stay literal whatever the name holds.

use std::fmt;

use super::RepoName;

/// What [`Pattern`] writes for the caller's name.
const USER: &str = "${user}";
/// Positions in a repository name: before each of its 255 bytes, and the end.
const POSITIONS: usize = 256;

/// An anchored glob over a whole repository name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    tokens: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `**`: any characters.
    Anything,
    /// These characters, never none.
    Literal(Box<str>),
    /// `**/` at the beginning of a part: any number of whole parts, also none.
    Parts,
    /// `*`: any characters but `/`.
    Run,
    /// `${user}`.
    User,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PatternError {
    /// What is wrong, and what to write instead.
    pub message: String,
    /// At which byte of the pattern.
    pub at: usize,
}

impl Pattern {
    /// Compiles a pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let tokens = tokenize(text)?;
        let pattern = Self {
            text: text.into(),
            tokens,
        };
        if pattern.is_literal() && RepoName::parse(text).is_none() {
            return Err(error(0, "no repository can have this name"));
        }
        Ok(pattern)
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns true if it is the name of one repository.
    pub fn is_literal(&self) -> bool {
        let literal = |token: &Token| matches!(token, Token::Literal(_));
        self.tokens.iter().all(literal)
    }

    /// A name that matches, for a caller with this user name; `None` where none is easily found.
    pub fn example(&self, user: Option<&str>) -> Option<RepoName> {
        let mut name = String::new();
        for token in &self.tokens {
            name.push_str(match token {
                Token::Anything | Token::Run => "app",
                Token::Literal(text) => text,
                Token::Parts => "app/",
                Token::User => user?,
            });
        }
        RepoName::parse(&name).filter(|name| self.matches(name, user))
    }

    /// Whether it can match anything for a caller with this user name: `${user}` needs one that can be
    /// a path part.
    pub fn is_for(&self, user: Option<&str>) -> bool {
        !self.tokens.contains(&Token::User) || user.is_some_and(is_path_part)
    }

    /// The whole path parts that every name that matches begins with, if there are any.
    pub fn fixed_parts(&self) -> Option<&str> {
        let Some(Token::Literal(head)) = self.tokens.first() else {
            return None;
        };
        if self.tokens.len() == 1 {
            return Some(head);
        }
        head.rsplit_once('/').map(|(parts, _)| parts)
    }

    /// The last path part of every name that matches, if the pattern has it and something before it.
    pub fn fixed_end(&self) -> Option<&str> {
        let [.., before, Token::Literal(tail)] = &*self.tokens else {
            return None;
        };
        match tail.rsplit_once('/') {
            Some((_, last)) => Some(last),
            None => (*before == Token::Parts).then_some(tail),
        }
    }

    /// Whether the whole name matches, for a caller with this user name. Takes time in proportion
    /// to the pattern's tokens times the name's length at worst, and no memory.
    pub fn matches(&self, name: &RepoName, user: Option<&str>) -> bool {
        let name = name.as_str();
        if !self.ends_fit(name) {
            return false;
        }
        // Which positions of the name the tokens so far can have led to.
        let mut reached = [false; POSITIONS];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        for token in &self.tokens {
            match token {
                Token::Anything => spread(&mut reached),
                Token::Literal(text) => reached = advance(&reached, name, text),
                Token::Parts => skip_parts(&mut reached, name),
                Token::Run => spread_in_part(&mut reached, name),
                Token::User => match user.filter(|user| is_path_part(user)) {
                    Some(user) => reached = advance(&reached, name, user),
                    None => return false,
                },
            }
        }
        reached.get(name.len()).copied().unwrap_or(false)
    }

    /// A quick look at the literal beginning and end, which sorts out nearly everything.
    fn ends_fit(&self, name: &str) -> bool {
        let fits = |token: Option<&Token>, test: fn(&str, &str) -> bool| match token {
            Some(Token::Literal(text)) => test(name, text),
            Some(Token::Anything | Token::Parts | Token::Run | Token::User) | None => true,
        };
        fits(self.tokens.first(), |name, text| name.starts_with(text))
            && fits(self.tokens.last(), |name, text| name.ends_with(text))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

type Reached = [bool; POSITIONS];

/// The byte before each position of a name.
fn before(name: &str) -> impl Iterator<Item = Option<u8>> {
    std::iter::once(None).chain(name.bytes().map(Some))
}

/// Over a literal.
fn advance(reached: &Reached, name: &str, text: &str) -> Reached {
    let mut next = [false; POSITIONS];
    let starts = name.as_bytes().windows(text.len()).zip(reached);
    for ((window, start), end) in starts.zip(next.iter_mut().skip(text.len())) {
        *end = *start && window == text.as_bytes();
    }
    next
}

/// Over any characters.
fn spread(reached: &mut Reached) {
    let mut on = false;
    for position in reached {
        on |= *position;
        *position = on;
    }
}

/// Over any characters but `/`.
fn spread_in_part(reached: &mut Reached, name: &str) {
    let mut on = false;
    for (position, before) in reached.iter_mut().zip(before(name)) {
        on = *position || (on && before != Some(b'/'));
        *position = on;
    }
}

/// Over whole parts with their `/`.
fn skip_parts(reached: &mut Reached, name: &str) {
    let mut seen = false;
    for (position, before) in reached.iter_mut().zip(before(name)) {
        let was = *position;
        *position = was || (seen && before == Some(b'/'));
        seen |= was;
    }
}

/// A user name may only stand for one part: `a/b` would reach into the repositories of others.
fn is_path_part(user: &str) -> bool {
    !user.contains('/') && RepoName::parse(user).is_some()
}

fn tokenize(text: &str) -> Result<Box<[Token]>, PatternError> {
    if text.is_empty() {
        return Err(error(0, "the pattern is empty; `**` matches everything"));
    }
    let mut tokens = Vec::new();
    let mut rest = text;
    let at = |rest: &str| text.len().saturating_sub(rest.len());
    while let Some(next) = rest.chars().next() {
        let part_begins = rest.len() == text.len()
            || text
                .as_bytes()
                .get(at(rest).saturating_sub(1))
                .is_some_and(|before| *before == b'/');
        let token = if rest.starts_with("***") {
            return Err(error(at(rest), "write `**` to cross path parts"));
        } else if let Some(after) = rest.strip_prefix("**/").filter(|_| part_begins) {
            rest = after;
            Token::Parts
        } else if let Some(after) = rest.strip_prefix("**") {
            rest = after;
            Token::Anything
        } else if let Some(after) = rest.strip_prefix('*') {
            rest = after;
            Token::Run
        } else if let Some(after) = rest.strip_prefix(USER) {
            rest = after;
            Token::User
        } else if is_name_char(next) {
            let end = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            rest = after;
            Token::Literal(literal.into())
        } else {
            return Err(error(at(rest), &explain_char(next)));
        };
        tokens.push(token);
    }
    empty_part(text).map_or(Ok(tokens.into()), Err)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '/')
}

fn explain_char(c: char) -> String {
    match c {
        '$' => format!("`{USER}` is the only variable a pattern knows"),
        '?' | '[' | ']' | '{' | '}' => {
            format!("`{c}` has no meaning here; patterns know `*`, `**` and `{USER}`")
        }
        c if c.is_uppercase() => "repository names have no upper-case letters".to_owned(),
        c => format!("no repository name holds {c:?}"),
    }
}

/// `/a`, `a/` and `a//b` match nothing at all, and are surely meant otherwise.
fn empty_part(text: &str) -> Option<PatternError> {
    if text.starts_with('/') {
        return Some(error(0, "repository names do not begin with `/`"));
    }
    let last = text.len().saturating_sub(1);
    if text.ends_with('/') {
        return Some(error(
            last,
            "no repository name ends in `/`; `/**` is everything below",
        ));
    }
    text.find("//")
        .map(|at| error(at, "repository names have no empty parts"))
}

fn error(at: usize, message: &str) -> PatternError {
    PatternError {
        message: message.to_owned(),
        at,
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, PatternError, USER};
    use crate::registry::RepoName;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str, user: Option<&str>) -> bool {
        let name = RepoName::parse(name).unwrap();
        Pattern::parse(pattern).unwrap().matches(&name, user)
    }

    #[test]
    fn patterns_match_what_the_reference_promises() {
        for (pattern, good, bad) in [
            (
                "a/b",
                &["a/b"][..],
                &["a", "b", "a/b/c", "a/bb", "aa/b"][..],
            ),
            ("**", &["a", "a/b/c"], &[]),
            ("*", &["a", "a-b"], &["a/b"]),
            (
                "team-a/**",
                &["team-a/x", "team-a/x/y"],
                &["team-a", "team-ab/x", "x/team-a/x"],
            ),
            ("team-a/*", &["team-a/x"], &["team-a", "team-a/x/y"]),
            (
                "**/prod",
                &["prod", "a/prod", "a/b/prod"],
                &["aprod", "a/prod/b", "a/xprod"],
            ),
            (
                "a/**/b",
                &["a/b", "a/x/b", "a/x/y/b"],
                &["ab", "a/xb", "b", "a/b/c"],
            ),
            ("team-**", &["team-a", "team-a/b/c"], &["team", "a/team-a"]),
            ("*/app", &["a/app"], &["app", "a/b/app"]),
            ("a*c/d", &["ac/d", "abc/d"], &["a/c/d", "abc/d/e"]),
            ("**b/c", &["b/c", "ab/c", "x/ab/c"], &["a/c"]),
            ("a**/b", &["a/b", "ax/b", "a/x/b"], &["ab"]),
            ("**/a/**", &["a/x", "b/a/x"], &["a", "b/a", "xa/b"]),
            ("*a*a*a*", &["aaa", "baba-xa"], &["aa"]),
        ] {
            for name in good {
                assert!(matches(pattern, name, None), "{pattern} {name}");
            }
            for name in bad {
                assert!(!matches(pattern, name, None), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn a_user_name_is_one_literal_part_or_matches_nothing() {
        assert!(matches("home/${user}/**", "home/bob/x", Some("bob")));
        assert!(matches("${user}", "bob", Some("bob")));
        assert!(matches("x-${user}-*", "x-bob-1", Some("bob")));
        assert!(!matches("home/${user}/**", "home/bob/x", Some("alice")));
        assert!(!matches("home/${user}/**", "home/bob/x", None));
        for sly in [
            "*",
            "**",
            "bob/x",
            "",
            ".",
            "b*",
            "Bob",
            "bob/../alice",
            "b-",
            "${user}",
        ] {
            for name in ["home/bob/x", "home/bob/x/y", "home/b-a/x"] {
                assert!(!matches("home/${user}/**", name, Some(sly)), "{sly} {name}");
                assert!(
                    !matches("home/${user}a/**", name, Some(sly)),
                    "{sly} {name}"
                );
            }
        }
    }

    #[test]
    fn what_can_match_nothing_is_refused_with_its_place() {
        for (text, at, words) in [
            ("", 0, "empty"),
            ("team-?/x", 5, "`?`"),
            ("team/[ab]", 5, "`[`"),
            ("{a,b}/c", 0, "`{`"),
            ("home/${name}/x", 5, "${user}"),
            ("home/$user", 5, "${user}"),
            ("a/***", 2, "`**`"),
            ("Team/x", 0, "upper-case"),
            ("/a", 0, "begin"),
            ("a/", 1, "`/**`"),
            ("a//b", 1, "empty parts"),
            ("a b", 1, "' '"),
            ("a:latest", 1, "':'"),
            ("a..b", 0, "no repository"),
            ("-a", 0, "no repository"),
            ("ä", 0, "'ä'"),
        ] {
            let PatternError { message, at: found } = Pattern::parse(text).unwrap_err();
            assert_eq!(found, at, "{text}: {message}");
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn parts_are_known_only_where_they_are_fixed() {
        for (text, parts, end) in [
            ("a", Some("a"), None),
            ("a/b", Some("a/b"), None),
            ("a/**", Some("a"), None),
            ("a/b/**", Some("a/b"), None),
            ("a/b*", Some("a"), None),
            ("a/b/**/c", Some("a/b"), Some("c")),
            ("a/b**", Some("a"), None),
            ("a/${user}", Some("a"), None),
            ("a/b/${user}/c", Some("a/b"), Some("c")),
            ("a*", None, None),
            ("a**/b", None, Some("b")),
            ("a${user}/b", None, Some("b")),
            ("*/b", None, Some("b")),
            ("*/b/c", None, Some("c")),
            ("**/b", None, Some("b")),
            ("**b", None, None),
            ("**/*b", None, None),
            ("${user}/b", None, Some("b")),
            ("${user}b", None, None),
        ] {
            let pattern = Pattern::parse(text).unwrap();
            assert_eq!(pattern.fixed_parts(), parts, "{text}");
            assert_eq!(pattern.fixed_end(), end, "{text}");
        }
    }

    #[test]
    fn an_example_matches_its_pattern() {
        for (pattern, example) in [
            ("**", Some("app")),
            ("team-a/**", Some("team-a/app")),
            ("**/prod", Some("app/prod")),
            ("a/**/b", Some("a/app/b")),
            ("team-*", Some("team-app")),
            ("home/${user}/*", Some("home/bob/app")),
            ("**.", None),
        ] {
            let found = Pattern::parse(pattern).unwrap().example(Some("bob"));
            assert_eq!(found.as_ref().map(RepoName::as_str), example, "{pattern}");
        }
        let mine = Pattern::parse("${user}").unwrap();
        assert_eq!(mine.example(None), None);
        assert_eq!(mine.example(Some("Bob")), None);
    }

    /// Tries everything, straight from the pattern's text.
    #[expect(
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        reason = "both texts are short and ASCII"
    )]
    fn slow(pattern: &str, whole: &str, from: usize, user: Option<&str>) -> bool {
        let text = &whole[from..];
        let at_part = from == 0 || whole[..from].ends_with('/');
        let to = |length: usize, rest: &str| slow(rest, whole, from + length, user);
        if pattern.is_empty() {
            text.is_empty()
        } else if let Some(rest) = pattern.strip_prefix(USER) {
            user.is_some_and(|user| text.starts_with(user) && to(user.len(), rest))
        } else if let Some(rest) = pattern.strip_prefix("**/")
            && at_part
        {
            to(0, rest) || text.match_indices('/').any(|(at, _)| to(at + 1, rest))
        } else if let Some(rest) = pattern.strip_prefix("**") {
            (0..=text.len()).any(|length| to(length, rest))
        } else if let Some(rest) = pattern.strip_prefix('*') {
            (0..=text.find('/').unwrap_or(text.len())).any(|length| to(length, rest))
        } else {
            text.starts_with(&pattern[..1]) && to(1, &pattern[1..])
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn matching_is_what_trying_everything_finds(
            pattern in "(([ab-]|\\*\\*?|/|\\$\\{user\\}){1,7}|(a|\\*\\*)(/([ab]|\\*|\\*\\*)){0,4})",
            name in "[ab](-?[ab]){0,2}(/[ab](-[ab]){0,1}){0,4}",
            user in proptest::option::of("[ab]{1,2}"),
        ) {
            if let Ok(compiled) = Pattern::parse(&pattern) {
                let name = RepoName::parse(&name).unwrap();
                let expected = slow(&pattern, name.as_str(), 0, user.as_deref());
                prop_assert_eq!(
                    compiled.matches(&name, user.as_deref()), expected, "{} {}", pattern, name
                );
                let begins = |parts| format!("{name}/").starts_with(&format!("{parts}/"));
                prop_assert!(!expected || compiled.fixed_parts().is_none_or(begins));
                let ends = |last| format!("/{name}").ends_with(&format!("/{last}"));
                prop_assert!(!expected || compiled.fixed_end().is_none_or(ends));
            }
        }

        #[test]
        fn no_text_panics(pattern in ".{0,20}", name in "[a-z]{1,4}(/[a-z]{1,4}){0,3}") {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                let _ = pattern.matches(&RepoName::parse(&name).unwrap(), Some(&name));
            }
        }
    }
}
