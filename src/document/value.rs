//! Values of every document. Pure; the caller knows the place.

use std::time::Duration;

use super::error::nearest;

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            message,
            help: None,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// No duration is longer: ten years. Deadlines far away overflow clocks.
const LONGEST: Duration = Duration::from_hours(10 * 365 * 24);

/// A whole number and a unit: `30s`, `6h`, `90d`.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shape = "write a whole number and one of ms, s, m, h, d, w, for example \"30s\"";
    if number.is_empty() {
        return Err(Wrong::new(format!("{text:?} is not a duration")).help(shape));
    }
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        "" => {
            let help = format!("write \"{number}s\" for seconds");
            return Err(Wrong::new("the duration has no unit").help(help));
        }
        _ => return Err(Wrong::new(format!("{text:?} is not a duration")).help(shape)),
    };
    let number: Option<u64> = number.parse().ok();
    let length = number.and_then(|number| number.checked_mul(milliseconds));
    match length.map(Duration::from_millis) {
        Some(length) if length <= LONGEST => Ok(length),
        Some(_) | None => Err(Wrong::new("the duration is longer than ten years")),
    }
}

/// The meaning of a word.
pub(crate) fn word<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, Wrong> {
    if let Some((_, meaning)) = known.iter().find(|(word, _)| *word == text) {
        return Ok(*meaning);
    }
    let words = || known.iter().map(|(word, _)| *word);
    let help = nearest(text, words()).map_or_else(
        || {
            let all: Vec<String> = words().map(|word| format!("{word:?}")).collect();
            format!("write one of {}", all.join(", "))
        },
        |near| format!("did you mean {near:?}?"),
    );
    Err(Wrong::new(format!("unknown value {text:?}")).help(help))
}

#[cfg(test)]
mod tests {
    use super::{duration, word};
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [
            ("0s", 0),
            ("30s", 30),
            ("5m", 300),
            ("6h", 21_600),
            ("90d", 7_776_000),
            ("2w", 1_209_600),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for (text, words) in [
            ("30", "\"30s\""),
            ("", "for example"),
            ("s", "for example"),
            ("-1s", "for example"),
            ("1.5h", "for example"),
            ("30 s", "for example"),
            ("5min", "for example"),
            ("5M", "for example"),
            ("1h30m", "for example"),
        ] {
            let help = duration(text).unwrap_err().help.unwrap();
            assert!(help.contains(words), "{text}: {help}");
        }
        for text in ["99999999999999999999s", "18446744073709551615w", "4000d"] {
            assert!(
                duration(text).unwrap_err().message.contains("ten years"),
                "{text}"
            );
        }
    }

    #[test]
    fn words_come_with_a_suggestion() {
        let known = [("bearer", 1), ("basic", 2)];
        assert_eq!(word("basic", &known), Ok(2));
        let near = word("baerer", &known).unwrap_err().help.unwrap();
        assert!(near.contains("\"bearer\""), "{near}");
        let far = word("x", &known).unwrap_err().help.unwrap();
        assert!(far.contains("\"bearer\", \"basic\""), "{far}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,30}") {
            drop(duration(&text));
        }
    }
}
