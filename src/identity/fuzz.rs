//! Fuzz targets: what a request presents.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::{Claim, MAX_PASSWORD, Name, Origin, Presented, Subject, resembles_secret};
use crate::fuzz::lines;

/// Each line an `Authorization` header: what is accepted has one spelling, and is all there is.
pub(crate) fn credentials(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    if !bytes.is_empty() {
        for line in lines(bytes).take(3) {
            if let Ok(value) = HeaderValue::from_bytes(line) {
                headers.append(AUTHORIZATION, value);
            }
        }
    }
    let values: Vec<_> = headers.get_all(AUTHORIZATION).iter().collect();
    let text = values.first().and_then(|value| value.to_str().ok());
    let payload = text
        .and_then(|text| text.split_once(' '))
        .map(|both| both.1);
    let claimed = Presented::claimed(&headers);
    match Presented::from_headers(&headers) {
        Ok(Presented::Nothing) => {
            assert!(values.is_empty());
        }
        Ok(Presented::Empty) => {
            assert_eq!((values.len(), payload), (1, Some("Og==")));
        }
        Ok(presented @ Presented::Basic { .. }) => {
            let seen = format!("{presented:?}");
            let Presented::Basic { user, password } = presented else {
                return;
            };
            assert_eq!(values.len(), 1);
            assert_eq!(claimed.as_ref().map(Claim::user), Some(user.as_str()));
            let password = password.expose();
            let spelling = STANDARD.encode(format!("{user}:{password}"));
            assert_eq!(payload, Some(spelling.as_str()));
            assert!(
                (1..=MAX_PASSWORD).contains(&password.len())
                    && (1..=256).contains(&user.as_str().len())
            );
            assert!(!format!("{user}{password}").chars().any(char::is_control));
            let user = user.as_str();
            assert!(!user.contains(':'));
            // Nothing of it is seen, where it is long enough not to be seen by chance.
            assert!(password.len() < 32 || user.contains(password) || !seen.contains(password));
        }
        Ok(Presented::Bearer(token)) => {
            assert_eq!((values.len(), payload), (1, Some(token.expose().as_str())));
            let legal = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b',';
            assert!(token.expose().bytes().all(legal));
            assert!(claimed.is_none());
        }
        Err(_malformed) => {
            assert!(!values.is_empty());
            let seen = claimed.as_ref().map(Claim::user);
            assert!(seen.is_none_or(|user| !user.is_empty() && !user.contains(':')));
            assert!(seen.is_none_or(|user| !resembles_secret(user)));
        }
    }
}

/// A text as a name of every origin, and as who somebody is: what is accepted is read as the same again,
/// by whatever spelling, and no person is a robot.
pub(crate) fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for origin in [Origin::Directory, Origin::Password, Origin::Written] {
        let Ok(name) = Name::parse(&text, origin) else {
            continue;
        };
        assert_eq!(name.as_str(), text);
        assert!(!text.chars().any(char::is_control) && !resembles_secret(&text));
        assert!(origin == Origin::Written || !name.folded().contains(':'));
        let person = Subject::Person(name.clone());
        assert_eq!(
            Subject::read(&text).ok().map(|read| read.is(&person)),
            Some(true)
        );
        // A fold is longer at times.
        if let Ok(folded) = Name::parse(name.folded(), Origin::Directory) {
            assert!(folded.is(&name) && folded.folded() == name.folded());
        } else {
            assert!(name.folded().len() > 256 || origin == Origin::Written);
        }
    }
    if let Ok(subject) = Subject::read(&text) {
        assert_eq!(subject.as_str().unwrap_or_default(), text);
        assert_eq!(Subject::read_as(subject.kind(), &text), Some(subject));
    }
}
