//! A service as a process: a bank or the teller. [`cli`] is its inside, [`process`] starts and kills it.

pub mod cli;
mod failure;
pub mod process;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use unanimity_sdk::{Client, NoFence, Participant};

use crate::{bank, teller};

pub use failure::Failure;

/// How long a stop waits for requests in hand.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Which service, and what it is told.
#[derive(Debug, Clone)]
pub enum Role {
    /// A bank.
    Bank(bank::Options),
    /// The teller.
    Teller(teller::Options),
}

/// What every service needs to know.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Where to listen; port 0 for any free one
    #[arg(long, env = "LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The coordinator
    #[arg(long, env = "COORDINATOR_URL", value_name = "URL", default_value = "http://127.0.0.1:7460")]
    pub coordinator: String,
    /// Stop when standard input ends: a child does not outlive the parent that holds the other end
    #[arg(long, hide = true)]
    pub stop_with_stdin: bool,
}

/// A service that listens.
#[derive(Debug)]
pub(crate) struct Service {
    listener: TcpListener,
    routes: Router,
    participant: Option<Participant<NoFence>>,
}

impl Service {
    /// Starts a service, ready to be served. That the coordinator cannot be reached is no error: the SDK tries again
    /// for ever.
    pub(crate) async fn start(role: &Role, common: &Common) -> anyhow::Result<Self> {
        // The address first: a second instance by mistake fails before it does anything.
        let listener = bind(common.listen).await?;
        let client = Client::connect(&common.coordinator)?;
        let (participant, routes) = match role {
            Role::Bank(options) => {
                let (participant, routes) = bank::start(&client, options).await?;
                (Some(participant), routes)
            }
            Role::Teller(options) => (None, teller::routes(teller::Teller::new(client, options)?)),
        };
        Ok(Self { listener, routes, participant })
    }

    pub(crate) fn url(&self) -> anyhow::Result<String> {
        Ok(format!("http://{}", self.listener.local_addr()?))
    }

    /// Serves until the stop comes; then answers the requests in hand, and says goodbye to the coordinator.
    pub(crate) async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let limit = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        let server =
            axum::serve(self.listener, self.routes).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::select! {
            served = server => served?,
            () = limit => tracing::warn!("stopped with requests in hand"),
        }
        // Last, since requests in hand may need it.
        if let Some(participant) = self.participant {
            participant.shutdown().await;
        }
        Ok(())
    }
}

/// Binds, patiently: after a restart the port may be in use for a moment.
async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let mut attempts = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && attempts < 20 => {
                attempts += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
        }
    }
}

/// A client for calls to services, with limits.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    // reqwest asks for a TLS provider even if nothing here speaks TLS. An error means that the
    // process has one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        // Longer than a bank takes for any answer of its own.
        .timeout(Duration::from_secs(15));
    Ok(client.build()?)
}
