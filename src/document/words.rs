//! Keys whose value is one word of a list. The list is declared once, at the type that it means; the
//! schema, the reader and what is told of an unknown word come from there.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::At;

/// A type that the configuration names by words.
pub(crate) trait Words: Copy + 'static {
    /// All words, each with its meaning, in the order in which they are told.
    fn words() -> Vec<(&'static str, Self)>;
}

/// The meaning of a word.
#[derive(Clone, Copy)]
pub(crate) struct Word<T>(pub(crate) T);

impl<T: Words> At<Word<T>> {
    /// The meaning of a key; `default` where it is not written.
    pub(crate) fn or(key: Option<&Self>, default: T) -> T {
        key.map_or(default, |key| key.value.0)
    }
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut words = T::words().into_iter();
        let known = words.find(|(word, _)| *word == text);
        // Unknown words have been taken out, since the schema has the same list.
        known
            .map(|(_, meaning)| Self(meaning))
            .ok_or_else(|| D::Error::custom("unknown value"))
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<_> = T::words().into_iter().map(|(word, _)| word).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}
