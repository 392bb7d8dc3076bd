//! One HTML page that needs nothing besides itself: no script, no resource from elsewhere, light or
//! dark as its reader prefers.
//!
//! Markup is written as literals only; whatever is known at run time goes through [`Page::text`],
//! which escapes it, or is a number. So no name, wherever it came from, can become markup.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::hash::sha256;

/// Both pages look alike.
const STYLE: &str = include_str!("page.css");

/// A page under construction.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a page.
    pub fn new(title: &str) -> Self {
        let mut page = Self::default();
        page.markup("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        page.markup("<meta http-equiv=\"Content-Security-Policy\" content=\"");
        page.text(&policy());
        page.markup(
            "\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
        );
        page.markup("<meta name=\"color-scheme\" content=\"light dark\">\n");
        page.markup("<meta name=\"referrer\" content=\"no-referrer\">\n<title>");
        page.text(title);
        page.markup("</title>\n<style>");
        page.markup(STYLE);
        page.markup("</style>\n</head>\n<body>\n");
        page
    }

    /// Writes markup as it stands. It is a literal of ours, never made of anything.
    pub fn markup(&mut self, literal: &'static str) -> &mut Self {
        self.0.push_str(literal);
        self
    }

    /// Writes text that may have come from anybody, for content and for quoted attributes.
    pub fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                bad if is_unseen(bad) => self.0.push('\u{fffd}'),
                fine => self.0.push(fine),
            }
        }
        self
    }

    /// Writes a number, with one place after the point if it has any.
    pub fn number(&mut self, number: f64) -> &mut Self {
        let rounded = (number * 10.0).round() / 10.0;
        // Writing to a String cannot fail.
        let _ok = write!(
            self.0,
            "{}",
            if rounded.is_finite() { rounded } else { 0.0 }
        )
        .is_ok();
        self
    }

    /// Text between two pieces of markup.
    pub fn within(&mut self, open: &'static str, text: &str, close: &'static str) -> &mut Self {
        self.markup(open).text(text).markup(close)
    }

    /// Ends the page.
    pub fn finish(mut self) -> String {
        self.markup("</body>\n</html>\n");
        self.0
    }
}

/// What a page may load: nothing; how it may look: as its own style says.
pub fn policy() -> String {
    let hash = STANDARD.encode(sha256(STYLE.as_bytes()));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

/// Characters that nobody sees but that change what is seen: controls, and marks that reorder or
/// hide text.
pub fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::{Page, policy};

    #[test]
    fn what_others_wrote_cannot_become_markup() {
        let mut page = Page::default();
        page.text("<b a=\"'&\n\u{202e}ä\u{1b}[31m");
        assert_eq!(
            page.0,
            "&lt;b a=&quot;&#39;&amp;\u{fffd}\u{fffd}ä\u{fffd}[31m"
        );
    }

    #[test]
    fn numbers_are_short_and_never_anything_else() {
        let mut page = Page::default();
        page.number(1.0).markup(" ").number(0.26).markup(" ");
        page.number(f64::NAN).markup(" ").number(f64::INFINITY);
        assert_eq!(page.0, "1 0.3 0 0");
    }

    #[test]
    fn nothing_is_loaded_and_nothing_runs() {
        let mut page = Page::new("<t>");
        page.within("<p>", "</p><script>", "</p>");
        let html = page.finish();
        assert!(html.contains("<title>&lt;t&gt;</title>"), "{html}");
        assert!(
            !html.contains("<script") && !html.contains("http://"),
            "{html}"
        );
        assert!(
            !html.contains("url(") && !html.contains("@import"),
            "{html}"
        );
        assert!(policy().starts_with("default-src 'none'; style-src 'sha256-"));
        assert!(html.contains("default-src &#39;none&#39;"), "{html}");
    }
}
