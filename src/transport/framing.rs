//! HTTP/1.1 heads and framing, watched as they come in (RFC 9112 sections 2 to 7).
//!
//! hyper reads leniently where the specification lets it: equal `Content-Length` lines become one,
//! `Transfer-Encoding` beside `Content-Length` wins, a bare LF ends a line. Requests go upstream
//! framed anew, so none of this reaches the registry; but a client that frames so is confused or
//! lying, and is refused. And what hyper refuses it answers itself, in its own way and without a
//! record. So [`Framing`], which is pure, refuses all that hyper would, and [`super::strict`] hands
//! a head over to hyper when it is whole and good. What comes instead of one is never seen by hyper: the
//! connection is taken back and answered by us. A body ends where its framing breaks.

use crate::request::{Asked, BadHead, MAX_HEAD, MAX_HEADERS, is_token};

/// Bytes of empty lines before a head at most.
const MAX_BLANK: usize = 64;
/// Bytes of a chunk's size line at most, extensions included.
const MAX_CHUNK_LINE: usize = 256;
/// The longest body there is; hyper counts a little less far than 64 bits.
const MAX_LENGTH: u64 = u64::MAX >> 1;

const REQUEST_LINE: BadHead = BadHead::Framing("the request line is not METHOD PATH VERSION");
const TARGET: BadHead =
    BadHead::Framing("the request target must be a path, without odd characters");
const FIELD: BadHead =
    BadHead::Framing("a header line must be NAME: VALUE, without odd characters");
const LINE_END: BadHead = BadHead::Framing("each line of a head must end with CR LF, once");
const LENGTH: BadHead = BadHead::Framing("Content-Length must stand once, and be a number");
const ENCODING: BadHead =
    BadHead::Framing("Transfer-Encoding must be chunked, once, without Content-Length");
const CHUNK: BadHead = BadHead::Framing("the body is not framed in chunks");

/// Where in the stream of requests the next byte stands.
#[derive(Debug)]
pub(super) struct Framing {
    state: State,
    /// A line that has not ended yet.
    line: Vec<u8>,
    head: Head,
    asked: Asked,
    /// Whether a whole head has been seen.
    begun: bool,
}

/// What became of some bytes.
#[derive(Debug, Default)]
pub(super) struct Fed {
    /// So many belong to whole heads and to bodies.
    pub(super) whole: usize,
    /// So many, with those of a head that is not whole, break no rule.
    pub(super) fine: usize,
    /// Rule that the next one breaks.
    pub(super) fault: Option<BadHead>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The line feed after a chunk's data and carriage return.
    ChunkEnd { seen_cr: bool },
    /// A chunk's size line.
    ChunkSize,
    /// So many bytes of body, then what follows.
    Data { left: u64, then: After },
    /// A line of a head, of which it is the first or not.
    Head { first: bool },
    /// A line after the last chunk.
    Trailer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Chunk,
    Message,
}

/// What the lines of a head have said so far.
#[derive(Debug, Default)]
struct Head {
    /// Its bytes, with empty lines before it.
    size: usize,
    fields: usize,
    length: Option<u64>,
    chunked: bool,
    /// Whether it is of HTTP/1.0, which knows no chunks.
    old: bool,
}

impl Default for Framing {
    fn default() -> Self {
        Self {
            state: State::Head { first: true },
            line: Vec::new(),
            head: Head::default(),
            asked: Asked::default(),
            begun: false,
        }
    }
}

impl Framing {
    /// What the last request asks for, be it good or not.
    pub(super) fn asked(&self) -> Asked {
        self.asked
    }

    /// Whether the next line is one of a head.
    pub(super) fn awaits_head(&self) -> bool {
        matches!(self.state, State::Head { .. })
    }

    /// Whether the next byte is one of a body.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn in_data(&self) -> bool {
        matches!(self.state, State::Data { .. })
    }

    /// Whether the first line of a request has been seen, and not yet its end.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn in_message(&self) -> bool {
        self.state != State::Head { first: true }
    }

    /// Whether it stands between two requests.
    pub(super) fn is_between(&self) -> bool {
        self.begun && self.line.is_empty() && self.state == State::Head { first: true }
    }

    /// Whether a head has begun to arrive, and not ended.
    pub(super) fn mid_head(&self) -> bool {
        match self.state {
            State::Head { first } => !first || !self.line.is_empty(),
            State::ChunkEnd { .. } | State::ChunkSize | State::Data { .. } | State::Trailer => {
                false
            }
        }
    }

    /// Whether a head is due: it has begun to arrive, or the connection is new.
    pub(super) fn in_head(&self) -> bool {
        self.mid_head() || (self.awaits_head() && !self.begun)
    }

    /// Takes the next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut fed = Fed::default();
        while let Some(rest) = bytes.get(fed.fine..).filter(|rest| !rest.is_empty()) {
            match self.step(rest) {
                Ok(taken) => fed.fine = fed.fine.saturating_add(taken),
                Err(fault) => {
                    fed.fault = Some(fault);
                    return fed;
                }
            }
            if !self.mid_head() {
                fed.whole = fed.fine;
            }
        }
        fed
    }

    /// Takes as many bytes as belong together; at least one.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, BadHead> {
        match self.state {
            State::Data { left, then } => {
                let available = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let taken = available.min(left);
                let left = left.saturating_sub(taken);
                self.state = if left > 0 {
                    State::Data { left, then }
                } else {
                    then.begin()
                };
                Ok(usize::try_from(taken).unwrap_or(bytes.len()))
            }
            State::ChunkEnd { seen_cr } => {
                self.state = match (seen_cr, bytes.first()) {
                    (false, Some(b'\r')) => State::ChunkEnd { seen_cr: true },
                    (true, Some(b'\n')) => State::ChunkSize,
                    _ => return Err(CHUNK),
                };
                Ok(1)
            }
            State::ChunkSize | State::Head { .. } | State::Trailer => self.line_part(bytes),
        }
    }

    /// Takes a line, or as much of it as there is.
    fn line_part(&mut self, bytes: &[u8]) -> Result<usize, BadHead> {
        let found = memchr::memchr(b'\n', bytes);
        let taken = found.map_or(bytes.len(), |at| at.saturating_add(1));
        let part = bytes.get(..taken).unwrap_or_default();
        if self.state == (State::Head { first: true }) && self.line.len() < Asked::LONGEST {
            self.asked = Asked::by(self.line.iter().chain(part));
        }
        self.measure(taken)?;
        if found.is_none() {
            // Binary junk has no end of line to wait for.
            let legal = |byte: &u8| matches!(byte, b' '..=b'~' | b'\r');
            if self.state == (State::Head { first: true }) && !part.iter().all(legal) {
                return Err(REQUEST_LINE);
            }
            self.line.extend_from_slice(part);
            return Ok(taken);
        }
        self.state = if self.line.is_empty() {
            self.line_ended(part)?
        } else {
            self.line.extend_from_slice(part);
            let line = std::mem::take(&mut self.line);
            self.line_ended(&line)?
        };
        Ok(taken)
    }

    fn measure(&mut self, more: usize) -> Result<(), BadHead> {
        let line = self.line.len().saturating_add(more);
        match self.state {
            State::ChunkSize if line > MAX_CHUNK_LINE => Err(CHUNK),
            State::Trailer if line > MAX_HEAD => Err(BadHead::TooLarge),
            State::Head { first } => {
                self.head.size = self.head.size.saturating_add(more);
                if self.head.size <= MAX_HEAD {
                    Ok(())
                } else if first && line > MAX_HEAD / 2 {
                    Err(BadHead::TargetTooLong)
                } else {
                    Err(BadHead::TooLarge)
                }
            }
            State::ChunkEnd { .. } | State::ChunkSize | State::Data { .. } | State::Trailer => {
                Ok(())
            }
        }
    }

    fn line_ended(&mut self, line: &[u8]) -> Result<State, BadHead> {
        let line = line.strip_suffix(b"\r\n").ok_or(LINE_END)?;
        match self.state {
            // Old clients send an empty line too many after a body. hyper sees these as they come.
            State::Head { first: true } if line.is_empty() && self.head.size > MAX_BLANK => {
                Err(REQUEST_LINE)
            }
            State::Head { first: true } if line.is_empty() => Ok(self.state),
            State::Head { first: true } => {
                self.head.old = is_old(line)?;
                Ok(State::Head { first: false })
            }
            State::Head { first: false } if line.is_empty() => {
                self.begun = true;
                std::mem::take(&mut self.head).body()
            }
            State::Head { first: false } => {
                self.head.field(line)?;
                Ok(self.state)
            }
            State::ChunkSize => match chunk_size(line)? {
                0 => Ok(State::Trailer),
                left => Ok(State::Data {
                    left,
                    then: After::Chunk,
                }),
            },
            State::Trailer if line.is_empty() => Ok(State::Head { first: true }),
            State::Trailer => field(line).map(|_dropped| State::Trailer),
            State::ChunkEnd { .. } | State::Data { .. } => Ok(self.state),
        }
    }
}

impl After {
    fn begin(self) -> State {
        match self {
            Self::Chunk => State::ChunkEnd { seen_cr: false },
            Self::Message => State::Head { first: true },
        }
    }
}

impl Head {
    fn field(&mut self, line: &[u8]) -> Result<(), BadHead> {
        self.fields = self.fields.saturating_add(1);
        if self.fields > MAX_HEADERS {
            return Err(BadHead::TooLarge);
        }
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value).ok_or(LENGTH)?;
            if self.length.replace(length).is_some() {
                return Err(LENGTH);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let is_chunked = value.eq_ignore_ascii_case(b"chunked");
            if !is_chunked || std::mem::replace(&mut self.chunked, true) {
                return Err(ENCODING);
            }
        }
        Ok(())
    }

    fn body(self) -> Result<State, BadHead> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(ENCODING),
            (true, None) if self.old => Err(ENCODING),
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::Head { first: true }),
            (false, Some(left)) => Ok(State::Data {
                left,
                then: After::Message,
            }),
        }
    }
}

/// Reads a request line; whether it is of HTTP/1.0 (RFC 9112 section 3).
fn is_old(line: &[u8]) -> Result<bool, BadHead> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(REQUEST_LINE);
    };
    if !is_token(method) {
        return Err(REQUEST_LINE);
    }
    let is_old = match version {
        b"HTTP/1.1" => false,
        b"HTTP/1.0" => true,
        _ if is_other_version(version) => return Err(BadHead::Version),
        _ => return Err(REQUEST_LINE),
    };
    // Its target is no path; there is nothing here that it could be for.
    if method == b"CONNECT" {
        return Err(BadHead::Connect);
    }
    // A fragment is not sent in a request; hyper would cut it off.
    let legal = |byte: &u8| byte.is_ascii_graphic() && !b"\"#<>`".contains(byte);
    if (target.starts_with(b"/") || target == b"*") && target.iter().all(legal) {
        Ok(is_old)
    } else {
        Err(TARGET)
    }
}

fn is_other_version(word: &[u8]) -> bool {
    let digits = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let number = word.strip_prefix(b"HTTP/");
    number.is_some_and(|number| !number.is_empty() && number.iter().all(digits))
}

/// Reads a field line: its name, and its value without the blanks around it (RFC 9112 section 5).
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), BadHead> {
    let colon = memchr::memchr(b':', line).ok_or(FIELD)?;
    let (name, value) = line.split_at_checked(colon).ok_or(FIELD)?;
    let value = value.get(1..).unwrap_or_default();
    if is_token(name) && value.iter().copied().all(is_text) {
        Ok((name, value.trim_ascii()))
    } else {
        Err(FIELD)
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn number(digits: &[u8]) -> Option<u64> {
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all)?;
    text.parse().ok().filter(|length| *length <= MAX_LENGTH)
}

/// `1*HEXDIG [ chunk-ext ]`; extensions are never passed on.
fn chunk_size(line: &[u8]) -> Result<u64, BadHead> {
    let is_digit = |byte: &&u8| byte.is_ascii_hexdigit();
    let digits = line.iter().take_while(is_digit).count();
    let (size, extensions) = line.split_at_checked(digits).ok_or(CHUNK)?;
    if digits > 15 || !are_extensions(extensions) {
        return Err(CHUNK);
    }
    let text = std::str::from_utf8(size).map_err(|_not_hex| CHUNK)?;
    u64::from_str_radix(text, 16).map_err(|_not_hex| CHUNK)
}

/// Returns true for `*( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` (RFC 9112
/// section 7.1.1). A quoted value that does not end is read as ended by some, and not by others.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(behind) = behind_extension(rest) else {
            return false;
        };
        rest = behind;
    }
    true
}

fn behind_extension(text: &[u8]) -> Option<&[u8]> {
    let name = behind_blanks(text).strip_prefix(b";")?;
    let rest = behind_token(behind_blanks(name))?;
    let Some(value) = behind_blanks(rest).strip_prefix(b"=") else {
        return Some(rest);
    };
    let value = behind_blanks(value);
    value
        .strip_prefix(b"\"")
        .map_or_else(|| behind_token(value), behind_quoted)
}

fn behind_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| b" \t".contains(byte));
    text.get(blanks.count()..).unwrap_or_default()
}

fn behind_token(text: &[u8]) -> Option<&[u8]> {
    let letters = text.iter().take_while(|byte| is_token(&[**byte]));
    let (token, rest) = text.split_at_checked(letters.count())?;
    (!token.is_empty()).then_some(rest)
}

/// What follows a quoted string whose first mark has been read (RFC 9110 section 5.6.4).
fn behind_quoted(text: &[u8]) -> Option<&[u8]> {
    let mut is_escaped = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'"' if !is_escaped => return text.get(at.saturating_add(1)..),
            byte if !is_text(*byte) => return None,
            byte => is_escaped = !is_escaped && *byte == b'\\',
        }
    }
    None
}

#[cfg(test)]
mod tests;
