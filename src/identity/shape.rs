//! What is shaped like a secret: seen where a user name belongs, it was typed into the wrong field, and
//! is written nowhere. A password cannot be told from a name; keys, tokens and hashes can.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::letters::{compatible, is_invisible};

use crate::hash::{hex, sha256};

/// What a robot key begins with, so that people and scanners of repositories know it.
pub const KEY_PREFIX: &str = "pcl_";
/// The shortest text after the prefix that is taken for a key, if mistyped, and not for a password.
pub const SHORTEST_KEY: usize = 20;

/// The shortest user and password, with their colon, that a whole text is taken for in base64.
const SHORTEST_LOGIN: usize = 6;
/// The shortest within a text, where names happen to decode to something more often.
const LONG_LOGIN: usize = 12;

/// What well-known tokens begin with; at least [`SHORTEST_KEY`] letters follow, or `_`, `-`, `.`.
const TOKENS: [&str; 17] = [
    KEY_PREFIX,
    "dckr_oat_",
    "dckr_pat_",
    "gho_",
    "ghp_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "gldt-",
    "glpat-",
    "hf_",
    "hvs.",
    "npm_",
    "xoxb-",
    "xoxp-",
    "ya29.",
];
/// What hashes of passwords and private keys begin with, in lower case.
const BEGINNINGS: [&str; 8] = [
    "$2a$",
    "$2b$",
    "$2y$",
    "$5$",
    "$6$",
    "$apr1$",
    "{sha}",
    "-----begin",
];

/// Whether a text is a secret, or has one in it, whatever stands between or around.
pub fn resembles_secret(text: &str) -> bool {
    if is_plain(text) {
        return false;
    }
    let kept = |c: &char| !c.is_whitespace() && !c.is_control() && !is_invisible(*c);
    let text: String = if text.is_ascii() {
        text.chars().filter(kept).collect()
    } else {
        compatible(text).chars().filter(kept).collect()
    };
    let lower = text.to_ascii_lowercase();
    TOKENS.iter().any(|prefix| has_token(&lower, prefix))
        || BEGINNINGS.iter().any(|beginning| lower.contains(beginning))
        || has_jwt(&text)
        || has_login(&text)
}

/// Whether a text is too short for a token, and has no letter that all other secrets have: so most
/// names and tags, of every request, are seen to be none at a glance.
fn is_plain(text: &str) -> bool {
    let has_no_mark = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase() && byte != b'$';
    text.len() < SHORTEST_KEY && text.bytes().all(has_no_mark)
}

/// A part of a request as records tell of it. What is shaped like a secret was typed into the wrong
/// place, or is meant to hide there: enough of its SHA-256 is told to know it by, and not more.
pub fn recorded(text: &str) -> Cow<'_, str> {
    if !resembles_secret(text) {
        return text.into();
    }
    let [first, second, ..] = sha256(text.as_bytes());
    format!("****{}", hex(&[first, second])).into()
}

fn has_token(lower: &str, prefix: &str) -> bool {
    lower.match_indices(prefix).any(|(at, _)| {
        let rest = lower.get(at..).and_then(|rest| rest.strip_prefix(prefix));
        let letters = rest.map(|rest| rest.bytes().take_while(u8::is_ascii_alphanumeric).count());
        letters.is_some_and(|letters| letters >= SHORTEST_KEY)
    })
}

/// A JSON object in base64url, and a dot: the beginning of every JWT (RFC 7519 section 3).
fn has_jwt(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices("eyJ").any(|(at, _)| {
        let rest = text.get(at..).unwrap_or_default();
        let end = rest.find(|c| !legal(c)).unwrap_or(rest.len());
        let tail = rest.get(end..).unwrap_or_default();
        let after = tail
            .strip_prefix('.')
            .map(|tail| tail.chars().take_while(|c| legal(*c)));
        // A part of a token too long for a name has no dot.
        (end >= 12 && after.is_some_and(|after| after.count() >= 4)) || end >= 60
    })
}

/// User and password in base64, as docker stores them: the whole text, or a longer run in it.
fn has_login(text: &str) -> bool {
    let encoded = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    // A name in small letters is a name.
    text.bytes().any(|byte| byte.is_ascii_uppercase())
        && (STANDARD
            .decode(text)
            .is_ok_and(|plain| is_login(&plain, SHORTEST_LOGIN))
            || text
                .split(|c| !encoded(c))
                .any(|run| (0..4).any(|at| run.get(at..).is_some_and(holds_login))))
}

/// Whether base64 whose end may be missing, and before which anything may stand, says a login.
fn holds_login(run: &str) -> bool {
    let plain = run
        .get(..run.len() & !3)
        .and_then(|run| STANDARD_NO_PAD.decode(run).ok());
    plain.is_some_and(|plain| {
        plain
            .split(|byte| !is_printable(*byte))
            .any(|plain| is_login(plain, LONG_LOGIN))
    })
}

fn is_login(plain: &[u8], shortest: usize) -> bool {
    plain.len() >= shortest && plain.contains(&b':') && plain.iter().copied().all(is_printable)
}

fn is_printable(byte: u8) -> bool {
    byte.is_ascii_graphic() || byte == b' '
}

#[cfg(test)]
mod tests {
    use super::{recorded, resembles_secret};

    #[test]
    fn keys_tokens_and_hashes_are_seen_wherever_they_stand() {
        let key = "pcl_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789xyz";
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
        let (begun, rest) = key.split_at(12);
        for text in [
            key,
            token,
            &format!(" {key}\t"),
            &format!("key={key};"),
            &format!("user {key} again"),
            &format!("\u{200b}{begun}\u{a0}{rest}"),
            &key.replace('_', "\u{ff3f}"),
            &key.to_uppercase(),
            key.split_at(24).0,
            &format!("Bearer {token}"),
            token.split_at(30).0,
            &token.replace('.', " . "),
            &format!("eyJ{}", "a".repeat(100)),
            "ghp_0123456789012345678901234567890123456789",
            "$2y$10$9WH9kMhhiWFXKVxZ0wvriO51bI.LwHbpPN4YMYLPt7VxpHmfEH7Gq",
            ";ke/m$2Y$ests/",
            "{Sha}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "YWxpY2U6c2VjcmV0",
            "YWxpY2U6czM=",
            "Bearer YWxpY2U6c2VjcmV0",
            "token=YWxpY2U6czNjcmV0LXB3",
            "xYWxpY2U6c2VjcmV0",
            "\"YWxpY2U6czNjcmV0LXB3LXg=\"",
        ] {
            assert!(resembles_secret(text), "{text:?}");
        }
    }

    #[test]
    fn a_record_tells_secrets_apart_without_telling_them() {
        assert_eq!(recorded("v1.2.3"), "v1.2.3");
        let (one, other) = (format!("pcl_{:030}", 1), format!("pcl_{:030}", 2));
        assert_ne!(recorded(&one), recorded(&other));
        assert_eq!(recorded(&one), recorded(&one));
        for secret in [one, other] {
            let told = recorded(&secret);
            assert!(told.starts_with("****") && told.len() == 8, "{told}");
        }
    }

    #[test]
    fn names_are_none() {
        for text in [
            "alice",
            "pcl_bot",
            "pcl_",
            "eyJack",
            "eyJ.b",
            "j.doe@example.com",
            "CORP\\jdoe",
            "spiffe://example.org/ns/ci/sa/builder",
            "hunter2",
            "x509-0123456789abcdef0123456789abcdef",
            "YWxpY2U=",
            "0123456789abcdef",
            "ajpaajpa",
            "CN=Example-Builder/OU=Engineering",
            "firstname.lastname@subsidiary.example.com",
            "müller",
        ] {
            assert!(!resembles_secret(text), "{text:?}");
        }
    }
}
