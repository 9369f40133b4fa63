//! How the engine starts its tasks: by tokio. In the simulation (feature `simulation`) every task belongs to
//! the node that started it, so that the node can be paused and killed.

use tokio::task::JoinHandle;

/// Starts a task.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    #[cfg(feature = "simulation")]
    return crate::simulation::spawn(future);
    #[cfg(not(feature = "simulation"))]
    tokio::spawn(future)
}
