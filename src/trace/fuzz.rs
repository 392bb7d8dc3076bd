//! Fuzz targets: which trace a request belongs to.

use http::{HeaderMap, HeaderValue};

use super::{Parent, Span, TRACEPARENT, TRACESTATE, has_state};
use crate::fuzz::lines;

/// A `traceparent`, then lines of `tracestate`: what is read is what is written for the registry.
pub(crate) fn trace(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for (at, line) in lines(bytes).enumerate().take(40) {
        let name = if at == 0 { TRACEPARENT } else { TRACESTATE };
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    if has_state(&headers) {
        let states = headers.get_all(TRACESTATE).iter();
        assert!(states.map(HeaderValue::len).sum::<usize>() <= 512);
    }
    let parent = Parent::of(&headers);
    let span = Span::new(parent, 0, 0);
    assert_eq!(span.parent, parent.map(|parent| parent.span));
    let written = span.header();
    let mut again = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(&written) {
        again.insert(TRACEPARENT, value);
    }
    let child = Parent::of(&again);
    assert_eq!(
        child.map(|child| (child.trace, child.span)),
        Some((span.trace, span.id))
    );
    assert_eq!(child.map(|child| child.sampled), Some(span.sampled));
    let Some(parent) = parent else { return };
    assert!(parent.trace.get() != 0 && parent.span != 0);
    assert_eq!((span.trace, span.sampled), (parent.trace, parent.sampled));
    let text = headers.get(TRACEPARENT).map(HeaderValue::as_bytes);
    let named = format!("-{}-{:016x}-", parent.trace, parent.span);
    assert!(text.is_some_and(|text| text.get(2..53) == Some(named.as_bytes())));
}
