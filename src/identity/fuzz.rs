//! Fuzz targets: what a request presents.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::{MAX_PASSWORD, Presented};
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
            assert_eq!(claimed.as_deref(), Some(&*user));
            let password = password.expose();
            let spelling = STANDARD.encode(format!("{user}:{password}"));
            assert_eq!(payload, Some(spelling.as_str()));
            assert!(
                (1..=MAX_PASSWORD).contains(&password.len()) && (1..=256).contains(&user.len())
            );
            assert!(!format!("{user}{password}").chars().any(char::is_control));
            assert!(!user.contains(':'));
            // Nothing of it is seen, where it is long enough not to be seen by chance.
            assert!(password.len() < 32 || user.contains(password) || !seen.contains(password));
        }
        Ok(Presented::Bearer(token)) => {
            assert_eq!((values.len(), payload), (1, Some(token.expose().as_str())));
            let legal = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b',';
            assert!(token.expose().bytes().all(legal));
            assert_eq!(claimed, None);
        }
        Err(_malformed) => {
            assert!(!values.is_empty());
            assert!(claimed.is_none_or(|user| !user.is_empty() && !user.contains(':')));
        }
    }
}
