//! What the tests stand on.

pub(crate) mod cluster;
pub(crate) mod counter;
pub(crate) mod databases;
pub(crate) mod fake;
pub(crate) mod gate;
pub(crate) mod stock;
mod streams;

use std::time::Duration;

/// Waits until a condition holds; panics after 10 s.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
