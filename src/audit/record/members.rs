//! The members of a record as JSON, in ASCII: text of an attacker cannot break the line, colour a terminal
//! or reorder text.
//!
//! Written by hand, because every request pays for it: a general serializer takes four times as
//! long. [`crate::audit::Entry`] reads it with one.

use std::fmt::{Display, Write as _};

/// Bytes of most records.
const USUAL: usize = 1024;

/// A key as it stands in a line. All of its punctuation is one literal, because forty are written
/// for each request.
macro_rules! key {
    ($name:literal) => {
        $crate::audit::record::members::Key(concat!(",\"", $name, "\":"))
    };
}
pub(in crate::audit) use key;

/// Made by [`key!`].
#[derive(Clone, Copy)]
pub(in crate::audit) struct Key(pub(in crate::audit) &'static str);

/// Members, one after the other, without the braces around them. Absent ones are `null`.
pub(in crate::audit) struct Members(String);

impl Members {
    pub(in crate::audit) fn new() -> Self {
        Self(String::with_capacity(USUAL))
    }

    pub(in crate::audit) fn into_text(self) -> String {
        self.0
    }

    /// A value that needs no escapes.
    pub(in crate::audit) fn plain(&mut self, key: Key, value: impl Display) {
        self.key(key);
        // Writing to a String cannot fail.
        let _ok = write!(self.0, "\"{value}\"");
    }

    pub(in crate::audit) fn text(&mut self, key: Key, value: Option<&str>) {
        self.key(key);
        match value {
            Some(value) => string(&mut self.0, value),
            None => self.0.push_str("null"),
        }
    }

    pub(in crate::audit) fn texts<'a>(&mut self, key: Key, values: impl Iterator<Item = &'a str>) {
        self.key(key);
        self.0.push('[');
        for (number, value) in values.enumerate() {
            if number > 0 {
                self.0.push(',');
            }
            string(&mut self.0, value);
        }
        self.0.push(']');
    }

    pub(in crate::audit) fn number(&mut self, key: Key, value: Option<impl Into<u64>>) {
        self.key(key);
        match value {
            Some(value) => self.0.push_str(itoa::Buffer::new().format(value.into())),
            None => self.0.push_str("null"),
        }
    }

    pub(in crate::audit) fn flag(&mut self, key: Key, value: bool) {
        self.json(key, if value { "true" } else { "false" });
    }

    /// A value that is JSON already.
    pub(in crate::audit) fn json(&mut self, key: Key, value: &str) {
        self.key(key);
        self.0.push_str(value);
    }

    fn key(&mut self, Key(key): Key) {
        let is_first = self.0.is_empty();
        self.0.push_str(if is_first {
            key.trim_start_matches(',')
        } else {
            key
        });
    }
}

/// A string of JSON (RFC 8259 section 7).
fn string(out: &mut String, text: &str) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    out.push('"');
    // To its end, whatever comes: without a way out the compiler looks at sixteen bytes at a time.
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
        out.push_str(text);
    } else {
        text.encode_utf16().for_each(|unit| escaped(out, unit));
    }
    out.push('"');
}

fn escaped(out: &mut String, unit: u16) {
    match u8::try_from(unit).map(char::from) {
        Ok(letter @ ('"' | '\\')) => out.extend(['\\', letter]),
        Ok('\n') => out.push_str("\\n"),
        Ok('\r') => out.push_str("\\r"),
        Ok('\t') => out.push_str("\\t"),
        Ok(letter @ ' '..='~') => out.push(letter),
        Ok(_) | Err(_) => {
            // Writing to a String cannot fail.
            let _ok = write!(out, "\\u{unit:04x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Members;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(text: String, texts: Vec<String>, number: u64, flag: bool) {
            let mut members = Members::new();
            members.text(key!("text"), Some(&text));
            members.text(key!("absent"), None);
            members.texts(key!("texts"), texts.iter().map(String::as_str));
            members.number(key!("number"), Some(number));
            members.number(key!("none"), None::<u64>);
            members.flag(key!("flag"), flag);
            members.plain(key!("plain"), number);
            members.json(key!("json"), "[1]");
            let written = members.into_text();
            prop_assert!(written.bytes().all(|byte| (b' '..0x7f).contains(&byte)), "{written}");
            let read: Value = serde_json::from_str(&format!("{{{written}}}")).unwrap();
            prop_assert_eq!(read, json!({
                "text": text, "absent": null, "texts": texts, "number": number, "none": null,
                "flag": flag, "plain": number.to_string(), "json": [1],
            }));
        }
    }
}
