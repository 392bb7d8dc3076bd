//! Changes to the text of an htpasswd file that leave every line of other users as it is, also
//! lines that are broken.

use super::line::{is_comment, split_bom, split_end};

/// The text with the user's line written anew, and how many lines the user had. A new user comes
/// last; second lines of a user go away.
pub fn replaced(text: &[u8], user: &str, hash: &str) -> (Vec<u8>, usize) {
    let line = format!("{user}:{hash}");
    let mut found = 0_usize;
    let mut new = rewritten(text, |body, end, out| {
        if !belongs_to(body, user) {
            return out.extend([body, end].concat());
        }
        if found == 0 {
            out.extend(line.as_bytes());
            out.extend(end);
        }
        found = found.saturating_add(1);
    });
    if found == 0 {
        let end = usual_end(text);
        if !new.is_empty() && !new.ends_with(b"\n") && split_bom(&new).1 != b"" {
            new.extend(end);
        }
        new.extend(line.as_bytes());
        new.extend(end);
    }
    (new, found)
}

/// The text without the user's lines, and how many there were.
pub fn removed(text: &[u8], user: &str) -> (Vec<u8>, usize) {
    let mut found = 0_usize;
    let new = rewritten(text, |body, end, out| {
        if belongs_to(body, user) {
            found = found.saturating_add(1);
        } else {
            out.extend([body, end].concat());
        }
    });
    (new, found)
}

fn rewritten(text: &[u8], mut write: impl FnMut(&[u8], &[u8], &mut Vec<u8>)) -> Vec<u8> {
    let (bom, text) = split_bom(text);
    let mut out = bom.to_vec();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let (body, end) = split_end(line);
        write(body, end, &mut out);
    }
    out
}

fn belongs_to(body: &[u8], user: &str) -> bool {
    !is_comment(body)
        && body
            .strip_prefix(user.as_bytes())
            .is_some_and(|rest| rest.starts_with(b":"))
}

/// How the first line ends.
fn usual_end(text: &[u8]) -> &'static [u8] {
    let first = text
        .split_inclusive(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    if first.ends_with(b"\r\n") {
        b"\r\n"
    } else {
        b"\n"
    }
}

#[cfg(test)]
mod tests {
    use super::{removed, replaced};

    const FILE: &[u8] =
        b"\xef\xbb\xbf# staff\r\nalice:OLD\r\n\nbroken\nbob:X\nali:Y\nalice:AGAIN\n#alice:Z";

    #[test]
    fn other_lines_stay_as_they_are() {
        let (new, found) = replaced(FILE, "alice", "NEW");
        let wanted = b"\xef\xbb\xbf# staff\r\nalice:NEW\r\n\nbroken\nbob:X\nali:Y\n#alice:Z";
        assert_eq!((new.as_slice(), found), (&wanted[..], 2));
        let (new, found) = removed(FILE, "alice");
        let wanted = b"\xef\xbb\xbf# staff\r\n\nbroken\nbob:X\nali:Y\n#alice:Z";
        assert_eq!((new.as_slice(), found), (&wanted[..], 2));
        assert_eq!(removed(FILE, "carol"), (FILE.to_vec(), 0));
    }

    #[test]
    fn new_users_come_last() {
        for (before, after) in [
            ("", "zoe:NEW\n"),
            ("\u{feff}", "\u{feff}zoe:NEW\n"),
            ("a:1\n", "a:1\nzoe:NEW\n"),
            ("a:1", "a:1\nzoe:NEW\n"),
            ("a:1\r\nb:2", "a:1\r\nb:2\r\nzoe:NEW\r\n"),
            ("zoey:1\n", "zoey:1\nzoe:NEW\n"),
        ] {
            let (new, found) = replaced(before.as_bytes(), "zoe", "NEW");
            assert_eq!((new.as_slice(), found), (after.as_bytes(), 0), "{before:?}");
        }
    }
}
