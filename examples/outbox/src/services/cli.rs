//! A service as a process: flags, signals, a first line that says where it listens.

use std::io::{IsTerminal as _, Read as _, Write as _};

use tokio::sync::oneshot;

use super::{Kind, Options, start};

/// Flags of a service.
#[derive(Debug, clap::Args)]
pub struct ServiceArgs {
    /// What the service needs to know.
    #[command(flatten)]
    pub options: Options,
    /// Stop when standard input ends: a child does not outlive the parent that holds the other end
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// The prefix of the first line of output.
pub(crate) const LISTENING: &str = "listening on ";

/// Runs a service until SIGTERM, Ctrl-C or, if asked for, the end of standard input.
///
/// # Errors
/// What keeps the service from starting.
pub async fn run(kind: Kind, args: ServiceArgs) -> anyhow::Result<()> {
    let service = start(kind, &args.options).await?;
    // For people, and for the parent that asked for port 0.
    writeln!(std::io::stdout().lock(), "{LISTENING}{}", service.url())?;
    tracing::info!(service = %kind, url = service.url(), coordinator = args.options.coordinator, "started");
    let parent = parent_gone(args.stop_with_stdin);
    tokio::select! {
        signal = stop_signal() => signal?,
        _ = parent => {}
    }
    service.shutdown().await;
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

/// The runtime of a service: one thread. Its work is done by its database (SQLite's has a thread of
/// its own); more threads would only pass messages between each other.
///
/// # Errors
/// If the system refuses.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
