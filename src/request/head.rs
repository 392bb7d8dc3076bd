//! What the head of a request may be, over either version of HTTP.

/// Bytes of a head at most, and of a line after a body.
pub(crate) const MAX_HEAD: usize = 32 * 1024;
/// Lines of a head at most; hyper has the same limit by default.
pub(crate) const MAX_HEADERS: usize = 100;

const HEAD: &[u8] = b"HEAD ";

/// How much of an answer a request asks for. That counts for what is no request, too: a client that
/// asked for a head takes a body for the next answer, or shows neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It begins with the method HEAD.
    HeadOnly,
    #[default]
    Whole,
}

impl Asked {
    /// Bytes after which it is known.
    pub(crate) const LONGEST: usize = HEAD.len();

    /// By the first bytes of a request.
    pub(crate) fn by<'a>(first: impl IntoIterator<Item = &'a u8>) -> Self {
        if first.into_iter().take(HEAD.len()).eq(HEAD) {
            Self::HeadOnly
        } else {
            Self::Whole
        }
    }
}

/// Whether it may be the name of a method or header (RFC 9110 section 5.6.2).
pub(crate) fn is_token(word: &[u8]) -> bool {
    let legal = |byte: &u8| {
        matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'!' | b'#'..=b'\'')
            || matches!(byte, b'*' | b'+' | b'-' | b'.' | b'|' | b'~')
    };
    !word.is_empty() && word.iter().all(legal)
}
