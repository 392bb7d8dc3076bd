//! The query string, decoded once and strictly.
//!
//! The registry reads `mount`, `from` and `digest` leniently: escaped names, repeated names and
//! form bodies all count. What is judged here must therefore be the only reading there is.

/// Why a query cannot be read in exactly one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A `%` without two hexadecimal digits, or bytes that are no UTF-8 or hold control characters.
    #[error("the query is not properly encoded")]
    Encoding,
    /// A parameter that stands twice.
    #[error("the query names a parameter twice")]
    Repeated,
    /// `;`, which some servers take for `&`.
    #[error("the query holds a `;`")]
    Semicolon,
    /// More parameters, or longer ones, than any client sends.
    #[error("the query is too long")]
    TooLong,
}

/// No client of the API sends more than a handful. Those that may be repeated are not counted; the
/// length of the query bounds them.
const MAX_PARAMETERS: usize = 32;
/// An upload's sealed state is the longest thing a query holds.
const MAX_QUERY: usize = 8 * 1024;

/// The decoded parameters in their order.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what stands after the `?`. Names in `repeatable` may occur several times.
    pub fn parse(raw: Option<&str>, repeatable: &[&str]) -> Result<Self, QueryError> {
        let raw = raw.unwrap_or_default();
        if raw.len() > MAX_QUERY {
            return Err(QueryError::TooLong);
        }
        if raw.contains(';') {
            return Err(QueryError::Semicolon);
        }
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut single = 0_usize;
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name).ok_or(QueryError::Encoding)?;
            let value = decode(value).ok_or(QueryError::Encoding)?;
            if !repeatable.contains(&name.as_str()) {
                if pairs.iter().any(|(seen, _)| *seen == name) {
                    return Err(QueryError::Repeated);
                }
                single = single.saturating_add(1);
                if single > MAX_PARAMETERS {
                    return Err(QueryError::TooLong);
                }
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// The value of a parameter; the first where it may be repeated.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(seen, _)| seen == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(seen, _)| seen == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Decodes `%XX` and `+`; `None` for a broken escape, a control character or text that is no UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = hex(rest.next()?)?;
                let low = hex(rest.next()?)?;
                high << 4 | low
            }
            b'+' => b' ',
            other => other,
        });
    }
    let decoded = String::from_utf8(bytes).ok()?;
    (!decoded.chars().any(char::is_control)).then_some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Writes a value so that every parser reads it the same way: everything but the unreserved
/// characters of RFC 3986 section 2.3 and the colon of a digest is escaped.
pub fn encode(text: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| {
        DIGITS
            .get(usize::from(nibble))
            .copied()
            .map_or('0', char::from)
    };
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(digit(byte >> 4));
            out.push(digit(byte & 15));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Query, QueryError, decode, encode};
    use proptest::prelude::*;

    #[test]
    fn one_reading_or_none() {
        let query = Query::parse(Some("a=1&b=x%2Fy&c&&d=a+b"), &[]).unwrap();
        assert_eq!(query.value("a"), Some("1"));
        assert_eq!(query.value("b"), Some("x/y"));
        assert_eq!(query.value("c"), Some(""));
        assert_eq!(query.value("d"), Some("a b"));
        assert_eq!(query.value("e"), None);
        for (raw, error) in [
            ("from=a&from=b", QueryError::Repeated),
            ("from=a&%66rom=b", QueryError::Repeated),
            ("a=1;from=b", QueryError::Semicolon),
            ("a=%", QueryError::Encoding),
            ("a=%2", QueryError::Encoding),
            ("a=%zz", QueryError::Encoding),
            ("a=%00", QueryError::Encoding),
            ("a=%ff", QueryError::Encoding),
            ("a=%+1", QueryError::Encoding),
        ] {
            assert_eq!(Query::parse(Some(raw), &[]).err(), Some(error), "{raw}");
        }
        let tags = Query::parse(Some("tag=a&tag=b"), &["tag"]).unwrap();
        assert_eq!(tags.values("tag").collect::<Vec<_>>(), ["a", "b"]);
        let many = "tag=a&".repeat(100);
        let many = Query::parse(Some(&many), &["tag"]).unwrap();
        assert_eq!(many.values("tag").count(), 100);
        let many: Vec<_> = (0..33).map(|number| format!("p{number}=1")).collect();
        assert_eq!(
            Query::parse(Some(&many.join("&")), &["tag"]).err(),
            Some(QueryError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(text in "[^\\p{Cc}]{0,40}") {
            let mut written = String::new();
            encode(&text, &mut written);
            prop_assert_eq!(decode(&written), Some(text));
            prop_assert!(!written.contains(['&', '=', ';', '+', ' ', '#']));
        }

        #[test]
        fn no_input_panics(raw in "\\PC{0,60}") {
            drop(Query::parse(Some(&raw), &[]));
        }
    }
}
