//! TOML documents that people write: read against a schema, so that everything wrong is told at once,
//! each with its place and what to write instead, and never a secret.
//!
//! `read` finds unknown keys, wrong types and missing keys; an `Interpreter` turns the texts that are
//! left into values; `error` is how what was wrong looks. Which documents there are (the configuration,
//! the robot keys) is said by the modules that read them.

use std::cmp::Ordering;
use std::ops::Range;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

mod error;
mod interpreter;
mod mask;
mod read;
mod rights;
mod value;
mod words;

pub(crate) use error::nearest;
pub use error::{Diagnostic, Errors, Severity, Source, Warning};
pub(crate) use interpreter::{Interpreter, filled};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use mask::{MASK, mask};
#[cfg(test)]
pub(crate) use read::all_keys;
pub(crate) use read::{Reading, read};
pub(crate) use rights::{EMPTY, find_role, network, timestamp};
pub(crate) use value::{Wrong, duration, word};
pub(crate) use words::{Word, Words};

/// A value and where it stands, in bytes.
#[derive(Default)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// Most values are texts, judged later: that keeps their place for the message.
pub(crate) type Text = At<String>;
pub(crate) type List = At<Vec<Text>>;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self {
            span: spanned.span(),
            value: spanned.into_inner(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> std::borrow::Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

// Compared by value, for the keys of `[groups]` and `[roles]`.
impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for At<T> {}

impl<T: Ord> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> Ord for At<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.value.cmp(&other.value)
    }
}

/// The JSON schema of a document.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    drop_null(&mut schema);
    schema
}

/// TOML has no null: what may be absent is simply not required.
fn drop_null(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|one| one != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(words)) = map.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            map.values_mut().for_each(drop_null);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
