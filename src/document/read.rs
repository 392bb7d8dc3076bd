//! Reads the text and holds it against the schema: finds **every** unknown key, wrong type, unknown
//! word and missing key at once, takes what does not fit out, and hands on what is left. (Serde
//! would stop at the first.)

use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{Diagnostic, Source, nearest};

/// What was read, as far as it could be, and what was wrong with it.
pub(crate) struct Reading<T> {
    pub(crate) file: Option<T>,
    pub(crate) source: Source,
    pub(crate) found: Vec<Diagnostic>,
}

/// Reads a text whose schema is `schema`, the one of `T`.
pub(crate) fn read<T: DeserializeOwned>(text: &str, path: &Path, schema: &Value) -> Reading<T> {
    let mut source = Source::new(path, text);
    let (mut document, broken) = DeTable::parse_recoverable(text);
    let mut found = Vec::new();
    for error in &broken {
        let span = error.span().unwrap_or_default();
        found.push(source.error(span, lower_first(error.message())));
    }
    let mut walk = Walk {
        root: schema,
        source: &mut source,
        found: Vec::new(),
    };
    let top = Spot {
        path: "",
        span: 0..0,
    };
    walk.table(document.get_mut(), schema, &top);
    if !broken.is_empty() {
        // What a broken line leads to is no news; only keys elsewhere are still worth a word.
        let lines: Vec<_> = found
            .iter()
            .filter_map(Diagnostic::position)
            .map(first)
            .collect();
        walk.found.retain(|one| {
            one.message().starts_with(UNKNOWN_KEY)
                && one
                    .position()
                    .is_some_and(|(line, _)| !lines.contains(&line))
        });
        found.append(&mut walk.found);
        return Reading {
            file: None,
            source,
            found,
        };
    }
    found.append(&mut walk.found);
    let file = match T::deserialize(toml::de::Deserializer::from(document)) {
        Ok(file) => Some(file),
        // Not reached as long as the schema says what the types say. The message is left out since
        // it may quote the value.
        Err(error) => {
            let span = error.span().unwrap_or_default();
            found.push(source.error(span, "this value cannot be read"));
            None
        }
    };
    Reading {
        file,
        source,
        found,
    }
}

const UNKNOWN_KEY: &str = "unknown key";

fn first((line, _): (usize, usize)) -> usize {
    line
}

struct Walk<'a> {
    root: &'a Value,
    source: &'a mut Source,
    found: Vec<Diagnostic>,
}

/// A table or value on the way: its dotted path, and where it stands.
struct Spot<'a> {
    path: &'a str,
    span: Range<usize>,
}

impl Walk<'_> {
    fn table(&mut self, table: &mut DeTable<'_>, schema: &Value, at: &Spot<'_>) {
        let known = schema.get("properties").and_then(Value::as_object);
        // `[groups]` and `[roles]` have names of their own for keys.
        let free = schema
            .get("additionalProperties")
            .filter(|other| other.is_object());
        // A misspelt key is not reported as missing besides.
        let mut seen = Vec::new();
        // Neither tables nor arrays can be filtered in place with the places of their keys.
        for (key, mut value) in std::mem::take(table) {
            let name: &str = key.get_ref();
            seen.push(name.to_owned());
            let Some(schema) = known.and_then(|known| known.get(name)).or(free) else {
                seen.extend(nearest(name, keys(schema)).map(str::to_owned));
                self.unknown(&key, schema, at.path);
                continue;
            };
            if self.value(&mut value, schema, &join(at.path, name)) {
                table.insert(key, value);
            }
        }
        self.missing(&seen, schema, at);
    }

    /// Whether the value can be kept.
    fn value(&mut self, value: &mut Spanned<DeValue<'_>>, schema: &Value, path: &str) -> bool {
        let span = value.span();
        self.source.remember(path.to_owned(), span.clone());
        let expected = schema
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default();
        match (value.get_mut(), expected) {
            (DeValue::Table(table), "object") => {
                self.table(table, schema, &Spot { path, span });
                true
            }
            (DeValue::Array(array), "array") => {
                let items = schema.get("items").unwrap_or(&Value::Null);
                for (number, mut item) in std::mem::replace(array, DeArray::new())
                    .into_iter()
                    .enumerate()
                {
                    if self.value(&mut item, items, &join(path, &number.to_string())) {
                        array.push(item);
                    }
                }
                true
            }
            (DeValue::String(word), "string") => self.word(word, &span, schema),
            (DeValue::Integer(number), "integer") => {
                let fits = u32::from_str_radix(number.as_str(), number.radix()).is_ok();
                if !fits {
                    let message = format!("expected a whole number from 0 to {}", u32::MAX);
                    self.found.push(self.source.error(span, message));
                }
                fits
            }
            (DeValue::Boolean(_), "boolean") => true,
            (other, _) => {
                let message = format!("expected {}, found {}", name(expected), kind(other));
                let mut wrong = self.source.error(span, message);
                let help = match (&*other, expected) {
                    (DeValue::Table(_), "array") => Some(format!("write `[[{path}]]`")),
                    _ => example(schema).map(|example| format!("for example {example}")),
                };
                if let Some(help) = help {
                    wrong = wrong.with_help(help);
                }
                self.found.push(wrong);
                false
            }
        }
    }

    fn word(&mut self, word: &str, span: &Range<usize>, schema: &Value) -> bool {
        let Some(known) = schema.get("enum").and_then(Value::as_array) else {
            return true;
        };
        let known: Vec<&str> = known.iter().filter_map(Value::as_str).collect();
        let fits = known.contains(&word);
        if !fits {
            let wrong = self
                .source
                .error(span.clone(), format!("unknown value {word:?}"));
            let help = match nearest(word, known.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("write one of {}", quoted(&known)),
            };
            self.found.push(wrong.with_help(help));
        }
        fits
    }

    fn missing(&mut self, seen: &[String], schema: &Value, at: &Spot<'_>) {
        let required = schema.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if seen.iter().any(|seen| seen == key) {
                continue;
            }
            let property = schema.get("properties").and_then(|all| all.get(key));
            let message = if at.path.is_empty() {
                format!("the table `[{key}]` is missing")
            } else {
                format!("`{key}` is missing")
            };
            let mut missing = self.source.error(at.span.clone(), message);
            if let Some(example) = property.and_then(example) {
                missing = missing.with_help(format!("for example `{key} = {example}`"));
            }
            self.found.push(missing);
        }
    }

    fn unknown(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, schema: &Value, path: &str) {
        let name: &str = key.get_ref();
        let known: Vec<&str> = keys(schema).collect();
        let help = if let Some(near) = nearest(name, known.iter().copied()) {
            format!("did you mean `{near}`?")
        } else if let Some(table) = self.home_of(name) {
            format!("`{name}` belongs in `[{table}]`")
        } else {
            format!("known here: {}", known.join(", "))
        };
        let place = match path {
            "" => String::new(),
            path => format!(" in `[{}]`", without_numbers(path)),
        };
        let message = format!("{UNKNOWN_KEY} `{name}`{place}");
        self.found
            .push(self.source.error(key.span(), message).with_help(help));
    }

    /// The table that does know a key.
    fn home_of(&self, key: &str) -> Option<String> {
        let mut tables = vec![(String::new(), self.root)];
        while let Some((path, schema)) = tables.pop() {
            let Some(known) = schema.get("properties").and_then(Value::as_object) else {
                continue;
            };
            if known.contains_key(key) && !path.is_empty() {
                return Some(path);
            }
            tables.extend(
                known
                    .iter()
                    .map(|(name, schema)| (join(&path, name), schema)),
            );
        }
        None
    }
}

/// Every key of a document by its dotted path; tables in arrays stand without their number.
#[cfg(test)]
pub(crate) fn all_keys(schema: &Value) -> Vec<String> {
    fn collect(schema: &Value, path: &str, out: &mut Vec<String>) {
        let schema = schema
            .get("items")
            .filter(|items| items.get("properties").is_some())
            .unwrap_or(schema);
        match schema.get("properties").and_then(Value::as_object) {
            Some(known) => known
                .iter()
                .for_each(|(k, s)| collect(s, &join(path, k), out)),
            None => out.push(path.to_owned()),
        }
    }
    let mut out = Vec::new();
    collect(schema, "", &mut out);
    out
}

fn keys(schema: &Value) -> impl Iterator<Item = &str> {
    let known = schema.get("properties").and_then(Value::as_object);
    known
        .into_iter()
        .flat_map(|known| known.keys().map(String::as_str))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn without_numbers(path: &str) -> String {
    let is_name = |part: &&str| part.parse::<usize>().is_err();
    path.split('.')
        .filter(is_name)
        .collect::<Vec<_>>()
        .join(".")
}

/// The schema's example as one would write it in TOML.
fn example(schema: &Value) -> Option<String> {
    let example = schema.get("examples").and_then(Value::as_array)?.first()?;
    if let Value::Object(pairs) = example {
        let pairs = pairs.iter().map(|(key, value)| format!("{key} = {value}"));
        return Some(format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", ")));
    }
    // For strings, numbers and lists the two languages agree, but for the space after a comma.
    Some(example.to_string().replace("\",\"", "\", \""))
}

fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    words.join(", ")
}

fn name(expected: &str) -> &'static str {
    match expected {
        "array" => "a list",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "object" => "a table",
        _ => "a string",
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) => "a list",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date without quotes",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Integer(_) => "a number",
        DeValue::String(_) => "a string",
        DeValue::Table(_) => "a table",
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}
