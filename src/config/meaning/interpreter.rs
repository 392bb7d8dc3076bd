//! What the meaning of every table needs: where paths and variables are looked up, and where errors go.

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::config::error::{Diagnostic, Source};
use crate::config::file::{At, List, Text};
use crate::config::value::{self, Wrong};

/// What the tables are interpreted with, and what was found wrong so far.
pub(in crate::config) struct Interpreter<'a> {
    pub(in crate::config) source: &'a Source,
    pub(super) folder: &'a Path,
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) found: &'a mut Vec<Diagnostic>,
}

impl<'a> Interpreter<'a> {
    /// `folder` is what paths are relative to.
    pub(in crate::config) fn new(
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
    pub(super) fn path(&mut self, text: Option<&Text>) -> Option<PathBuf> {
        self.text(text, filled)
            .map(|path: Box<str>| self.folder.join(&*path))
    }

    pub(super) fn paths(&mut self, list: Option<&List>) -> Vec<PathBuf> {
        let paths: Vec<Box<str>> = self.list(list, filled);
        paths.iter().map(|path| self.folder.join(&**path)).collect()
    }

    pub(super) fn count(&mut self, count: Option<&At<u32>>, default: usize) -> usize {
        let Some(count) = count else {
            return default;
        };
        if count.value == 0 {
            self.error(&count.span, Wrong::new("zero lets nobody in"));
        }
        usize::try_from(count.value).unwrap_or(usize::MAX)
    }

    pub(super) fn duration(&mut self, text: Option<&Text>, default: Duration) -> Duration {
        self.text(text, value::duration).unwrap_or(default)
    }

    /// A duration that cannot be zero.
    pub(in crate::config) fn time_out(
        &mut self,
        text: Option<&Text>,
        default: Duration,
    ) -> Duration {
        let length = self.duration(text, default);
        if let Some(text) = text.filter(|_| length.is_zero()) {
            self.error(&text.span, Wrong::new("no time at all"));
        }
        length
    }

    pub(super) fn word<T: Copy>(
        &mut self,
        text: Option<&Text>,
        known: &[(&str, T)],
        default: T,
    ) -> T {
        self.text(text, |text| value::word(text, known))
            .unwrap_or(default)
    }

    pub(in crate::config) fn text<T>(
        &mut self,
        text: Option<&Text>,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let text = text?;
        parse(&text.value)
            .map_err(|wrong| self.error(&text.span, wrong))
            .ok()
    }

    pub(in crate::config) fn list<T>(
        &mut self,
        list: Option<&List>,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Vec<T> {
        let items = list.into_iter().flat_map(|list| &list.value);
        items
            .filter_map(|item| self.text(Some(item), &parse))
            .collect()
    }

    pub(in crate::config) fn not_empty(&mut self, list: Option<&List>, message: &str) {
        if let Some(list) = list.filter(|list| list.value.is_empty()) {
            self.error(&list.span, Wrong::new(message));
        }
    }

    pub(in crate::config) fn error(&mut self, span: &Range<usize>, wrong: Wrong) {
        let error = self.source.error(span.clone(), wrong.message);
        self.found.push(match wrong.help {
            Some(help) => error.with_help(help),
            None => error,
        });
    }

    pub(in crate::config) fn warning(&mut self, span: &Range<usize>, wrong: Wrong) {
        self.error(span, wrong);
        if let Some(last) = self.found.pop() {
            self.found.push(last.as_warning());
        }
    }

    /// A warning about what is not in the file.
    pub(super) fn warning_about_file(&mut self, message: &str, help: &str) {
        let error = self.source.error_at_key("", message);
        self.found.push(error.with_help(help).as_warning());
    }
}

pub(super) fn filled(text: &str) -> Result<Box<str>, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("this is empty"));
    }
    Ok(text.into())
}

/// A network, or one address.
pub(in crate::config) fn network(text: &str) -> Result<IpNet, Wrong> {
    let network: IpNet = match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => network,
        (_, Ok(address)) => address.into(),
        (Err(_), Err(_)) => {
            let wrong = Wrong::new(format!("{text:?} is not a network"));
            return Err(wrong.help("write for example \"10.0.0.0/8\" or \"2001:db8::/32\""));
        }
    };
    if network.trunc() != network {
        let wrong = Wrong::new(format!("{text:?} is an address inside a network"));
        return Err(wrong.help(format!("write \"{}\"", network.trunc())));
    }
    Ok(network)
}
