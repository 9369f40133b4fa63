//! Starting a service: in this process ([`start`]), or as a process of its own
//! ([`process::ServiceProcess`]).

pub mod cli;
mod failure;
mod health;
pub mod process;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use unanimity_sdk::{Client, Participant};

use crate::database::Pools;
use crate::{agency, cars, flights, hotels};

pub use failure::Failure;

/// How long a stop waits for requests in hand.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    /// Submits the sagas, takes the money.
    Agency,
    /// Books seats, prints tickets.
    Flights,
    /// Books rooms.
    Hotels,
    /// Rents cars.
    Cars,
}

impl Kind {
    /// Every service.
    pub const ALL: [Self; 4] = [Self::Agency, Self::Flights, Self::Hotels, Self::Cars];

    /// Its name, which is also its participant's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agency => "agency",
            Self::Flights => "flights",
            Self::Hotels => "hotels",
            Self::Cars => "cars",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a service needs to know.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen; port 0 for any free one
    #[arg(long, env = "LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// The coordinator
    #[arg(long, env = "COORDINATOR_URL", value_name = "URL", default_value = "http://127.0.0.1:7460")]
    pub coordinator: String,
    /// The service's own database: sqlite://FILE
    #[arg(long, env = "DATABASE_URL", value_name = "URL")]
    pub database_url: String,
    /// Not charged by then, a trip turns back (for the agency)
    #[arg(long, value_name = "MS", default_value_t = 20_000)]
    pub trip_timeout_ms: u64,
    /// Put seats, rooms, cars and money for about so many trips into an empty database
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub demo_trips: u32,
}

impl Options {
    /// The options for a coordinator and a database; the rest as the flags' defaults.
    #[must_use]
    pub fn new(coordinator: impl Into<String>, database_url: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            coordinator: coordinator.into(),
            database_url: database_url.into(),
            trip_timeout_ms: 20_000,
            demo_trips: 100,
        }
    }
}

/// A service that runs in this process. Dropped, it stops in the background.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Running {
    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops: answers the requests in hand, says goodbye to the coordinator.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take()
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the service did not stop in good order");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts a service in this process. Answers when it listens.
///
/// # Errors
/// If its database or its address cannot be had. That the coordinator cannot be reached is none:
/// the SDK tries again for ever.
pub async fn start(kind: Kind, options: &Options) -> anyhow::Result<Running> {
    // The address first: a second instance by mistake fails before it does anything.
    let listener = bind(options.listen).await?;
    let pools = Pools::open(&options.database_url).await?;
    let client = Client::connect(&options.coordinator)?;
    let (participant, routes) = match kind {
        Kind::Agency => {
            agency::prepare(&pools, options.demo_trips).await?;
            let participant = agency::start(&client, &pools).await?;
            let trip_timeout = Duration::from_millis(options.trip_timeout_ms);
            (participant, agency::routes::routes(agency::Agency { client, pools, trip_timeout }))
        }
        Kind::Flights => {
            flights::prepare(&pools, options.demo_trips).await?;
            (flights::start(&client, &pools).await?, Router::new())
        }
        Kind::Hotels => {
            hotels::prepare(&pools, options.demo_trips).await?;
            (hotels::start(&client, &pools).await?, hotels::routes(pools))
        }
        Kind::Cars => {
            cars::prepare(&pools, options.demo_trips).await?;
            (cars::start(&client, &pools).await?, Router::new())
        }
    };
    serve(listener, routes.merge(health::routes(participant.clone())), participant)
}

fn serve(
    listener: TcpListener,
    routes: Router,
    participant: Participant<sqlx::Sqlite>,
) -> anyhow::Result<Running> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let task = tokio::spawn(async move {
        let server = axum::serve(listener, routes).with_graceful_shutdown(stopping.clone().cancelled_owned());
        let limit = async {
            stopping.cancelled().await;
            tokio::time::sleep(DRAIN_MAX).await;
        };
        tokio::select! {
            served = server => if let Err(error) = served {
                tracing::error!(%error, "the server ended");
            },
            () = limit => tracing::warn!("stopped with requests in hand"),
        }
        // Last, since requests in hand may need it.
        participant.shutdown().await;
    });
    Ok(Running { address, stop, task: Some(task) })
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
        // Longer than the agency takes for any answer of its own.
        .timeout(Duration::from_secs(20));
    Ok(client.build()?)
}
