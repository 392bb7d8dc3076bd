//! The lines of an htpasswd file: where they end, what is a comment, where the hash begins.

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Where in a line a problem begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    /// So many bytes into the hash.
    Hash(usize),
    /// Behind the last byte of a well-formed hash.
    AfterHash,
    /// At the name.
    User,
}

/// A line that is neither empty nor a comment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    /// Counted from 1.
    pub(super) number: usize,
    /// What stands before the first colon, if that is text.
    pub(super) user: Option<&'a str>,
    /// What stands behind the first colon; `None` without a colon or if the line is no text.
    pub(super) hash: Option<&'a str>,
    /// Whether the line is UTF-8.
    pub(super) utf8: bool,
}

impl<'a> Line<'a> {
    fn new(number: usize, bytes: &'a [u8]) -> Self {
        let Ok(text) = std::str::from_utf8(bytes) else {
            let (user, hash) = (None, None);
            return Self {
                number,
                user,
                hash,
                utf8: false,
            };
        };
        let (user, hash) = match text.split_once(':') {
            Some((user, hash)) => (Some(user), Some(hash)),
            None => (None, None),
        };
        Self {
            number,
            user,
            hash,
            utf8: true,
        }
    }

    /// The column of a place in the line, counted from 1 in characters.
    pub(super) fn column(&self, offset: Offset) -> usize {
        let user = self.user.map_or(0, |user| user.chars().count());
        let hash = user.saturating_add(2);
        match offset {
            Offset::User => 1,
            Offset::Hash(inside) => hash.saturating_add(inside),
            Offset::AfterHash => {
                let text = self.hash.unwrap_or_default();
                let end = text.find([' ', '\t', ':']).unwrap_or(text.len());
                hash.saturating_add(text.chars().count().min(end))
            }
        }
    }
}

/// The byte order mark, if there is one, and the rest.
pub(super) fn split_bom(text: &[u8]) -> (&[u8], &[u8]) {
    text.strip_prefix(BOM)
        .map_or((b"", text), |rest| (BOM, rest))
}

/// One line without its end, and that end (`\n`, `\r\n`, or nothing in the last line).
pub(super) fn split_end(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(body) = line.strip_suffix(b"\n") else {
        // A lone carriage return at the end of a file was meant as half of a line's end.
        return line
            .strip_suffix(b"\r")
            .map_or((line, b""), |body| (body, b"\r"));
    };
    body.strip_suffix(b"\r")
        .map_or((body, b"\n"), |body| (body, b"\r\n"))
}

/// Whether a line's body holds no entry.
pub(super) fn is_comment(body: &[u8]) -> bool {
    body.trim_ascii().is_empty() || body.trim_ascii_start().starts_with(b"#")
}

/// All entries of a file, well-formed or not.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = Line<'_>> {
    let (_bom, text) = split_bom(text);
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| split_end(line).0)
        .zip(1..)
        .filter(|(body, _)| !is_comment(body))
        .map(|(body, number)| Line::new(number, body))
}
