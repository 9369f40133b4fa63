//! Retention: history is kept for so long, and order in it is one task's work on every node.
//!
//! Nodes do it side by side: what one has done the next one finds done. Nothing waits for it; where it fails,
//! history grows until it works again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::entropy;
use crate::log::TransactionLog;

/// How often history is looked after. Days are made three ahead and dropped one at a time.
const EVERY: Duration = Duration::from_secs(10 * 60);

/// Between two drops, and after one that failed: so that other work gets to the database.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_FAILED: Duration = Duration::from_secs(60);

/// Keeps history in order until shutdown.
pub(super) async fn run(
    log: Arc<dyn TransactionLog>,
    retention: Duration,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        // A call that is dropped ends by itself.
        let kept = tokio::select! {
            biased;
            kept = log.keep_history(retention) => kept,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        let pause = match kept {
            Ok(kept) if kept.more => PAUSE,
            // Not in step with the other nodes.
            Ok(_) => EVERY.mul_f64(0.75 + 0.5 * entropy::fraction()),
            Err(error) => {
                tracing::warn!(%error, "old history could not be dropped; trying again");
                PAUSE_FAILED
            }
        };
        tokio::select! {
            biased;
            // Also when the engine is gone.
            _ = shutdown.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
