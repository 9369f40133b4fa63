//! Connections, lent out one at a time and given back only after success.
//!
//! Not sqlx's pool, for three reasons. A connection on which anything went wrong, or whose user was
//! dropped, must be closed, not reused: `begin` cancelled half-way leaves an open transaction in
//! sqlx's pool. "No connection could be had" must be told from "it broke after the statement was
//! sent", because the first is certain and the second is not (protocol C4). And a server that is
//! down is to be reported at once, not after the pool's patience.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::hosts::Hosts;
use crate::log::Error;

/// A connection that was idle for so long is asked whether it is alive before it is used. On a busy
/// log no connection is idle that long, so the hot path pays nothing.
const PING_AFTER: Duration = Duration::from_secs(1);

/// A connection older than this is replaced: after a failover or a change of names in DNS the old
/// ones fade out.
const LIFE_MAX: Duration = Duration::from_secs(30 * 60);

/// After so many loans the statements are prepared anew. A plan that the server made while the log was
/// a page or two reads the whole table, and a prepared statement keeps its plan until the server next
/// collects statistics, which may be a minute and many thousands of blocks later. The price is one round
/// trip and a few plans in a thousand statements.
const REPLAN_AFTER: u32 = 1_000;

/// How long closing waits for what is under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A bounded set of connections.
pub(super) struct Connections {
    hosts: Arc<Hosts>,
    connect_limit: Duration,
    size: u32,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    kept: Kept,
    since: Instant,
}

struct Kept {
    connection: PgConnection,
    born: Instant,
    /// Loans since its statements were prepared.
    loans: u32,
}

/// A connection on loan. Dropped, it is closed; [`Lent::give_back`] keeps it for the next.
pub(super) struct Lent {
    kept: Kept,
    home: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(hosts: Arc<Hosts>, size: u32, connect_limit: Duration) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(usize::try_from(size).unwrap_or(1)));
        Arc::new(Self { hosts, connect_limit, size, permits, idle: Mutex::new(Vec::new()) })
    }

    /// Lends a connection, or says within the limit that none can be had: then nothing was sent.
    pub(super) async fn lend(self: &Arc<Self>) -> Result<Lent, Error> {
        let permit = match timeout(self.connect_limit, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) => return Err(Error::Unavailable("the log was closed".to_owned())),
            Err(_) => return Err(Error::Unavailable("every connection is in use".to_owned())),
        };
        let mut kept = match self.reuse().await {
            Some(kept) => kept,
            None => Kept {
                connection: self.hosts.connect(self.connect_limit).await?,
                born: Instant::now(),
                loans: 0,
            },
        };
        kept.loans += 1;
        Ok(Lent { kept, home: Arc::clone(self), _permit: permit })
    }

    async fn reuse(&self) -> Option<Kept> {
        let Idle { mut kept, since } = self.pop_idle()?;
        let renewed = if kept.loans >= REPLAN_AFTER {
            kept.loans = 0;
            timeout(self.connect_limit, kept.connection.clear_cached_statements()).await
        } else if since.elapsed() >= PING_AFTER {
            timeout(self.connect_limit, kept.connection.ping()).await
        } else {
            return Some(kept);
        };
        if let Ok(Ok(())) = renewed {
            return Some(kept);
        }
        // What broke this one most likely broke its neighbours.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
        None
    }

    fn pop_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.kept.born.elapsed() < LIFE_MAX);
        idle.pop()
    }

    /// Waits a while for what is under way, then closes.
    pub(super) async fn close(&self) {
        // Whether all came back or the time is over: what is still out is closed when it is dropped.
        let _ = timeout(CLOSE_LIMIT, self.permits.acquire_many(self.size)).await;
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for Idle { kept, .. } in idle {
            // A polite goodbye; if it fails the server notices the closed socket.
            let _ = timeout(Duration::from_secs(1), kept.connection.close()).await;
        }
    }
}

impl Lent {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.kept.connection
    }

    /// Keeps the connection for the next: only after everything on it succeeded.
    pub(super) fn give_back(self) {
        let Self { kept, home, _permit } = self;
        let idle = Idle { kept, since: Instant::now() };
        home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(idle);
    }
}
