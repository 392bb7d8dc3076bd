//! What a request presents, read once from its `Authorization` header (RFC 7617, RFC 6750).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::{Claim, Name, NameError, Origin};

/// The longest password that is ever hashed, in bytes. SHA-crypt is quadratic in the length.
pub const MAX_PASSWORD: usize = 256;
/// The longest `Authorization` header, in bytes; tokens with many scopes are the longest.
const MAX_AUTHORIZATION: usize = 16 * 1024;

/// A value that must never be seen: wiped when dropped, `****` when debugged, not comparable.
#[derive(Clone)]
pub struct Secret<T: zeroize::Zeroize>(Zeroizing<T>);

impl<T: zeroize::Zeroize> Secret<T> {
    /// Takes a value into custody.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// Gives the value to whoever verifies or sends it. Searching for this name finds them all.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: zeroize::Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

/// A password as a client sent it: not empty, at most [`MAX_PASSWORD`] bytes, no control bytes.
///
/// It cannot be compared or printed, only given to a verifier.
///
/// ```compile_fail
/// let a = portcullis::identity::Password::new("a").unwrap();
/// let b = portcullis::identity::Password::new("a").unwrap();
/// assert!(a == b);
/// ```
///
/// ```compile_fail
/// println!("{}", portcullis::identity::Password::new("a").unwrap());
/// ```
#[derive(Clone, Debug)]
pub struct Password(Secret<String>);

impl Password {
    /// Accepts a password that a verifier may be given.
    pub fn new(text: &str) -> Result<Self, Malformed> {
        match text {
            "" => Err(Malformed::EmptyPassword),
            long if long.len() > MAX_PASSWORD => Err(Malformed::PasswordTooLong),
            odd if odd.chars().any(char::is_control) => Err(Malformed::ControlByte),
            fine => Ok(Self(Secret::new(fine.to_owned()))),
        }
    }

    /// The bytes, for a verifier.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// What a request presents.
#[derive(Clone, Debug)]
pub enum Presented {
    /// A user and a password (or robot key).
    Basic {
        /// The name, as sent.
        user: Name,
        /// The password, as sent.
        password: Password,
    },
    /// A token.
    Bearer(Secret<String>),
    /// `Basic` with neither user nor password: how podman and skopeo say that they have none.
    Empty,
    /// No `Authorization` at all.
    Nothing,
}

/// An `Authorization` header that cannot be read in exactly one way. This is never the same as
/// presenting nothing: such a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not canonical base64, or not `user:password` in UTF-8.
    #[error("the Basic credentials are not properly encoded")]
    Basic,
    /// A control byte in the name or password.
    #[error("the credentials hold a control character")]
    ControlByte,
    /// No password beside a user name.
    #[error("the password is empty")]
    EmptyPassword,
    /// No user name beside a password.
    #[error("the user name is empty")]
    EmptyUser,
    /// Longer than [`MAX_PASSWORD`].
    #[error("the password is too long")]
    PasswordTooLong,
    /// More than one `Authorization` header.
    #[error("the request has two Authorization headers")]
    Repeated,
    /// Neither `Basic` nor `Bearer`.
    #[error("the authorization scheme is not supported")]
    Scheme,
    /// Longer than any token, or a user name longer than 256 bytes.
    #[error("the Authorization header is too long")]
    TooLong,
    /// Not the characters of a bearer token (RFC 6750 section 2.1).
    #[error("the bearer token is not properly encoded")]
    Token,
    /// A user name that nobody can have.
    #[error(transparent)]
    User(NameError),
}

impl From<NameError> for Malformed {
    fn from(error: NameError) -> Self {
        match error {
            // In a header it could not be told from the password (RFC 7617 section 2).
            NameError::Colon => Self::Basic,
            NameError::Control => Self::ControlByte,
            NameError::Empty => Self::EmptyUser,
            NameError::TooLong => Self::TooLong,
            NameError::Invisible | NameError::LookAlike | NameError::Robot | NameError::Secret => {
                Self::User(error)
            }
        }
    }
}

impl Presented {
    /// Reads a request's headers.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, Malformed> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(Self::Nothing);
        };
        if values.next().is_some() {
            return Err(Malformed::Repeated);
        }
        if value.len() > MAX_AUTHORIZATION {
            return Err(Malformed::TooLong);
        }
        let text = value.to_str().map_err(|_not_ascii| Malformed::Scheme)?;
        let (scheme, rest) = text.split_once(' ').ok_or(Malformed::Scheme)?;
        if scheme.eq_ignore_ascii_case("basic") {
            Self::basic(rest)
        } else if scheme.eq_ignore_ascii_case("bearer") {
            Self::bearer(rest)
        } else {
            Err(Malformed::Scheme)
        }
    }

    /// User named by `Basic` credentials that are otherwise malformed, for the audit record only.
    pub fn claimed(headers: &HeaderMap) -> Option<Claim> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (value, None) = (values.next()?, values.next()) else {
            return None;
        };
        let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
        if value.len() > MAX_AUTHORIZATION || !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let bytes = STANDARD.decode(encoded).map(Zeroizing::new).ok()?;
        let mut parts = bytes.split(|byte| *byte == b':');
        let (user, Some(_password)) = (parts.next()?, parts.next()) else {
            // Without a colon it may be a password alone.
            return None;
        };
        let user = std::str::from_utf8(user).ok()?;
        (!user.is_empty()).then(|| Claim::of_text(user))
    }

    fn basic(encoded: &str) -> Result<Self, Malformed> {
        let bytes = STANDARD
            .decode(encoded)
            .map(Zeroizing::new)
            .ok()
            .ok_or(Malformed::Basic)?;
        let text = std::str::from_utf8(&bytes).ok().ok_or(Malformed::Basic)?;
        let (user, password) = text.split_once(':').ok_or(Malformed::Basic)?;
        Self::user_and_password(user, password)
    }

    /// A user and password, from whatever carried them.
    pub fn user_and_password(user: &str, password: &str) -> Result<Self, Malformed> {
        match (user, password) {
            ("", "") => return Ok(Self::Empty),
            ("", _) => return Err(Malformed::EmptyUser),
            _ => {}
        }
        Ok(Self::Basic {
            user: Name::parse(user, Origin::Password)?,
            password: Password::new(password)?,
        })
    }

    fn bearer(token: &str) -> Result<Self, Malformed> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if token.is_empty() || !token.bytes().all(legal) {
            return Err(Malformed::Token);
        }
        Ok(Self::Bearer(Secret::new(token.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::{Malformed, Password, Presented, Secret};
    use crate::identity::{Claim, NameError};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
    use proptest::prelude::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in values {
            map.append(
                AUTHORIZATION,
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    fn basic(text: &[u8]) -> Result<Presented, Malformed> {
        Presented::from_headers(&headers(&[&format!("Basic {}", STANDARD.encode(text))]))
    }

    #[test]
    fn well_formed_credentials_are_read() {
        assert!(matches!(
            Presented::from_headers(&HeaderMap::new()),
            Ok(Presented::Nothing)
        ));
        assert!(matches!(basic(b":"), Ok(Presented::Empty)));
        let Ok(Presented::Basic { user, password }) = basic("alice:pä:ss".as_bytes()) else {
            panic!("refused")
        };
        assert_eq!((user.as_str(), password.expose()), ("alice", "pä:ss"));
        let lower = Presented::from_headers(&headers(&["bEARER abc.def-_~+/="]));
        assert!(matches!(lower, Ok(Presented::Bearer(token)) if token.expose() == "abc.def-_~+/="));
    }

    #[test]
    fn malformed_credentials_are_never_nothing() {
        for (text, error) in [
            (&b"alice"[..], Malformed::Basic),
            (b"alice:", Malformed::EmptyPassword),
            (b":secret", Malformed::EmptyUser),
            (b"alice:a\0b", Malformed::ControlByte),
            (b"ali\rce:ab", Malformed::ControlByte),
            (b"alice:\xff", Malformed::Basic),
            (
                "key\u{ff1a}ci:pw".as_bytes(),
                Malformed::User(NameError::LookAlike),
            ),
            (
                "al\u{200b}ice:pw".as_bytes(),
                Malformed::User(NameError::Invisible),
            ),
            (
                b"pcl_0123456789abcdefghijklmnop:x-oauth-basic",
                Malformed::User(NameError::Secret),
            ),
            (
                &[b"alice:".as_slice(), &[b'x'; 257]].concat(),
                Malformed::PasswordTooLong,
            ),
            (
                &[[b'x'; 257].as_slice(), b":pw"].concat(),
                Malformed::TooLong,
            ),
        ] {
            assert_eq!(basic(text).err(), Some(error), "{text:?}");
        }
        for (value, error) in [
            ("", Malformed::Scheme),
            ("Basic", Malformed::Scheme),
            ("Digest x", Malformed::Scheme),
            ("Negotiate", Malformed::Scheme),
            ("Basic  YTpi", Malformed::Basic),
            ("Basic YTpi ", Malformed::Basic),
            ("Basic YTpi!", Malformed::Basic),
            ("Basic YTo", Malformed::Basic),
            ("Bearer ", Malformed::Token),
            ("Bearer a b", Malformed::Token),
        ] {
            assert_eq!(
                Presented::from_headers(&headers(&[value])).err(),
                Some(error),
                "{value}"
            );
        }
        let twice = Presented::from_headers(&headers(&["Basic YTpi", "Basic YTpi"]));
        assert_eq!(twice.err(), Some(Malformed::Repeated));
    }

    #[test]
    fn whom_malformed_credentials_name_is_known_where_it_can_be() {
        let claimed = |text: &[u8]| {
            let encoded = STANDARD.encode(text);
            Presented::claimed(&headers(&[&format!("Basic {encoded}")]))
        };
        let long = [b"alice:".as_slice(), &[b'x'; 300]].concat();
        for text in [&b"alice:"[..], b"alice:a\0b", b"alice:\xff:x", &long] {
            let claim = claimed(text);
            assert_eq!(claim.as_ref().map(Claim::user), Some("alice"), "{text:?}");
        }
        let key = b"pcl_0123456789abcdefghijklmnop:";
        assert_eq!(claimed(key).as_ref().map(Claim::user), Some("****"));
        for text in [&b"hunter2"[..], b":hunter2", b"\xff:hunter2", b""] {
            assert_eq!(claimed(text), None, "{text:?}");
        }
        for values in [
            &["Bearer YTpi"][..],
            &["Basic YTpi", "Basic YTpi"],
            &["Basic !"],
        ] {
            assert_eq!(Presented::claimed(&headers(values)), None);
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let password = Password::new("hunter2").unwrap();
        assert!(!format!("{password:?}").contains("hunter2"));
        assert_eq!(format!("{:?}", Secret::new("hunter2".to_owned())), "****");
        let presented = basic(b"alice:hunter2").unwrap();
        assert!(!format!("{presented:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_header_panics(value in "[ -~]{0,60}") {
            drop(Presented::from_headers(&headers(&[&value])));
        }
    }
}
