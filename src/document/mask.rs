//! Takes secrets out of the text of a configuration, so that no message can quote one.
//!
//! Works on the text and not on what was parsed: a file that does not parse is quoted as well.

use crate::identity::KEY_PREFIX;

/// Stands for each byte taken out: byte offsets stay right, and the display can shorten a run.
pub(crate) const MASK: char = '\u{1}';

/// The text with passwords, the users and passwords of URLs, and robot keys taken out.
pub(crate) fn mask(text: &str) -> String {
    mask_robot_keys(&mask_userinfo(&mask_values(text)))
}

/// A key that was pasted where its digest belongs, or anywhere else.
fn mask_robot_keys(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once(KEY_PREFIX) {
        out.push_str(head);
        out.push_str(KEY_PREFIX);
        let end = tail.find(|c: char| !c.is_ascii_alphanumeric());
        let (secret, after) = tail.split_at(end.unwrap_or(tail.len()));
        cover(secret, &mut out);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn mask_values(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('=') {
        out.push_str(head);
        out.push('=');
        rest = tail;
        if is_secret(key_at_end(head)) {
            let value = rest.trim_start_matches([' ', '\t']);
            let (space, _) = rest.split_at(rest.len().saturating_sub(value.len()));
            let (secret, after) = value.split_at(value_length(value));
            out.push_str(space);
            if is_reference(secret) {
                out.push_str(secret);
            } else {
                cover(secret, &mut out);
            }
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

fn mask_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once("://") {
        out.push_str(head);
        out.push_str("://");
        let end = tail.find(|c: char| c.is_whitespace() || "/\"',".contains(c));
        let (authority, after) = tail.split_at(end.unwrap_or(tail.len()));
        match authority.rsplit_once('@') {
            Some((login, host)) => {
                cover(login, &mut out);
                out.push('@');
                out.push_str(host);
            }
            None => out.push_str(authority),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn cover(secret: &str, out: &mut String) {
    for c in secret.chars() {
        match c {
            '\n' => out.push('\n'),
            other => out.extend(std::iter::repeat_n(MASK, other.len_utf8())),
        }
    }
}

fn key_at_end(head: &str) -> &str {
    let key = head
        .rsplit(['\n', '{', ',', '[', '.'])
        .next()
        .unwrap_or(head);
    key.trim().trim_matches(['"', '\''])
}

/// Whether a key holds a secret, also when it is misspelt.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let near = |known| strsim::jaro_winkler(&key, known) > 0.85;
    !key.ends_with("_file")
        && (["pass", "pwd", "secret"]
            .iter()
            .any(|word| key.contains(word))
            || near("password")
            || near("bind_password"))
}

/// `"${env:NAME}"` names a secret and is none.
fn is_reference(value: &str) -> bool {
    let inner = value.trim_matches(['"', '\'']);
    let name = ["${env:", "${credential:"]
        .iter()
        .find_map(|prefix| inner.strip_prefix(prefix)?.strip_suffix('}'));
    name.is_some_and(|name| {
        name.chars()
            .all(|c| c.is_alphanumeric() || "_-.".contains(c))
    })
}

/// How long the value at the beginning is, with its quotes. In doubt to the end of the line.
fn value_length(value: &str) -> usize {
    for quotes in ["\"\"\"", "'''"] {
        if let Some(inner) = value.strip_prefix(quotes) {
            let end = inner.find(quotes).map(|at| at.saturating_add(6));
            return end.unwrap_or(value.len()).min(value.len());
        }
    }
    let line = value.find('\n').unwrap_or(value.len());
    let end = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => closing(value, quote),
        Some(_) | None => None,
    };
    match end {
        Some(end) if nothing_odd_follows(value, end, line) => end,
        Some(_) | None => line,
    }
}

/// Where the string that begins here ends.
fn closing(value: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in value.char_indices().skip(1) {
        match c {
            '\n' => return None,
            _ if escaped => escaped = false,
            '\\' if quote == '"' => escaped = true,
            c if c == quote => return Some(at.saturating_add(1)),
            _ => {}
        }
    }
    None
}

fn nothing_odd_follows(value: &str, end: usize, line: usize) -> bool {
    let after = value.get(end..line).unwrap_or_default().trim_start();
    after.is_empty() || after.starts_with([',', '}', '#'])
}

#[cfg(test)]
mod tests {
    use super::{MASK, mask};
    use proptest::prelude::*;

    #[test]
    fn no_form_of_a_password_is_left() {
        for text in [
            "password = \"hunter2\"",
            "password=\"hunter2\" # hm",
            "password = 'hunter2'",
            "password = \"hun\"hunter2\"",
            "password = \"hunter2",
            "password = hunter2",
            "password = \"\"\"\nhunter2\n\"\"\"",
            "password = '''hunter2",
            "pasword = \"hunter2\"",
            "pass = \"hunter2\"",
            "Password = \"hunter2\"",
            "\"password\" = \"hunter2\"",
            "bind_password = \"a\\\"hunter2\"",
            "bind_pasword = \"hunter2\"",
            "upstream = { url = \"x\", password = \"hunter2\", username = \"y\" }",
            "upstream.password = \"hunter2\"",
            "client_secret = \"hunter2\"",
            "url = \"http://bob:hunter2@registry:5000/x\"",
            "url = \"http://bob:x@hunter2@registry\"",
        ] {
            let masked = mask(text);
            assert!(!masked.contains("hunter2"), "{text} {masked}");
            assert_eq!(masked.len(), text.len(), "{text}");
        }
    }

    #[test]
    fn everything_else_is_left() {
        for text in [
            "password_file = \"ldap.password\"",
            "password = \"${env:REGISTRY_PASSWORD}\"",
            "bind_password = '${credential:ldap}'",
            "url = \"http://127.0.0.1:5000\"",
            "user_filter = \"(uid={username})\"\n[auth.htpasswd]\nfile = \"htpasswd\"",
            "path = \"x\"",
        ] {
            assert_eq!(mask(text), text);
        }
        let masked = mask("upstream = { password = \"x\", username = \"y\" } # z");
        assert!(masked.ends_with(", username = \"y\" } # z"), "{masked}");
    }

    proptest! {
        #[test]
        fn places_stay_where_they_are(text in "([a-z =\"'\n{},#@:/\\\\é]|password *= *){0,40}") {
            let masked = mask(&text);
            prop_assert_eq!(masked.len(), text.len());
            prop_assert_eq!(masked.matches('\n').count(), text.matches('\n').count());
            for ((at, found), original) in masked.char_indices().filter_map(|(at, c)| {
                Some(((at, c), text.get(at..)?.chars().next()?))
            }) {
                prop_assert!(found == original || found == MASK, "{} {}", at, found);
            }
        }
    }
}
