//! Text for terminals: columns, bars, and nothing in it that a terminal would obey.

use crate::page::is_unseen;

/// Text from outside, with controls and invisible characters written as escapes.
pub fn escape_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unseen(character) {
            out.extend(character.escape_unicode());
        } else {
            out.push(character);
        }
    }
    out
}

/// Text in `width` columns: filled with spaces, or cut.
pub(super) fn fitted(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        let mut out = text.to_owned();
        out.extend(std::iter::repeat_n(' ', width.saturating_sub(length)));
        return out;
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

/// A bar of `part` in `whole` over at most `columns`, in eighths of one.
pub(super) fn bar(part: u64, whole: u64, columns: usize) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = u64::try_from(columns).unwrap_or_default().saturating_mul(8);
    let length = u128::from(part)
        .saturating_mul(eighths.into())
        .checked_div(whole.into())
        .unwrap_or_default();
    let mut length = usize::try_from(length)
        .unwrap_or_default()
        .min(columns.saturating_mul(8));
    if part > 0 {
        length = length.max(1);
    }
    let mut out = "█".repeat(length / 8);
    let rest = (length % 8)
        .checked_sub(1)
        .and_then(|rest| EIGHTHS.get(rest));
    out.extend(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{bar, escape_controls, fitted};

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(
            escape_controls("a\u{1b}[31m\u{9b}b\u{202e}\r\n\u{7f}é"),
            "a\\u{1b}[31m\\u{9b}b\\u{202e}\\u{d}\\u{a}\\u{7f}é"
        );
    }

    #[test]
    fn text_fills_its_columns_and_no_more() {
        assert_eq!(fitted("ab", 4), "ab  ");
        assert_eq!(fitted("abcde", 4), "abc…");
        assert_eq!(fitted("ab", 0), "…");
    }

    #[test]
    fn bars_are_as_long_as_what_they_show() {
        assert_eq!(bar(1, 2, 10), "█████");
        assert_eq!(bar(1, 16, 2), "▏");
        assert_eq!(bar(1, 1_000_000, 10), "▏", "little is not nothing");
        assert_eq!(bar(0, 5, 10), "");
        assert_eq!(bar(3, 0, 10), "▏");
        assert_eq!(bar(u64::MAX, u64::MAX, 3), "███");
    }
}
