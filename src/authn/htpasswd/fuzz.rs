//! Fuzz targets: htpasswd files.

use std::collections::BTreeSet;
use std::path::Path;

use super::hash::{Effort, Hash};
use super::line::{is_comment, lines, split_bom, split_end};
use super::{Users, check_user, removed, replaced};
use crate::authn::Rejection;
use crate::identity::Password;

const NEW: &str = "{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=";

/// The text of a file: a line that cannot be read costs nobody but its own user the login, what is
/// said of it quotes no hash, and a change to one user leaves every other line as it is.
pub(crate) fn htpasswd(bytes: &[u8]) {
    let file = Path::new("users");
    let found: Vec<_> = lines(bytes).collect();
    let broken = match Users::salvage(bytes, file) {
        Err(errors) => {
            assert!(!errors.is_empty());
            errors
        }
        Ok((users, _, errors)) => {
            assert_eq!(Users::parse(bytes, file).is_ok(), errors.is_empty());
            let good: BTreeSet<_> = users.names().collect();
            assert_eq!(good.len(), users.len());
            // Each of them is whoever the first of their lines says, as if it stood alone.
            for line in &found {
                let (Some(user), Some(hash)) = (line.user, line.hash) else {
                    continue;
                };
                let first = found.iter().find(|line| line.user == Some(user));
                if first.is_some_and(|first| first.number == line.number) {
                    let alone = format!("{user}:{hash}\n");
                    let alone = Users::parse(alone.as_bytes(), file)
                        .is_ok_and(|(users, _)| users.fingerprint(user).is_some());
                    assert_eq!(good.contains(user), alone, "{user:?}");
                }
            }
            let guess = Password::new("guess");
            if users.len() <= 4 && found.iter().all(|line| line.hash.is_none_or(is_cheap)) {
                let names = users.names().chain(["nobody at all"]);
                for user in names {
                    let judged = guess.as_ref().map(|guess| users.verify(user, guess));
                    assert!(judged.is_ok_and(|judged| judged != Err(Rejection::PasswordTooLong)));
                }
            }
            errors
        }
    };
    for error in &broken {
        let line = found.iter().find(|line| line.number == error.line);
        let hash = line.and_then(|line| line.hash).unwrap_or_default();
        let user = line.and_then(|line| line.user).unwrap_or_default();
        let said = format!("{error} {error:?}");
        // A user may be called what the hash is.
        let escaped = user.escape_debug().to_string();
        let said = said.replace(&escaped, "").replace(user, "");
        assert!(
            hash.len() < 24 || user.contains(hash.trim()) || !said.contains(hash),
            "{said}"
        );
        assert!(error.column >= 1);
    }
    // A byte order mark further down would become that of the file when what is before it goes away.
    let marks = String::from_utf8_lossy(bytes).matches('\u{feff}').count();
    if marks > usize::from(!split_bom(bytes).0.is_empty()) {
        return;
    }
    for line in found.iter().take(3) {
        if let Some(user) = line.user.filter(|user| check_user(user).is_ok()) {
            edited(bytes, user);
        }
    }
}

/// Hashing anything else takes the fuzzer too long.
fn is_cheap(hash: &str) -> bool {
    Hash::parse(hash).map_or(true, |hash| hash.effort() <= Effort::Apr1)
}

fn edited(text: &[u8], user: &str) {
    let (new, had) = replaced(text, user, NEW);
    assert_eq!((own(text, user).len(), own(&new, user).len()), (had, 1));
    assert_eq!(others(&new, user), others(text, user));
    let (gone, had) = removed(text, user);
    assert_eq!((own(text, user).len(), own(&gone, user).len()), (had, 0));
    assert_eq!(others(&gone, user), others(text, user));
}

/// The lines of a file with their numbers, without their ends.
fn bodies(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let text = split_bom(text).1.split_inclusive(|byte| *byte == b'\n');
    (1..).zip(text.map(|line| split_end(line).0))
}

fn is_of(body: &[u8], user: &str) -> bool {
    !is_comment(body) && body.starts_with(format!("{user}:").as_bytes())
}

/// The user's lines and their numbers, also those that cannot be read.
fn own<'a>(text: &'a [u8], user: &str) -> Vec<(usize, &'a [u8])> {
    bodies(text).filter(|(_, body)| is_of(body, user)).collect()
}

/// All other lines that are not empty.
fn others<'a>(text: &'a [u8], user: &str) -> Vec<&'a [u8]> {
    let others = bodies(text).filter(|(_, body)| !body.is_empty() && !is_of(body, user));
    others.map(|(_, body)| body).collect()
}
