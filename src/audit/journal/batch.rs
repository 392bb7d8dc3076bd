//! Batches of lines for a sink, and the trait of all sinks.

use std::fmt;
use std::io;

use tokio::sync::oneshot;

use super::chain::{Line, Link};

/// A destination of lines.
pub(in crate::audit) trait Target: Send {
    /// Writes the rest of a batch and advances the batch by the bytes written. `WouldBlock` means that
    /// nothing is wrong and that the destination takes nothing at the moment.
    fn write(&mut self, batch: &mut Batch) -> io::Result<()>;
}

/// Another destination for a sink.
pub(in crate::audit) struct Retarget {
    pub(in crate::audit) target: Box<dyn Target>,
    /// Signalled when the old destination has everything written before.
    pub(in crate::audit) ack: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for Retarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Retarget")
    }
}

/// Whole lines, and how much of them is written.
#[derive(Default)]
pub(in crate::audit) struct Batch {
    text: String,
    done: usize,
    /// The end of the chain in it.
    link: Option<Link>,
}

impl Batch {
    /// Lines of a trail that is supposed to begin at the record `first`.
    pub(in crate::audit) fn new(text: String, first: u64) -> Self {
        let link = link_of(&text, first);
        Self {
            text,
            done: 0,
            link,
        }
    }

    pub(in crate::audit) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    pub(in crate::audit) fn len(&self) -> usize {
        self.text.len()
    }

    /// The part that is not written yet.
    pub(in crate::audit) fn rest(&self) -> &str {
        self.text.get(self.done..).unwrap_or_default()
    }

    /// Counts more bytes as written.
    pub(in crate::audit) fn advance(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes).min(self.text.len());
    }

    /// Counts bytes as not written after all.
    pub(in crate::audit) fn take_back(&mut self, bytes: usize) {
        self.done = self.done.saturating_sub(bytes);
    }

    /// Goes back to the beginning of the line that is written in part.
    pub(in crate::audit) fn rewind_line(&mut self) {
        let done = self.text.get(..self.done).unwrap_or_default();
        self.done = done.rfind('\n').map_or(0, |end| end.saturating_add(1));
    }

    /// The end of the chain in it.
    pub(in crate::audit) fn link(&self) -> Option<&Link> {
        self.link.as_ref()
    }
}

fn link_of(text: &str, first: u64) -> Option<Link> {
    let last = text.trim_end().rsplit('\n').next()?;
    let line = Line::parse(last.as_bytes())?;
    Some(Link {
        next: line.seq.saturating_add(1),
        hash: String::from_utf8_lossy(line.hash).into_owned(),
        first,
    })
}

#[cfg(test)]
mod tests {
    use super::Batch;

    #[test]
    fn a_batch_goes_back_to_the_start_of_a_line() {
        let mut batch = Batch::new("one\ntwo\n".to_owned(), 1);
        batch.advance(6);
        assert_eq!(batch.rest(), "o\n");
        batch.rewind_line();
        assert_eq!(batch.rest(), "two\n");
        batch.advance(4);
        batch.rewind_line();
        assert_eq!(batch.rest(), "");
    }
}
