//! Fuzz targets: the trail as it is read again.

use std::io::BufReader;

use super::entry::{Entry, Flaw, Lines};
use super::journal::chain::{ChainKey, Line, Link};
use super::journal::{chain_file, resume, syslog};
use super::verify;
use crate::fuzz::lines;

/// A trail for reports and filters: every line is a record or a flaw, wherever reads end, and no line
/// ends the reading.
pub(crate) fn entry(bytes: &[u8]) {
    let (size, text) = bytes.split_first().unwrap_or((&0, &[]));
    let size = usize::from(*size).saturating_add(1);
    let (mut one, mut other) = (
        Lines::new(text),
        Lines::new(BufReader::with_capacity(size, text)),
    );
    let mut texts = lines(text).filter(|line| !line.trim_ascii().is_empty());
    while let Ok(Some(read)) = one.read() {
        let again = other.read().ok().flatten();
        assert_eq!(
            Some(format!("{read:?}")),
            again.map(|again| format!("{again:?}"))
        );
        assert_eq!(Some(one.text()), texts.next().map(<[u8]>::trim_ascii));
        assert!(read.as_ref().err() != Some(&Flaw::TooLong));
        if let Ok(entry) = read {
            asked(&entry);
        }
    }
    assert_eq!(texts.next(), None);
    assert_eq!(usize::try_from(one.bytes()).ok(), Some(text.len()));
    let count = text.split_inclusive(|byte| *byte == b'\n').count();
    assert_eq!(usize::try_from(one.number()).ok(), Some(count));
}

fn asked(entry: &Entry) {
    assert!(!entry.is_proven() || (entry.user.is_some() && entry.auth.is_some()));
    assert!(!entry.is_challenge() || !entry.is_proven());
    assert_eq!(
        entry.suppressed() > 0,
        entry.event == "suppressed" && entry.suppressed() > 0
    );
    assert!(!entry.is_pull() || !entry.is_push());
}

/// The end of a trail and its chain file, as a start finds them: from any end of a chain the next record
/// is a record.
pub(crate) fn resume(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let links = [
        resume::last(bytes, &ChainKey::NONE).map(|(link, _)| link),
        chain_file::parse(&text),
        text.lines().next().and_then(Link::after),
    ];
    // The last possible number is out of reach.
    let links = links.into_iter().flatten();
    for link in links.filter(|link| link.next < u64::MAX) {
        let (mut next, mut line) = (link.clone(), String::new());
        next.append(&ChainKey::NONE, "\"time\":\"x\"", &mut line);
        let line = line.trim_end_matches('\n');
        let parsed = Line::parse(line.as_bytes());
        assert!(
            parsed.is_some_and(|line| line.is_whole(&ChainKey::NONE)),
            "{line}"
        );
        let numbers = parsed.map(|line| (line.seq, line.prev));
        assert_eq!(numbers, Some((link.next, link.hash.as_bytes())));
        assert_eq!(Link::after(line), Some(next));
    }
}

/// A record, and what a receiver of syslog messages counted by octets makes of it.
pub(crate) fn syslog(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut stream = String::new();
    let mut sent = Vec::new();
    for line in text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let line = line.trim_end();
        let message = syslog::message(line, "host");
        stream.push_str(&syslog::counted(&message));
        sent.push(message);
    }
    let mut rest = stream.as_str();
    for message in &sent {
        let (count, tail) = rest.split_once(' ').unwrap_or_default();
        let framed = count
            .parse()
            .ok()
            .and_then(|count| tail.split_at_checked(count));
        let (framed, tail) = framed.unwrap_or_default();
        assert_eq!(framed, message);
        rest = tail;
        assert!(!message.contains('\n'), "{message:?}");
        // RFC 5424 section 6: what stands before the record has no room for anything else.
        let head: Vec<_> = message.splitn(8, ' ').collect();
        let [priority, time, host, name, process, event, data, _record] = head.as_slice() else {
            assert_eq!(head.len(), 8, "{message:?}");
            return;
        };
        assert!(
            ["<84>1", "<85>1", "<86>1"].contains(priority),
            "{message:?}"
        );
        assert_eq!((*host, *name, *data), ("host", "portcullis", "-"));
        let graphic = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        assert!(
            graphic(time) && graphic(event) && graphic(process),
            "{message:?}"
        );
        assert!(event.len() <= 32, "{message:?}");
    }
    assert_eq!(rest, "");
}

/// Changes to a written trail: only those that change nothing are not found. Each four bytes of the
/// input are a place, a kind of change, and a byte.
pub(crate) fn trail(bytes: &[u8]) {
    let (mut link, mut text) = (Link::default(), String::new());
    for number in 0..6 {
        let fields = format!("\"time\":\"2026-11-22T03:04:0{number}Z\",\"event\":\"request\"");
        link.append(&ChainKey::NONE, &fields, &mut text);
    }
    let mut changed = text.clone().into_bytes();
    for change in bytes.chunks_exact(4) {
        let [high, low, what, byte] = change else {
            break;
        };
        let at = usize::from(u16::from_be_bytes([*high, *low]));
        let at = at.checked_rem(changed.len()).unwrap_or_default();
        match what {
            b'i' => changed.insert(at, *byte),
            b'd' if at < changed.len() => drop(changed.remove(at)),
            // A whole line away, or there twice.
            b'l' | b't' => {
                let count = lines(&changed).count().max(1);
                let at = at.checked_rem(count).unwrap_or_default();
                let twice = |(number, line): (usize, _)| match (number == at, what) {
                    (true, b'l') => vec![],
                    (true, _) => vec![line, line],
                    (false, _) => vec![line],
                };
                let kept: Vec<_> = lines(&changed).enumerate().flat_map(twice).collect();
                changed = kept.join(&b'\n');
            }
            _ => {
                if let Some(place) = changed.get_mut(at) {
                    *place = *byte;
                }
            }
        }
    }
    let (seq, hash) = (link.last(), link.hash.as_str());
    let holds = verify::holds(&changed, (1, &"0".repeat(64)), (seq, hash));
    assert_eq!(
        holds,
        changed == text.as_bytes(),
        "{}",
        String::from_utf8_lossy(&changed)
    );
}
