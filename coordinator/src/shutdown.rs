//! The signals that ask a process to stop.

/// Resolves at the first SIGTERM or SIGINT (Ctrl-C), with its name. The next one ends the process at
/// once: whoever asks twice does not want to wait.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn signal() -> std::io::Result<impl Future<Output = &'static str> + Send> {
    let mut signals = Signals::install()?;
    Ok(async move {
        let first = signals.next().await;
        tokio::spawn(async move {
            let second = signals.next().await;
            tracing::warn!(signal = second, "asked twice: stopping without waiting for what is in hand");
            // What is durable stays so; 130 is what shells report for an interrupted process.
            std::process::exit(130);
        });
        first
    })
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn install() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without a handler the process ends by the system's own means.
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
