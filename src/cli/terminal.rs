//! The terminal: what is printed there, its width and colours.

use std::io::{ErrorKind, IsTerminal, Write, stderr, stdout};

use anyhow::{Context, Result};
use rustix::termios::tcgetwinsize;

/// Width where none is known.
const USUAL: usize = 80;
const NARROWEST: usize = 40;
const WIDEST: usize = 200;

/// Prints on stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    match stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to stdout")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Prints on stderr. A failure has no other place to be shown.
pub(crate) fn print_error(text: &str) {
    let _written = writeln!(stderr(), "{}", text.trim_end()).is_ok();
}

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

/// Returns true if stdout takes colours.
pub(crate) fn colours() -> bool {
    takes_colours(&stdout())
}

/// Returns true if stderr takes colours.
pub(crate) fn error_colours() -> bool {
    takes_colours(&stderr())
}

/// <https://no-color.org>
fn takes_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}
