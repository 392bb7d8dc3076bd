//! Reading the audit file.

use std::path::PathBuf;

use serde_json::Value;

pub(crate) struct Audit(PathBuf);

impl Audit {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Every complete line so far, parsed.
    pub(crate) fn records(&self) -> Vec<Value> {
        let text = self.text();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
        };
        complete.lines().map(parse).collect()
    }

    pub(crate) fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap_or_default()
    }

    /// The records from number `from` on, as soon as there are `count` of them.
    pub(crate) async fn after(&self, from: usize, count: usize) -> Vec<Value> {
        super::eventually(&format!("audit record {} of {count}", from + count), || {
            let mut records = self.records();
            (records.len() >= from + count).then(|| records.split_off(from))
        })
        .await
    }

    /// The first record that fits.
    pub(crate) async fn find(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        super::eventually(what, || {
            self.records().into_iter().find(|record| fits(record))
        })
        .await
    }
}
