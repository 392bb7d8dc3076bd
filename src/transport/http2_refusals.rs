//! Requests over HTTP/2 that the engine refuses by itself, because their heads are larger than what is
//! read at all. It answers 431 with nothing but the status, or ends the connection, and tells nobody:
//! so the frames that it sends are looked at, and each refusal is told to a function.

use tokio::io::AsyncWrite;
use tokio_util::io::InspectWriter;

/// Bytes in front of a frame's payload (RFC 9113 section 4.1).
const FRAME_HEAD: usize = 9;
/// Bytes of a payload that is looked at: a status alone, or why a connection ends.
const MAX_PAYLOAD: usize = 64;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
/// Why the engine ends a connection: the rest of a head that it ignores is too long (RFC 9113
/// section 7), ...
const COMPRESSION_ERROR: u8 = 9;
/// ... or, with these words, a head is far too large.
const ENHANCE_YOUR_CALM: u8 = 11;
const TOO_LARGE: [&[u8]; 2] = [b"header_list_way_too_large", b"too_many_continuations"];

/// A connection on which the engine's own refusals are noticed: `refused` is called for each request that
/// is refused for its size.
pub(super) fn noticing<S: AsyncWrite>(
    stream: S,
    mut refused: impl FnMut(),
) -> InspectWriter<S, impl FnMut(&[u8])> {
    let mut frames = Frames::default();
    InspectWriter::new(stream, move |sent| {
        for _ in 0..frames.refusals(sent) {
            refused();
        }
    })
}

/// The frames of one direction, as far as they have come.
#[derive(Debug, Default)]
struct Frames {
    /// The frame under way, if it is short.
    frame: Vec<u8>,
    /// So much is left of one that is not looked at.
    skipped: usize,
}

impl Frames {
    /// Reads on: how many requests have been refused.
    fn refusals(&mut self, mut bytes: &[u8]) -> usize {
        let mut found: usize = 0;
        while !bytes.is_empty() {
            if self.skipped > 0 {
                let (passed, rest) = split(bytes, self.skipped);
                self.skipped = self.skipped.saturating_sub(passed.len());
                bytes = rest;
                continue;
            }
            let wanted = self.length().unwrap_or(FRAME_HEAD);
            let (part, rest) = split(bytes, wanted.saturating_sub(self.frame.len()));
            self.frame.extend_from_slice(part);
            bytes = rest;
            match self.length() {
                Some(length) if length > FRAME_HEAD.saturating_add(MAX_PAYLOAD) => {
                    self.skipped = length.saturating_sub(FRAME_HEAD);
                    self.frame.clear();
                }
                Some(length) if length == self.frame.len() => {
                    found = found.saturating_add(usize::from(is_refusal(&self.frame)));
                    self.frame.clear();
                }
                Some(_) | None => {}
            }
        }
        found
    }

    /// How long the frame is, once its length is known.
    fn length(&self) -> Option<usize> {
        let payload = self
            .frame
            .get(..3)
            .filter(|_| self.frame.len() >= FRAME_HEAD)?;
        let add = |sum: usize, byte: &u8| sum << 8 | usize::from(*byte);
        Some(payload.iter().fold(0, add).saturating_add(FRAME_HEAD))
    }
}

fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at_checked(at).unwrap_or((bytes, &[]))
}

fn is_refusal(frame: &[u8]) -> bool {
    match frame {
        // Our own answers have more headers.
        [_, _, _, HEADERS, flags, _, _, _, _, block @ ..] => {
            flags & END_STREAM != 0 && is_one_field(block)
        }
        [
            _,
            _,
            _,
            GOAWAY,
            _,
            _,
            _,
            _,
            _, // the last stream, and the code
            _,
            _,
            _,
            _,
            0,
            0,
            0,
            code,
            why @ ..,
        ] => *code == COMPRESSION_ERROR || (*code == ENHANCE_YOUR_CALM && TOO_LARGE.contains(&why)),
        _ => false,
    }
}

/// Whether a header block has one field (RFC 7541 section 6), whose value is short.
fn is_one_field(mut block: &[u8]) -> bool {
    while let Some(0b0010_0000..=0b0011_1111) = block.first() {
        // The table's size.
        block = behind_integer(block, 0b0001_1111);
    }
    match block.first() {
        None => false,
        Some(0b1000_0000..) => behind_integer(block, 0b0111_1111).is_empty(),
        Some(literal) => {
            let prefix = if *literal >= 0b0100_0000 {
                0b0011_1111
            } else {
                0b0000_1111
            };
            let value = behind_integer(block, prefix);
            value.split_first().is_some_and(|(length, value)| {
                literal & prefix != 0 && usize::from(length & 0b0111_1111) == value.len()
            })
        }
    }
}

/// What follows an integer (RFC 7541 section 5.1).
fn behind_integer(block: &[u8], prefix: u8) -> &[u8] {
    let is_long = block.first().is_some_and(|first| first & prefix == prefix);
    let more = block
        .iter()
        .skip(1)
        .take_while(|byte| **byte >= 0x80)
        .count();
    let length = if is_long { more.saturating_add(2) } else { 1 };
    block.get(length..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{END_STREAM, Frames, GOAWAY, HEADERS};

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn ending(code: u8, why: &[u8]) -> Vec<u8> {
        frame(GOAWAY, 0, &[&[0, 0, 0, 1, 0, 0, 0, code], why].concat())
    }

    #[test]
    fn what_the_engine_refuses_by_itself_is_told_from_our_answers() {
        let whole = |block: &[u8]| frame(HEADERS, END_STREAM | 4, block);
        for refused in [
            whole(b"\x48\x03431"),
            whole(b"\x08\x03431"),
            whole(b"\x48\x82\x68\x20"),
            whole(b"\x20\x48\x03431"),
            whole(b"\x3f\xe1\x1f\x48\x03431"),
            whole(b"\xbe"),
            whole(b"\xff\x01"),
            ending(9, b""),
            ending(11, b"header_list_way_too_large"),
            ending(11, b"too_many_continuations"),
        ] {
            assert_eq!(Frames::default().refusals(&refused), 1, "{refused:x?}");
        }
        for other in [
            whole(b"\x48\x03431\xbf"),
            whole(b"\x88\xbe"),
            whole(b"\x88\x5c\x010"),
            whole(b"\x40\x01a\x01b"),
            whole(b""),
            frame(HEADERS, 4, b"\x48\x03431"),
            frame(0, END_STREAM, b"\x48\x03431"),
            ending(0, b""),
            ending(1, b""),
            ending(11, b"too_many_resets"),
        ] {
            assert_eq!(Frames::default().refusals(&other), 0, "{other:x?}");
        }
    }

    #[test]
    fn frames_may_be_sent_in_any_pieces() {
        let refused = frame(HEADERS, END_STREAM | 4, b"\x48\x03431");
        let filling = vec![0x88; 70_000];
        let body = [&b"\0\0\x05\x01\x05\0\0\0\x01"[..], &filling].concat();
        let all = [
            &refused[..],
            &frame(0, 0, &body),
            &frame(4, 0, b""),
            &refused,
            &frame(0, END_STREAM, b"short"),
            &refused,
        ]
        .concat();
        for size in [1, 2, 9, 10, 64, 4096, all.len()] {
            let mut frames = Frames::default();
            let found: usize = all.chunks(size).map(|part| frames.refusals(part)).sum();
            assert_eq!(found, 3, "{size}");
        }
    }
}
