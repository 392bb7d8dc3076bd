//! Caps on connections: how many there are, and how fast a source makes new ones.

use std::net::IpAddr;
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use super::room::{Room, Seat};
use super::settings::Settings;
use crate::limit::Source;
use crate::limit::connections::{Origin, TooMany};
use crate::proxy::Proxy;
use crate::telemetry::LogLimit;

/// Caps on connections: over all, and for one source.
pub(super) struct Caps {
    pub(super) room: Arc<Room>,
    /// Of lines about trusted proxies that write no PROXY header.
    unannounced: LogLimit,
}

impl Caps {
    pub(super) fn new(server: &Settings) -> Self {
        let of_source = server.max_connections_per_source.unwrap_or(usize::MAX);
        Self {
            room: Room::new(connections(server.max_connections), of_source),
            unannounced: LogLimit::new(),
        }
    }

    /// A seat, unless its source has too many already, or makes new ones too fast.
    pub(super) async fn seat(
        &self,
        proxy: &Proxy,
        address: IpAddr,
        origin: Origin,
    ) -> Option<Seat> {
        match origin {
            Origin::Client => is_slow_enough(proxy, address).then_some(())?,
            // It has many clients, who are looked at once they are known.
            Origin::Balancer => {}
        }
        let seat = self.room.seat(address, origin).await;
        seat.map_err(|TooMany| too_many(address)).ok()
    }

    /// Tells the operator that a trusted proxy does not write the header that it has to.
    pub(super) fn tell_unannounced(&self, address: IpAddr) {
        if let Some(omitted) = self.unannounced.due() {
            tracing::warn!(
                %address,
                omitted,
                "a connection from a trusted proxy did not begin with a PROXY header, as \
                 `server.proxy_protocol` requires, and was closed"
            );
        }
    }
}

/// Has a connection be for the client whom a trusted proxy has named.
pub(super) fn announce(proxy: &Proxy, seat: &Seat, client: IpAddr) -> Option<()> {
    is_slow_enough(proxy, client).then_some(())?;
    let announced = seat.announce(client);
    announced.map_err(|TooMany| too_many(client)).ok()
}

/// Whether a source does not make new connections too fast.
fn is_slow_enough(proxy: &Proxy, address: IpAddr) -> bool {
    let (rates, retained) = (proxy.rules().rates, proxy.retained());
    let source = Source::of(address);
    let admitted = retained.shield.connection(source, rates, retained.now());
    if admitted.is_err() {
        tracing::debug!(%address, "too many new connections from one source");
    }
    admitted.is_ok()
}

fn too_many(address: IpAddr) {
    tracing::debug!(%address, "too many connections from one source");
}

/// So many connections that descriptors are left for their requests.
fn connections(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok());
    let files = files.unwrap_or(usize::MAX);
    wanted.min(files.saturating_sub(files / 4)).max(1)
}
