//! What came instead of a request: no head could be made of it, so that there is nothing to judge.

use http::StatusCode;

use crate::registry::Code;

/// Why something is no request that could be judged. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHead {
    /// A tunnel is wanted.
    Connect,
    /// Outside the grammar.
    Framing(&'static str),
    /// It did not arrive in time.
    Late,
    /// HTTP without TLS.
    Plain,
    /// The request line alone is too long.
    TargetTooLong,
    /// Too many bytes or lines.
    TooLarge,
    /// HTTP, but not 1.0 or 1.1.
    Version,
}

impl BadHead {
    /// The method, if so much of the head was good. A line that has not ended may be anything.
    pub fn method(self, head: &[u8]) -> Option<&str> {
        let line = head
            .trim_ascii_start()
            .split_inclusive(|byte| *byte == b'\n');
        let line = line.take(1).find(|line| line.ends_with(b"\n"))?;
        let word = line.split(|byte| *byte == b' ').next()?;
        let is_method = !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
        std::str::from_utf8(word).ok().filter(|_| is_method)
    }

    /// What the client is told.
    pub(crate) fn text(self) -> (StatusCode, Code, &'static str) {
        match self {
            Self::Connect => (
                StatusCode::METHOD_NOT_ALLOWED,
                Code::Unsupported,
                "this method is not supported here",
            ),
            Self::Framing(what) => (StatusCode::BAD_REQUEST, Code::Unknown, what),
            Self::Late => (
                StatusCode::REQUEST_TIMEOUT,
                Code::Unknown,
                "the head of the request did not arrive in time",
            ),
            Self::Plain => (
                StatusCode::BAD_REQUEST,
                Code::Unsupported,
                "this port speaks TLS: use https:// instead of http://",
            ),
            Self::TargetTooLong => (
                StatusCode::URI_TOO_LONG,
                Code::SizeInvalid,
                "the path of the request is too long",
            ),
            Self::TooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                Code::SizeInvalid,
                "the head of the request is larger than 32 KiB, or has more than 100 lines",
            ),
            Self::Version => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                Code::Unsupported,
                "this version of HTTP is not supported",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::BadHead;

    #[test]
    fn the_method_is_told_if_its_line_was_good() {
        let method = |head: &'static str| BadHead::TooLarge.method(head.as_bytes());
        assert_eq!(method("\r\nHEAD / HTTP/1.1\r\nA: "), Some("HEAD"));
        for head in [
            "",
            "GET",
            "GET / HTTP/1.1",
            "G\u{1b} /\r\n",
            " \r\n",
            "get / HTTP/1.1\r\n",
        ] {
            assert_eq!(method(head), None, "{head:?}");
        }
    }
}
