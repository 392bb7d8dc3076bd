//! Room for connections: each has a seat, and may be asked to leave when another one needs it more.
//! `limit::connections` says which.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::identity::Witness;
use crate::limit::connections::{Arrival, Connections, Networks, Origin, Ticket, TooMany};

/// How long a connection may take to end once it has been asked to.
const LEAVE_GRACE: Duration = Duration::from_millis(100);
/// How often a connection that waits for a seat looks for one that could leave.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A number of seats.
pub struct Room {
    register: Mutex<Connections<Arc<Occupant>>>,
    freed: Notify,
}

/// A connection's seat, given back on drop.
pub struct Seat(Arc<Occupant>);

/// What a connection and its requests know of its seat.
pub struct Occupant {
    ticket: Ticket,
    room: Arc<Room>,
    requests: AtomicUsize,
    is_proven: AtomicBool,
    is_asked: AtomicBool,
    asked: Notify,
}

/// A request in progress, until it is dropped.
pub struct Busy(Arc<Occupant>);

impl Room {
    /// So many seats, and so many for one source whatever room there is.
    pub fn new(seats: usize, of_source: usize) -> Arc<Self> {
        Arc::new(Self {
            register: Mutex::new(Connections::new(seats, of_source)),
            freed: Notify::new(),
        })
    }

    /// Seats a connection, at once if another can leave for it.
    pub async fn seat(self: &Arc<Self>, from: IpAddr, origin: Origin) -> Result<Seat, TooMany> {
        let ticket = self.register.lock().ticket();
        let occupant = Arc::new(Occupant {
            ticket,
            room: Arc::clone(self),
            requests: AtomicUsize::new(0),
            is_proven: AtomicBool::new(false),
            is_asked: AtomicBool::new(false),
            asked: Notify::new(),
        });
        let whose = (Networks::of(from), origin);
        loop {
            let arrival = self
                .register
                .lock()
                .arrive(ticket, whose, &occupant, Occupant::is_busy);
            match arrival {
                Arrival::Placed(leaves) => {
                    ask(leaves);
                    return Ok(Seat(occupant));
                }
                Arrival::Full(leaves) => {
                    ask(leaves);
                    self.freed().await;
                }
                Arrival::Refused => return Err(TooMany),
            }
        }
    }

    /// Has connections leave that hold descriptors which are used up, and waits until one has.
    pub async fn shrink(&self) {
        let leave = self.register.lock().shrink(Occupant::is_busy);
        ask(leave);
        self.freed().await;
    }

    /// Waits until a connection has left, or for a moment.
    async fn freed(&self) {
        let _either_way = tokio::time::timeout(POLL_INTERVAL, self.freed.notified())
            .await
            .is_ok();
    }
}

fn ask(leave: impl IntoIterator<Item = Arc<Occupant>>) {
    for occupant in leave {
        occupant.ask_to_leave();
    }
}

impl Seat {
    /// Its occupant, for its requests to know.
    pub fn occupant(&self) -> &Arc<Occupant> {
        &self.0
    }

    /// A trusted balancer has said that the connection is for this client, whose seat it is from now
    /// on.
    pub fn announce(&self, client: IpAddr) -> Result<(), TooMany> {
        let Self(occupant) = self;
        let client = Networks::of(client);
        let announced =
            occupant
                .room
                .register
                .lock()
                .announce(occupant.ticket, client, Occupant::is_busy);
        ask(announced?);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Self(occupant) = self;
        occupant.room.register.lock().depart(occupant.ticket);
        occupant.room.freed.notify_one();
    }
}

impl Occupant {
    /// Begins a request.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// Ends when the connection has to.
    pub async fn asked_to_leave(&self) {
        let mut asked = std::pin::pin!(self.asked.notified());
        // From here on nothing is missed.
        asked.as_mut().enable();
        if !self.is_asked.load(Ordering::SeqCst) {
            asked.await;
        }
    }

    /// Ends when the connection has had enough time for that.
    pub async fn must_leave(&self) {
        self.asked_to_leave().await;
        tokio::time::sleep(LEAVE_GRACE).await;
    }

    fn ask_to_leave(&self) {
        tracing::debug!(connection = self.ticket, "asked to leave for another one");
        self.is_asked.store(true, Ordering::SeqCst);
        self.asked.notify_waiters();
    }

    fn is_busy(self: &Arc<Self>) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }
}

impl Witness for Occupant {
    fn proven(&self) {
        if !self.is_proven.swap(true, Ordering::Relaxed) {
            self.room.register.lock().prove(self.ticket);
        }
    }
}

impl fmt::Debug for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ticket, .. } = self;
        f.debug_struct("Occupant")
            .field("ticket", ticket)
            .finish_non_exhaustive()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(occupant) = self;
        occupant.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
