//! The thread of a sink: takes the pending lines, writes them, and retries until that succeeds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Target};
use super::trail::Trail;

/// Interval of attempts while a sink fails.
const FAILED_RETRY: Duration = Duration::from_millis(200);
/// Interval of attempts while a sink takes nothing.
const BLOCKED_RETRY: Duration = Duration::from_millis(10);

/// Starts the thread of a sink.
pub(in crate::audit) fn start(
    trail: &Arc<Trail>,
    name: &'static str,
    required: bool,
    mut target: Box<dyn Target>,
) -> io::Result<usize> {
    let id = trail.add(name, required);
    let trail = Arc::clone(trail);
    std::thread::Builder::new()
        .name(format!("audit-{name}"))
        .spawn(move || {
            let mut batch = Batch::default();
            while let Some(retargets) = trail.next(id, &mut batch) {
                let mut wait = attempt(&trail, id, &mut batch, &mut *target);
                for retarget in retargets {
                    target = retarget.target;
                    batch.rewind_line();
                    wait = attempt(&trail, id, &mut batch, &mut *target);
                    // The receiver may be gone; the sink is retargeted all the same.
                    let _gone = retarget.ack.is_some_and(|ack| ack.send(()).is_err());
                }
                if let Some(wait) = wait
                    && !trail.pause(id, wait)
                {
                    return;
                }
            }
        })?;
    Ok(id)
}

/// Writes the batch. On failure returns the time to wait before the next attempt.
fn attempt(
    trail: &Trail,
    id: usize,
    batch: &mut Batch,
    target: &mut dyn Target,
) -> Option<Duration> {
    if batch.is_empty() {
        return None;
    }
    match target.write(batch) {
        Ok(()) => {
            let seq = batch.link().map_or(0, super::chain::Link::last);
            *batch = Batch::default();
            trail.wrote(id, seq);
            None
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(BLOCKED_RETRY),
        Err(error) => {
            trail.failed(id, &error.to_string());
            Some(FAILED_RETRY)
        }
    }
}
