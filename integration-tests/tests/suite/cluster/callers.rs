//! Who calls by the SDK, with its own repetitions and none besides.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use unanimity_sdk::TryError;

use super::counter::{Count, Counter};

/// Between two transactions of one caller: the machine has other things to do as well.
const PAUSE: Duration = Duration::from_millis(15);

/// What callers heard.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub(super) calls: usize,
    /// Whose outcome is commit: told, or asked for until somebody knew.
    pub(super) committed: usize,
    /// Transactions that did not commit at once, and why.
    pub(crate) failed: Vec<String>,
}

/// Callers that count with a transaction each: begun without a call, with one branch, and decided.
#[derive(Debug)]
pub(super) struct Callers {
    counter: Counter,
    heard: Mutex<Heard>,
}

impl Callers {
    pub(super) fn new(counter: Counter) -> Self {
        Self { counter, heard: Mutex::default() }
    }

    pub(super) fn start(self: &Arc<Self>, count: usize, stop: &CancellationToken) -> Vec<JoinHandle<()>> {
        let call = |_| {
            let (callers, stop) = (Arc::clone(self), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    callers.count().await;
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        (0..count).map(call).collect()
    }

    pub(super) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }

    pub(super) fn counter(&self) -> &Counter {
        &self.counter
    }

    async fn count(&self) {
        let Counter { client, participant, .. } = &self.counter;
        let counted = client.transaction("count").timeout(super::TRANSACTION_TIMEOUT);
        let counted =
            counted.run(async |tx| Ok::<_, TryError>(participant.try_in::<Count>(&tx, ()).await?)).await;
        let (committed, failed) = match counted {
            Ok(()) => (true, None),
            Err(error) => {
                // An outcome that nobody told is found out.
                let known = match error.xid() {
                    Some(xid) => client.wait_decided(xid, Duration::from_secs(30)).await.ok(),
                    None => None,
                };
                let committed =
                    known.is_some_and(|info| info.status.decision() == Some(unanimity_sdk::Decision::Commit));
                (
                    committed,
                    Some(format!(
                        "{error}, {:?}",
                        std::error::Error::source(&error).map(ToString::to_string)
                    )),
                )
            }
        };
        let mut heard = self.heard.lock().unwrap();
        heard.calls += 1;
        heard.committed += usize::from(committed);
        heard.failed.extend(failed);
    }
}
