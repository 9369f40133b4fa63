//! Clean-up that a destructor has to wait for.

use std::time::Duration;

use crate::say;

/// How long the clean-up of one server may hold up the end of a test.
const CLEAN_UP_TIMEOUT: Duration = Duration::from_secs(20);

/// Runs an asynchronous clean-up to its end, or to [`CLEAN_UP_TIMEOUT`], from a destructor: on a thread of its own,
/// because the test's runtime may be gone or busy with running this destructor.
pub(crate) fn clean_up(what: &str, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    let thread = std::thread::spawn(move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { tokio::time::timeout(CLEAN_UP_TIMEOUT, work).await })?
    });
    let outcome = thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the clean-up panicked")));
    if let Err(error) = outcome {
        say(&format!("{what} was not cleaned up: {error:#}"));
    }
}
