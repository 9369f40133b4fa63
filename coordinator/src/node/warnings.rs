//! What the log's database says that will hurt, looked at from time to time: a standby may be lost, a setting changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::log::TransactionLog;

/// How often. The look is one statement.
const EVERY: Duration = Duration::from_secs(60);
/// A database that does not answer has its own place among the partitions' states.
const LIMIT: Duration = Duration::from_secs(10);

/// Looks until it is dropped, and says what is new.
pub(super) async fn watch_log(log: Arc<dyn TransactionLog>, told: watch::Sender<Vec<String>>) {
    loop {
        if let Ok(Ok(warnings)) = timeout(LIMIT, log.warnings()).await {
            for warning in warnings.iter().filter(|warning| !told.borrow().contains(warning)) {
                tracing::warn!(warning, "the log's database");
            }
            told.send_if_modified(|before| {
                let is_new = *before != warnings;
                *before = warnings;
                is_new
            });
        }
        tokio::time::sleep(EVERY).await;
    }
}
