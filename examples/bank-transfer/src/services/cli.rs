//! A service as a process: flags, signals, a first line that says where it listens.

use std::io::{IsTerminal as _, Read as _, Write as _};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::{Common, Role, Service};

/// The prefix of the first line of output.
pub(crate) const LISTENING: &str = "listening on ";

/// The whole of a service's binary.
///
/// # Errors
/// What keeps the service from starting, or from stopping in good order.
pub fn main(role: &Role, common: &Common) -> anyhow::Result<()> {
    runtime()?.block_on(run(role, common))
}

/// Runs a service until SIGTERM, Ctrl-C or, if asked for, the end of standard input.
async fn run(role: &Role, common: &Common) -> anyhow::Result<()> {
    let service = Service::start(role, common).await?;
    let url = service.url()?;
    // For people, and for the parent that asked for port 0.
    writeln!(std::io::stdout().lock(), "{LISTENING}{url}")?;
    tracing::info!(url, coordinator = common.coordinator, "started");
    let stop = CancellationToken::new();
    let serving = service.serve(stop.clone());
    let stopping = async {
        tokio::select! {
            signal = stop_signal() => signal?,
            () = parent_gone(common.stop_with_stdin) => {}
        }
        stop.cancel();
        Ok::<_, anyhow::Error>(())
    };
    tokio::try_join!(serving, stopping)?;
    Ok(())
}

/// Resolves when standard input ends; never if that does not matter.
async fn parent_gone(matters: bool) {
    if !matters {
        return std::future::pending().await;
    }
    let (ended, end) = oneshot::channel::<()>();
    // A thread of its own: tokio's stdin would keep the runtime from shutting down.
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        drop(ended);
    });
    let _ = end.await;
}

/// Resolves at SIGTERM or Ctrl-C.
async fn stop_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = terminate.recv() => Ok(()),
            pressed = tokio::signal::ctrl_c() => pressed,
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Logs to standard error; `RUST_LOG` overrides what is said by default.
pub fn init_logging(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
}

/// The runtime of a service: one thread. Its work is done by its database.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
