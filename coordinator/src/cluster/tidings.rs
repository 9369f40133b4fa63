//! What nodes tell one another so that nobody has to find it out at the next look: that something changed.
//!
//! A drain, a node that stops, a lease that was given away, a claim that ended: whoever hears of it looks at the cluster
//! at once, and sees in the database what is true. A word that is lost costs the time until the next look, no more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{sleep, timeout};
use unanimity_proto::v1;
use unanimity_proto::v1::peers_client::PeersClient;

use super::route::Router;

/// Partitions move in crowds: what happens within this time goes in one word.
const GATHER: Duration = Duration::from_millis(5);
/// A word that takes longer than this is overtaken by the next look.
const LIMIT: Duration = Duration::from_secs(1);
/// Words on their way at once: two for each node of a large cluster. More of them would say the same.
const ON_THEIR_WAY_MAX: usize = 128;

/// What is to be told, and to whom; and that somebody told us.
#[derive(Debug, Default)]
pub struct Tidings {
    due: Mutex<Due>,
    bell: Notify,
    look: Notify,
}

#[derive(Debug, Default)]
struct Due {
    everybody: bool,
    /// Addresses.
    some: BTreeSet<String>,
}

impl Tidings {
    /// This node is to look at its cluster now.
    pub fn look_here(&self) {
        self.look.notify_one();
    }

    /// Resolves when this node is to look.
    pub(super) async fn asked_to_look(&self) {
        self.look.notified().await;
    }

    /// The node at this address, or every other one, is to look at the cluster now.
    pub(super) fn tell(&self, whom: Option<&str>) {
        {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            match whom {
                None => due.everybody = true,
                // As few as there are nodes: heirs.
                Some(address) => drop(due.some.insert(address.to_owned())),
            }
        }
        self.bell.notify_one();
    }

    async fn next(&self) -> Due {
        self.bell.notified().await;
        std::mem::take(&mut *self.due.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Router {
    /// Somebody knows that the cluster changed: this node is to look at it now.
    pub(crate) fn look_here(&self) {
        self.tidings().look_here();
    }

    /// Carries this node's words to the others, until it is dropped.
    pub async fn spread_tidings(self: Arc<Self>) {
        let places = Arc::new(Semaphore::new(ON_THEIR_WAY_MAX));
        loop {
            let Due { everybody, mut some } = self.tidings().next().await;
            if everybody {
                some.extend(self.others().into_iter().map(|(_, address)| address));
            }
            for address in some {
                let (Ok(lane), Ok(place)) = (self.lane(&address), Arc::clone(&places).try_acquire_owned())
                else {
                    continue;
                };
                crate::task::spawn(async move {
                    let mut client = PeersClient::new(lane.channel.clone());
                    if let Ok(Err(status)) = timeout(LIMIT, client.look(v1::LookRequest {})).await {
                        tracing::debug!(address, %status, "a node did not hear that the cluster changed; it looks by itself");
                    }
                    drop(place);
                });
            }
            sleep(GATHER).await;
        }
    }
}
