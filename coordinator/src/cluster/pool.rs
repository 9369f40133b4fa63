//! Kept connections to the other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::{Channel, Endpoint};
use unanimity_proto::Connector;
use unanimity_types::ErrorCode;

use crate::engine::Error;

/// A node that cannot be reached for so long is tried again later: its partitions go to others meanwhile.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A ping after so much silence, and how long its answer may take: a peer that went without a word is found sooner
/// than its lease ends.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections to each node. Long polls take a stream each, of which a connection has 1,000 by default.
const LANES: usize = 4;
/// Calls in flight on one connection: below the streams that the other side allows, so that none waits in our
/// client for a long poll to end.
const LANE_CALLS_MAX: usize = 800;
/// Nodes that connections are kept to. Addresses come from the log's database; nodes that are gone make room.
const PEERS_MAX: usize = 1_024;

/// Another node, with a place for one call.
#[derive(Debug)]
pub(crate) struct Lane {
    /// Its address.
    pub(crate) address: Arc<str>,
    /// A connection to it.
    pub(crate) channel: Channel,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Peer {
    address: Arc<str>,
    lanes: Vec<(Channel, Arc<Semaphore>)>,
}

/// The connections. None is opened before its first call.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// How to connect, if not by TCP.
    pub(super) connector: Option<Connector>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
}

impl Pool {
    /// A place for a call to the node at `address`.
    ///
    /// # Errors
    /// `too_busy` if as many calls are on their way there as may be, `unavailable` for what is no address.
    pub(super) fn lane(&self, address: &str) -> Result<Lane, Error> {
        let peer = self.peer(address)?;
        let free = |(channel, calls): &(Channel, Arc<Semaphore>)| {
            let place = Arc::clone(calls).try_acquire_owned().ok()?;
            Some(Lane { address: Arc::clone(&peer.address), channel: channel.clone(), _place: place })
        };
        // The one with the fewest first: a connection that is slow is left in peace.
        let mut lanes: Vec<_> = peer.lanes.iter().collect();
        lanes.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.available_permits()));
        lanes.into_iter().find_map(free).ok_or_else(|| {
            let message =
                format!("as many calls as may be are on their way to the owner at {address}; try again");
            Error::new(ErrorCode::TooBusy, message).retry_after(Duration::from_millis(500))
        })
    }

    /// Forgets the connections to all other addresses; calls on them go on.
    pub(super) fn keep(&self, is_known: impl Fn(&str) -> bool) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|address, _| is_known(address));
    }

    fn peer(&self, address: &str) -> Result<Arc<Peer>, Error> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(address) {
            return Ok(Arc::clone(peer));
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| {
            let message = format!("the partition's owner has no usable address ({address:?}): {error}");
            Error::new(ErrorCode::Unavailable, message).elsewhere()
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        if peers.len() >= PEERS_MAX {
            peers.clear();
        }
        let connect = || match &self.connector {
            Some(connector) => connector.lazily(&endpoint),
            None => endpoint.connect_lazy(),
        };
        let lane = |_| (connect(), Arc::new(Semaphore::new(LANE_CALLS_MAX)));
        let peer = Peer { address: address.into(), lanes: (0..LANES).map(lane).collect() };
        Ok(Arc::clone(peers.entry(address.to_owned()).or_insert(Arc::new(peer))))
    }
}
