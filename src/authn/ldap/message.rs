//! Messages of a directory server, looked at before the LDAP library may see them.
//!
//! The library reads messages of any length, and descends into them by recursion: a server that
//! lies, or whoever sits between us and one that is asked without TLS, could fill the memory or end
//! the whole process with a stack overflow. What passes here is short, shallow and whole (RFC 4511
//! sections 4.1.1 and 5.1: definite lengths, tags of one byte), and is an answer that we await.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest message, in bytes; an entry with all its values is one message.
pub(super) const MAX_MESSAGE: usize = 1 << 20;
/// How deep elements may lie in one another; a search result needs five.
const MAX_DEPTH: usize = 16;
/// How many elements a message may have; each takes the library some sixty bytes.
const MAX_ELEMENTS: usize = 100_000;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const CONSTRUCTED: u8 = 0x20;

/// What a message may be: a bind response, a search entry, the end of a search, a search
/// reference, an extended response, an intermediate response (`[APPLICATION n]`, constructed).
const ANSWERS: [u8; 6] = [0x61, 0x64, 0x65, 0x73, 0x78, 0x79];

/// Reads one message, to its last byte and not further. `None` at the end of the stream.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut message = vec![0; 2];
    if from.read(message.get_mut(..1).unwrap_or_default()).await? == 0 {
        return Ok(None);
    }
    from.read_exact(message.get_mut(1..).unwrap_or_default())
        .await?;
    if message.first() != Some(&SEQUENCE) {
        return Err(odd());
    }
    let more = match message.get(1) {
        Some(long) if *long > 0x80 => usize::from(long & 0x7f).min(5),
        Some(_) | None => 0,
    };
    append(from, &mut message, more).await?;
    let (_, length) = header(&message).ok_or_else(odd)?;
    let missing = length.end.saturating_sub(message.len());
    if length.end > MAX_MESSAGE {
        return Err(odd());
    }
    append(from, &mut message, missing).await?;
    if is_answer(&message) {
        Ok(Some(message))
    } else {
        Err(odd())
    }
}

async fn append(
    from: &mut (impl AsyncRead + Unpin),
    message: &mut Vec<u8>,
    count: usize,
) -> io::Result<()> {
    let begin = message.len();
    // Memory grows with what has arrived, and not with what a length promises.
    let limit = u64::try_from(count).unwrap_or(u64::MAX);
    from.take(limit).read_to_end(message).await?;
    if message.len().saturating_sub(begin) == count {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn odd() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not an LDAP answer")
}

/// Whether this is exactly one message, of a kind that a client is sent.
fn is_answer(message: &[u8]) -> bool {
    parts(message).is_some() && is_sound(message)
}

/// The operation of a message and what is in it.
fn parts(message: &[u8]) -> Option<(u8, &[u8])> {
    let (whole, rest) = element(message)?;
    if whole.tag != SEQUENCE || !rest.is_empty() {
        return None;
    }
    let (id, rest) = element(whole.content)?;
    let (operation, rest) = element(rest)?;
    // Controls; Active Directory puts a name here when it takes its leave.
    let at_most_one_more = rest.is_empty()
        || element(rest)
            .is_some_and(|(last, rest)| matches!(last.tag, 0xa0 | 0x8a | 0xaa) && rest.is_empty());
    let fits = id.tag == INTEGER
        && (1..=4).contains(&id.content.len())
        && ANSWERS.contains(&operation.tag)
        && at_most_one_more;
    fits.then_some((operation.tag, operation.content))
}

/// The result code of an extended response, as `StartTLS` is answered; `None` for anything else.
pub(super) fn extended_result(message: &[u8]) -> Option<u8> {
    let (operation, content) = parts(message)?;
    let (code, _) = element(content)?;
    match (operation, code.tag, code.content) {
        (0x78, 0x0a, [code]) => Some(*code),
        _ => None,
    }
}

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

/// The element at the beginning and what follows it.
fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (tag, place) = header(bytes)?;
    let content = bytes.get(place.clone())?;
    Some((Element { tag, content }, bytes.get(place.end..)?))
}

/// The tag at the beginning and where its content will be, whether or not it is there already.
fn header(bytes: &[u8]) -> Option<(u8, std::ops::Range<usize>)> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    let (begin, length) = match first {
        short @ 0..0x80 => (2, usize::from(*short)),
        long => {
            let count = usize::from(long & 0x7f);
            if !(1..=4).contains(&count) {
                return None;
            }
            let fold = |sum: usize, byte: &u8| (sum << 8) | usize::from(*byte);
            (
                count.checked_add(2)?,
                rest.get(..count)?.iter().fold(0, fold),
            )
        }
    };
    Some((*tag, begin..begin.checked_add(length)?))
}

/// Whether every element is whole, and none lies too deep.
fn is_sound(message: &[u8]) -> bool {
    let mut open = vec![message];
    let mut elements = 0_usize;
    while let Some(rest) = open.pop() {
        if rest.is_empty() {
            continue;
        }
        let Some((found, rest)) = element(rest) else {
            return false;
        };
        elements = elements.saturating_add(1);
        open.push(rest);
        if found.tag & CONSTRUCTED != 0 {
            open.push(found.content);
        }
        if elements > MAX_ELEMENTS || open.len() > MAX_DEPTH {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{MAX_MESSAGE, extended_result, is_answer, read};
    use proptest::prelude::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        let head = match content.len() {
            short @ 0..0x80 => vec![tag, u8::try_from(short).unwrap()],
            _ => [&[tag, 0x84][..], &length].concat(),
        };
        [head, content.to_vec()].concat()
    }

    fn message(operation: &[u8]) -> Vec<u8> {
        tlv(0x30, &[tlv(2, &[1]), operation.to_vec()].concat())
    }

    fn result(operation: u8, code: u8) -> Vec<u8> {
        let content = [tlv(10, &[code]), tlv(4, b""), tlv(4, b"")].concat();
        message(&tlv(operation, &content))
    }

    async fn all(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, std::io::ErrorKind> {
        let mut found = Vec::new();
        while let Some(one) = read(&mut bytes).await.map_err(|error| error.kind())? {
            found.push(one);
        }
        Ok(found)
    }

    #[tokio::test]
    async fn messages_are_read_one_by_one() {
        let long = message(&tlv(0x64, &tlv(4, &vec![b'x'; 70_000])));
        let stream = [result(0x61, 0), long.clone(), result(0x65, 4)].concat();
        assert_eq!(
            all(&stream).await.unwrap(),
            [result(0x61, 0), long, result(0x65, 4)]
        );
        assert_eq!(all(b"").await.unwrap(), Vec::<Vec<u8>>::new());
        for cut in 1..stream.len().min(300) {
            let whole = [0, result(0x61, 0).len()].contains(&cut);
            assert_eq!(all(&stream[..cut]).await.is_ok(), whole, "{cut}");
        }
    }

    #[tokio::test]
    async fn what_no_server_says_ends_the_connection() {
        let mut deep = Vec::new();
        for _ in 0..200_000 {
            deep = [&[0x30, 0x84][..], &deep.len().to_be_bytes()[4..], &deep].concat();
            if deep.len() > 20_000 {
                break;
            }
        }
        let flat = tlv(0x64, &[5, 0].repeat(150_000));
        for (what, bytes) in [
            ("text", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            ("zeros", vec![0; 64]),
            ("an endless length", b"\x30\x80\x02\x01\x01".to_vec()),
            (
                "a length of eight bytes",
                [&[0x30, 0x88][..], &[0xff; 64]].concat(),
            ),
            ("a huge length", b"\x30\x84\xff\xff\xff\xff".to_vec()),
            (
                "more than a megabyte",
                message(&tlv(0x64, &vec![0; MAX_MESSAGE])),
            ),
            ("a request", result(0x60, 0)),
            (
                "an operation that is no structure",
                message(&tlv(0x41, b"")),
            ),
            ("no operation", tlv(0x30, &tlv(2, &[1]))),
            ("no message number", tlv(0x30, &result(0x61, 0))),
            (
                "an empty message number",
                tlv(0x30, &[tlv(2, b""), tlv(0x61, b"")].concat()),
            ),
            (
                "three operations",
                tlv(
                    0x30,
                    &[tlv(2, &[1]), tlv(0x61, b""), tlv(0x61, b"")].concat(),
                ),
            ),
            (
                "a tag of two bytes",
                message(&tlv(0x64, &[0x1f, 0x81, 0x01, 0])),
            ),
            (
                "an element beyond its parent",
                message(&tlv(0x64, &[4, 9, b'x'])),
            ),
            ("a tower", message(&tlv(0x64, &deep))),
            ("a crowd", message(&flat)),
        ] {
            assert_eq!(
                all(&bytes).await,
                Err(std::io::ErrorKind::InvalidData),
                "{what}"
            );
        }
    }

    #[test]
    fn the_answer_to_start_tls_is_read() {
        assert_eq!(extended_result(&result(0x78, 0)), Some(0));
        assert_eq!(extended_result(&result(0x78, 2)), Some(2));
        assert_eq!(extended_result(&result(0x61, 0)), None);
        assert_eq!(extended_result(&message(&tlv(0x78, b""))), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            is_answer(&bytes);
            extended_result(&bytes);
        }

        #[test]
        fn a_broken_message_is_whole_or_refused(
            at in 0_usize..40, with in any::<u8>(), code in any::<u8>()
        ) {
            let mut bytes = result(0x65, code);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = with;
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            if let Ok(found) = runtime.block_on(all(&bytes)) {
                prop_assert_eq!(found.concat(), bytes);
            }
        }
    }
}
