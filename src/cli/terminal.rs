//! The terminal at stdout: its width and colours.

use std::io::{IsTerminal, stdout};

use rustix::termios::tcgetwinsize;

/// Width where none is known.
const USUAL: usize = 80;
const NARROWEST: usize = 40;
const WIDEST: usize = 200;

/// The columns of stdout.
pub(crate) fn width() -> usize {
    let told = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    let asked = || {
        tcgetwinsize(stdout())
            .ok()
            .map(|size| usize::from(size.ws_col))
    };
    let width = told.or_else(asked).filter(|width| *width > 0);
    width.unwrap_or(USUAL).clamp(NARROWEST, WIDEST)
}

/// Returns true if stdout takes colours (<https://no-color.org>).
pub(crate) fn colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}
