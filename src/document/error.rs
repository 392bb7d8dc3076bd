//! What is wrong with a configuration: where, what, and what to write instead. No message and no
//! quoted line holds a secret, see `mask`.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::mask::{MASK, mask};
use crate::policy::Place;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can, but somebody should look at it.
    Warning,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    severity: Severity,
    file: Arc<str>,
    spot: Option<Spot>,
    message: String,
    help: Option<String>,
}

/// A diagnostic that does not keep the configuration from being used.
pub type Warning = Diagnostic;

/// Where in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spot {
    line: usize,
    column: usize,
    /// The line, without its secrets, and which bytes of it are meant; `None` where the line is a
    /// secret itself.
    quote: Option<(String, Range<usize>)>,
}

impl Diagnostic {
    /// Something wrong with a file as a whole.
    pub fn about_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: file.display().to_string().into(),
            spot: None,
            message: message.into(),
            help: None,
        }
    }

    /// Something wrong with a line of another file, which is not quoted.
    pub fn about_line(file: &Path, (line, column): (usize, usize), message: String) -> Self {
        let quote = None;
        Self {
            spot: Some(Spot {
                line,
                column,
                quote,
            }),
            ..Self::about_file(file, message)
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same, as something that can be lived with.
    #[must_use]
    pub fn as_warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The same, as something that cannot.
    #[must_use]
    pub fn as_error(mut self) -> Self {
        self.severity = Severity::Error;
        self
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity
    }

    /// Whether the configuration can be used all the same.
    pub fn is_warning(&self) -> bool {
        self.severity == Severity::Warning
    }

    /// Whether it quotes the line that it is about, as those about the configuration itself do.
    pub fn is_quoted(&self) -> bool {
        self.spot.as_ref().is_some_and(|spot| spot.quote.is_some())
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// Line and column, both from 1.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.spot.as_ref().map(|spot| (spot.line, spot.column))
    }

    /// Several lines for people: message, place, the line with a caret, advice.
    pub fn render(&self, color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group: Group<'_> = Group::with_title(level.primary_title(&self.message));
        let origin = Origin::path(&*self.file);
        group = match &self.spot {
            Some(Spot {
                line,
                quote: Some((text, mark)),
                ..
            }) => {
                let mark = AnnotationKind::Primary.span(mark.clone());
                let snippet = Snippet::source(text.as_str()).line_start(*line);
                group.element(snippet.path(&*self.file).annotation(mark))
            }
            Some(spot) => group.element(origin.line(spot.line).char_column(spot.column)),
            None => group.element(origin),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        renderer.render(&[group])
    }

    /// The same for machines.
    pub fn to_json(&self) -> Value {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (line, column) = self.position().unzip();
        json!({
            "severity": severity,
            "file": &*self.file,
            "line": line,
            "column": column,
            "message": self.message,
            "help": self.help,
        })
    }
}

/// One line: `file:line:column: message, help`.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(spot) = &self.spot {
            write!(f, ":{}:{}", spot.line, spot.column)?;
        }
        write!(f, ": {}", self.message)?;
        self.help
            .as_ref()
            .map_or(Ok(()), |help| write!(f, ", {help}"))
    }
}

/// Everything that is wrong with a configuration that cannot be used, in the order of the file.
#[derive(Clone, Debug)]
pub struct Errors(Vec<Diagnostic>);

impl Errors {
    /// All of what was found, sorted; `None`, and `found` left, when there are only warnings.
    pub fn among(found: &mut Vec<Diagnostic>) -> Option<Self> {
        found.sort_by_key(Diagnostic::position);
        found.dedup();
        let fatal = !found.iter().all(Diagnostic::is_warning);
        fatal.then(|| Self(std::mem::take(found)))
    }

    /// Errors, and the warnings found beside them.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.0
    }

    /// The same, to be put together with others.
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.0
    }

    /// Everything for people, ending in a line that counts.
    pub fn render(&self, color: bool) -> String {
        let mut out = String::new();
        for diagnostic in &self.0 {
            out.push_str(&diagnostic.render(color));
            out.push_str("\n\n");
        }
        out.push_str(&self.count());
        out
    }

    /// Everything for machines: a list.
    pub fn to_json(&self) -> Value {
        self.0.iter().map(Diagnostic::to_json).collect()
    }

    fn count(&self) -> String {
        let errors = self.errors().count();
        let warnings = self.0.len().saturating_sub(errors);
        let words = |count: usize, word: &str| match count {
            0 => String::new(),
            1 => format!("1 {word}"),
            more => format!("{more} {word}s"),
        };
        let joint = if warnings == 0 { "" } else { ", " };
        format!(
            "{}{joint}{}",
            words(errors, "error"),
            words(warnings, "warning")
        )
    }

    fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter().filter(|one| !one.is_warning())
    }
}

impl From<Diagnostic> for Errors {
    fn from(one: Diagnostic) -> Self {
        let severity = Severity::Error;
        Self(vec![Diagnostic { severity, ..one }])
    }
}

/// One line for the log: the first error, and how many more there are.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut errors = self.errors();
        if let Some(first) = errors.next() {
            write!(f, "{first}")?;
        }
        match errors.count() {
            0 => Ok(()),
            more => write!(f, "  (+{more} more)"),
        }
    }
}

impl std::error::Error for Errors {}

/// The file as it was read, without its secrets, to quote from.
#[derive(Clone)]
pub struct Source {
    name: Arc<str>,
    text: String,
    /// Where each line of it begins.
    lines: Vec<usize>,
    /// Where the value of each key stands, by its dotted path.
    keys: BTreeMap<String, Range<usize>>,
}

impl Source {
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        let text = mask(text);
        let ends = text.match_indices('\n').map(|(at, _)| at);
        Self {
            name: path.display().to_string().into(),
            lines: std::iter::once(0)
                .chain(ends.map(|at| at.saturating_add(1)))
                .collect(),
            text,
            keys: BTreeMap::new(),
        }
    }

    pub(crate) fn remember(&mut self, key: String, span: Range<usize>) {
        self.keys.insert(key, span);
    }

    /// An error at a key, given by its dotted path; where the file does not have it, at the
    /// nearest table around.
    pub(crate) fn error_at_key(&self, key: &str, message: impl Into<String>) -> Diagnostic {
        let mut key = key;
        loop {
            if let Some(span) = self.keys.get(key) {
                return self.error(span.clone(), message);
            }
            match key.rsplit_once('.') {
                Some((around, _)) => key = around,
                None => return self.diagnostic(None, message),
            }
        }
    }

    pub(crate) fn error(&self, span: Range<usize>, message: impl Into<String>) -> Diagnostic {
        self.diagnostic(self.spot(span), message)
    }

    fn diagnostic(&self, spot: Option<Spot>, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            severity: Severity::Error,
            file: Arc::clone(&self.name),
            spot,
            message: message.into(),
            help: None,
        }
    }

    /// `file:line`, which is what rules are called in the audit file.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        Place(format!("{}:{}", self.name, self.line(span)).into())
    }

    /// The line where something begins, from 1.
    pub(crate) fn line(&self, span: &Range<usize>) -> usize {
        self.lines.partition_point(|begin| *begin <= span.start)
    }

    fn spot(&self, span: Range<usize>) -> Option<Spot> {
        let (before, after) = self.text.split_at_checked(span.start)?;
        let begin = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
        let head = before.get(begin..)?;
        let length = after.find('\n').unwrap_or(after.len());
        let marked = span.len().min(length);
        let (marked, tail) = after.get(..length)?.split_at_checked(marked)?;
        let head = shorten(head);
        let marked = shorten(marked.trim_end_matches('\r'));
        let mark = head.len()..head.len().saturating_add(marked.len());
        let text = format!("{head}{marked}{}", shorten(tail.trim_end_matches('\r')));
        Some(Spot {
            line: self.line(&span),
            column: head.chars().count().saturating_add(1),
            quote: Some((text, mark)),
        })
    }
}

/// The text itself says too much in a log.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

/// Shows each run of what was taken out as four stars, however long it was.
fn shorten(text: &str) -> String {
    let mut parts = text.split(MASK).peekable();
    let mut out = String::new();
    let mut hidden = false;
    while let Some(part) = parts.next() {
        if !part.is_empty() {
            hidden = false;
        }
        out.push_str(part);
        if parts.peek().is_some() && !hidden {
            out.push_str("****");
            hidden = true;
        }
    }
    out
}

/// The candidate that was probably meant.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
