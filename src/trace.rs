//! Which distributed trace a request belongs to (W3C Trace Context, level 1).
//!
//! A client's word for it is passed on to the registry and noted beside what we write ourselves; it
//! decides nothing. What is not exactly as the specification has it is taken for absent.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;

use std::fmt;

use http::{HeaderMap, HeaderName};

/// Whose child a request is.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// What tracing systems want to remember of it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `00-` trace `-` parent `-` flags (section 3.2).
const LENGTH: usize = 55;
/// Bytes and members of a `tracestate` at most (section 3.3).
const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;

/// The identity of a trace, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl TraceId {
    /// As a number.
    pub fn get(self) -> u128 {
        self.0
    }
}

/// Our own part of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The trace.
    pub trace: TraceId,
    /// Its own identity, never zero.
    pub id: u64,
    /// The client's, if it named one.
    pub parent: Option<u64>,
    /// Whether it is recorded: as the client has it, otherwise yes.
    pub sampled: bool,
}

impl Span {
    /// A child of the client's, or the beginning of a trace. Both numbers are random.
    pub fn new(parent: Option<Parent>, trace: u128, id: u64) -> Self {
        Self {
            trace: parent.map_or(TraceId(trace.max(1)), |parent| parent.trace),
            id: id.max(1),
            parent: parent.map(|parent| parent.span),
            sampled: parent.is_none_or(|parent| parent.sampled),
        }
    }

    /// The `traceparent` for whom we ask.
    pub fn header(&self) -> String {
        let flags = u8::from(self.sampled);
        format!("00-{}-{:016x}-{flags:02x}", self.trace, self.id)
    }
}

/// What a valid `traceparent` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The span of the client, never zero.
    pub span: u64,
    /// Whether the client records it.
    pub sampled: bool,
}

impl Parent {
    /// The one that a request names; `None` without one, with several, or with nonsense.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => Self::parse(only.to_str().ok()?),
            (_, _) => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace = TraceId(hex(parts.next()?, 32).filter(|id| *id != 0)?);
        let span = hex(parts.next()?, 16).filter(|id| *id != 0)?;
        let flags = hex(parts.next()?, 2)?;
        // Later versions may say more; 255 is none.
        let is_version = match version {
            0 => text.len() == LENGTH,
            later => later != 0xff && text.len() <= MAX_STATE,
        };
        is_version.then_some(Self {
            trace,
            span: u64::try_from(span).ok()?,
            sampled: flags & 1 == 1,
        })
    }
}

/// Whether a request's `tracestate` can be passed on. Without a valid parent it means nothing.
pub fn has_state(headers: &HeaderMap) -> bool {
    let mut length: usize = 0;
    let mut members: usize = 0;
    for value in headers.get_all(TRACESTATE) {
        let Ok(text) = value.to_str() else {
            return false;
        };
        length = length.saturating_add(text.len());
        let named = text.split(',').map(str::trim).filter(|one| !one.is_empty());
        for member in named {
            members = members.saturating_add(1);
            if !is_member(member) {
                return false;
            }
        }
    }
    length <= MAX_STATE && members <= MAX_MEMBERS
}

/// `key=value` (section 3.3.1.3).
fn is_member(text: &str) -> bool {
    let Some((key, value)) = text.split_once('=') else {
        return false;
    };
    let of_key = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
    let of_value = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    !key.is_empty() && key.bytes().all(of_key) && !value.is_empty() && value.bytes().all(of_value)
}

/// So many lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let fits = text.len() == digits && text.bytes().all(is_digit);
    fits.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::{Parent, Span, TRACEPARENT, TRACESTATE, TraceId, has_state};
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(name: &http::HeaderName, values: &[&str]) -> HeaderMap {
        let value = |value: &&str| HeaderValue::from_str(value).unwrap();
        let lines = values.iter().map(|one| (name.clone(), value(one)));
        lines.collect()
    }

    #[test]
    fn a_valid_parent_is_read() {
        let parent = Parent::of(&headers(&TRACEPARENT, &[GOOD])).unwrap();
        assert_eq!(parent.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((parent.span, parent.sampled), (0xb7ad_6b71_6920_3331, true));
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(Parent::parse(&later), Some(parent));
        assert_eq!(
            Parent::parse(&format!("{later}-what-will-be")),
            Some(parent)
        );
    }

    #[test]
    fn anything_else_is_no_parent() {
        let zeros = "0".repeat(32);
        for text in [
            "",
            "00",
            GOOD.trim_start_matches('0'),
            &format!("{GOOD}0"),
            &format!("{GOOD}-x"),
            &format!(" {GOOD}"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &zeros),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace('b', "g"),
            &GOOD.replace("-01", "-+1"),
            &format!("{}-{}", GOOD.replacen("00", "cc", 1), "x".repeat(600)),
        ] {
            assert_eq!(Parent::parse(text), None, "{text}");
        }
        assert_eq!(Parent::of(&headers(&TRACEPARENT, &[GOOD, GOOD])), None);
        assert_eq!(Parent::of(&HeaderMap::new()), None);
    }

    #[test]
    fn a_state_is_passed_on_if_it_is_one() {
        let is_good = |values: &[&str]| has_state(&headers(&TRACESTATE, values));
        for good in [
            &["a=1"][..],
            &["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"],
            &["a=1", "b=2"],
            &["tenant@vendor=x y , , b=2"],
            &[],
        ] {
            assert!(is_good(good), "{good:?}");
        }
        let many: Vec<_> = (0..33).map(|number| format!("k{number}=v")).collect();
        let long = format!("a={}", "x".repeat(600));
        for bad in [
            &["a"][..],
            &["A=1"],
            &["a="],
            &["a=1=2"],
            &["=1"],
            &[&many.join(",")],
            &[&long],
        ] {
            assert!(!is_good(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(trace in 1u128.., span in 1u64.., flags: u8) {
            let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            let parent = Parent::parse(&text).unwrap();
            prop_assert_eq!(parent.trace.to_string(), format!("{trace:032x}"));
            prop_assert_eq!((parent.span, parent.sampled), (span, flags % 2 == 1));
        }

        #[test]
        fn ours_is_a_child_of_the_clients(trace in 1u128.., span in 1u64.., random: (u128, u64)) {
            let parent = Parent { trace: TraceId(trace), span, sampled: false };
            let ours = Span::new(Some(parent), random.0, random.1);
            let named = Parent::parse(&ours.header()).unwrap();
            prop_assert_eq!((named.trace, named.span, named.sampled), (parent.trace, ours.id, false));
            prop_assert_eq!(ours.parent, Some(span));
            let root = Span::new(None, random.0, random.1);
            prop_assert!(root.sampled && Parent::parse(&root.header()).is_some());
        }

        #[test]
        fn nothing_panics(text: String) {
            let _parent = Parent::parse(&text);
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                let map: HeaderMap = [(TRACESTATE, value)].into_iter().collect();
                let _state = has_state(&map);
            }
        }
    }
}
