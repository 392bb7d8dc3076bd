//! The writes under way, counted, and ended at the end of a drain.

use tokio::sync::watch;

/// The writes under way. One for the life of the process.
pub(crate) struct Effects(watch::Sender<bool>);

impl Default for Effects {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Effects {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.receiver_count()
    }

    /// Waits until there are none.
    pub(crate) async fn ended(&self) {
        self.0.closed().await;
    }

    /// Turns true when all of them have to end. One that holds this counts as under way.
    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    /// Ends all of them.
    pub(crate) fn cut(&self) {
        self.0.send_replace(true);
    }
}

/// Ends when the server has been asked to stop.
pub(crate) async fn asked_to_stop(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the asking side is gone; that is an end as well.
    let _asked = shutdown.wait_for(|asked| *asked).await.is_ok();
}
