//! Fuzz targets: what a directory answers, and names on their way to it.

use ldap3::parse_filter;

use super::message::{self, MAX_MESSAGE};
use super::name::{UserFilter, common_name, equals, is_below, is_fit, nobody};
use crate::fuzz::{Pieces, lines, now};

/// What a server sends: messages are read to their last byte wherever packets end, and nothing
/// passes that is no answer.
pub(crate) fn message(bytes: &[u8]) {
    let (size, stream) = bytes.split_first().unwrap_or((&0, &[]));
    let size = usize::from(*size).saturating_add(1);
    let (mut one, mut other) = (Pieces::new(stream, usize::MAX), Pieces::new(stream, size));
    loop {
        let before = one.rest();
        let (read, again) = (now(message::read(&mut one)), now(message::read(&mut other)));
        assert_eq!(read.as_ref().ok(), again.as_ref().ok());
        let Ok(Some(message)) = read else {
            assert!(read.is_err() || one.rest().is_empty());
            return;
        };
        assert_eq!(one.rest().len(), other.rest().len());
        assert!(before.starts_with(&message) && message.len() <= MAX_MESSAGE);
        assert_eq!(before.len().saturating_sub(message.len()), one.rest().len());
        let code = message::extended_result(&message);
        assert!(code.is_none() || message.contains(&0x78));
        // By itself it is the same message, and a part of it is none.
        let mut alone = Pieces::new(&message, 1);
        assert_eq!(
            now(message::read(&mut alone)).ok().flatten().as_ref(),
            Some(&message)
        );
        let cut = message.len().saturating_sub(1);
        let mut part = Pieces::new(message.get(..cut).unwrap_or_default(), 3);
        assert!(now(message::read(&mut part)).is_err());
    }
}

/// A name, then a base: in a filter the name is a value and nothing else, and in a DN it stays one
/// part.
pub(crate) fn name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (name, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let (base, own) = rest.split_once('\n').unwrap_or((rest, ""));
    // A filter of the administrator's.
    if let Ok(filter) = UserFilter::new(own, None) {
        assert!(parse_filter(filter.find(name)).is_ok(), "{own:?} {name:?}");
        assert!(!filter.attribute().is_empty());
    }
    let written = UserFilter::by_uid().find(name);
    assert_eq!(written, equals("uid", name));
    let inner = written
        .strip_prefix("(uid=")
        .and_then(|text| text.strip_suffix(')'));
    let inner = inner.unwrap_or("(");
    assert!(!inner.contains(['(', ')', '*', '\0']), "{written:?}");
    // Read again as RFC 4515 section 3 has it.
    assert_eq!(
        unescaped(inner).as_deref(),
        Some(name.as_bytes()),
        "{written:?}"
    );
    assert!(parse_filter(&written).is_ok());
    if !is_fit(name) {
        return;
    }
    let dn = nobody(name, "dc=example");
    assert_eq!(common_name(&dn).as_deref(), Some(name), "{dn:?}");
    assert!(is_below(&dn, "dc=example") && !is_below("dc=example", &dn));
    assert!(!is_below(&dn, "ou=people,dc=example"));
    if let Some(common) = common_name(base) {
        assert!(is_fit(&common));
        assert!(is_below(base, base));
    }
    for line in lines(bytes).filter_map(|line| std::str::from_utf8(line).ok()) {
        assert!(!is_below(line, &dn) || line.to_lowercase().contains("nobody"));
    }
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => {
                let digit = |b: u8| {
                    char::from(b)
                        .to_digit(16)
                        .and_then(|d| u8::try_from(d).ok())
                };
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                high << 4 | low
            }
            other => other,
        });
    }
    Some(bytes)
}
