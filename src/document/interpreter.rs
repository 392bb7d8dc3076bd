//! What the meaning of every table needs: where paths and variables are looked up, and where errors go.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{Diagnostic, Source};
use super::value::{self, Wrong};
use super::{At, List, Text};

/// What the tables are interpreted with, and what was found wrong so far.
pub(crate) struct Interpreter<'a> {
    pub(crate) source: &'a Source,
    pub(crate) folder: &'a Path,
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) found: &'a mut Vec<Diagnostic>,
}

impl<'a> Interpreter<'a> {
    /// `folder` is what paths are relative to.
    pub(crate) fn new(
        source: &'a Source,
        folder: &'a Path,
        env: &'a dyn Fn(&str) -> Option<String>,
        found: &'a mut Vec<Diagnostic>,
    ) -> Self {
        Self {
            source,
            folder,
            env,
            found,
        }
    }
}

impl Interpreter<'_> {
    pub(crate) fn path(&mut self, text: Option<&Text>) -> Option<PathBuf> {
        self.text(text, filled)
            .map(|path: Box<str>| self.folder.join(&*path))
    }

    pub(crate) fn paths(&mut self, list: Option<&List>) -> Vec<PathBuf> {
        let paths: Vec<Box<str>> = self.list(list, filled);
        paths.iter().map(|path| self.folder.join(&**path)).collect()
    }

    pub(crate) fn count(&mut self, count: Option<&At<u32>>, default: usize) -> usize {
        let Some(count) = count else {
            return default;
        };
        if count.value == 0 {
            self.error(&count.span, Wrong::new("zero lets nobody in"));
        }
        usize::try_from(count.value).unwrap_or(usize::MAX)
    }

    pub(crate) fn duration(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        self.text(text, value::duration).unwrap_or(default)
    }

    /// A duration that cannot be zero.
    pub(crate) fn time_out(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        let length = self.duration(text, default);
        if let Some(text) = text.filter(|_| length.is_zero()) {
            self.error(&text.span, Wrong::new("no time at all"));
        }
        length
    }

    pub(crate) fn text<T>(
        &mut self,
        text: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let text = text?;
        parse(&text.value)
            .map_err(|wrong| self.error(&text.span, wrong))
            .ok()
    }

    pub(crate) fn list<T>(
        &mut self,
        list: Option<&List>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let items = list.into_iter().flat_map(|list| &list.value);
        items
            .filter_map(|item| self.text(Some(item), &parse))
            .collect()
    }

    pub(crate) fn not_empty(&mut self, list: Option<&List>, message: &str) {
        if let Some(list) = list.filter(|list| list.value.is_empty()) {
            self.error(&list.span, Wrong::new(message));
        }
    }

    pub(crate) fn error(&mut self, span: &Range<usize>, wrong: Wrong) {
        let error = self.source.error(span.clone(), wrong.message);
        self.found.push(match wrong.help {
            Some(help) => error.with_help(help),
            None => error,
        });
    }

    pub(crate) fn warning(&mut self, span: &Range<usize>, wrong: Wrong) {
        self.error(span, wrong);
        if let Some(last) = self.found.pop() {
            self.found.push(last.as_warning());
        }
    }

    /// A warning about what is not in the file.
    pub(crate) fn warning_about_file(&mut self, message: &str, help: &str) {
        let error = self.source.error_at_key("", message);
        self.found.push(error.with_help(help).as_warning());
    }
}

pub(crate) fn filled(text: &str) -> Result<Box<str>, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("this is empty"));
    }
    Ok(text.into())
}
