//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

use anyhow::bail;

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` answers something. Its errors are what the condition lacks; the last one is told when the time
/// is over.
///
/// # Errors
/// `limit` is over.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let started = Instant::now();
    loop {
        // One look may hang as well: what is looked at may be frozen.
        let error = match tokio::time::timeout(limit.saturating_sub(started.elapsed()), look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => bail!("{what}: not within {limit:?}: a look at it did not end"),
        };
        if started.elapsed() >= limit {
            return Err(error.context(format!("{what}: not within {limit:?}")));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// An HTTP client whose requests end.
///
/// # Errors
/// The system does not let us have one.
pub fn http_client(limit: Duration) -> anyhow::Result<reqwest::Client> {
    // reqwest asks for a TLS provider even if nothing here speaks TLS. An error means that the process has one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(reqwest::Client::builder().connect_timeout(Duration::from_secs(2)).timeout(limit).build()?)
}
