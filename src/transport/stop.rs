//! The end that a connection is asked to come to.

use std::sync::Arc;

use tokio::sync::watch;

use super::room::Occupant;
use crate::proxy::asked_to_stop;

/// When a connection has to end: with the server, or for another one.
pub(super) struct Stop {
    pub(super) ending: watch::Receiver<bool>,
    pub(super) occupant: Arc<Occupant>,
}

impl Stop {
    /// Ends when it has to.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            () = asked_to_stop(&mut self.ending) => {}
            () = self.occupant.asked_to_leave() => {}
        }
    }
}
