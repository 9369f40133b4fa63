//! Starting a service: in this process ([`start`]), or as a process of its own
//! ([`process::ServiceProcess`]).

pub mod cli;
pub(crate) mod failure;
pub(crate) mod health;
pub mod process;

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;
use unanimity_sdk::{Client, Participant};

use crate::database::{Database, with_database};
use crate::{inventory, order, payment};

pub use failure::Failure;

/// Requests in hand at once; others wait. Far more than a database does at a time.
const REQUESTS_MAX: usize = 512;
/// How long a stop waits for requests in hand.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    /// Takes orders and begins transactions.
    Order,
    /// Holds money.
    Payment,
    /// Reserves stock.
    Inventory,
}

impl Kind {
    /// Every service.
    pub const ALL: [Self; 3] = [Self::Order, Self::Payment, Self::Inventory];

    /// Its name, which is also its participant's.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Inventory => "inventory",
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
    /// The service's own database: sqlite://FILE or postgres://…
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// Where the inventory service is (for the order service)
    #[arg(long, env = "INVENTORY_URL", value_name = "URL", default_value = "http://127.0.0.1:7471")]
    pub inventory_url: String,
    /// Where the payment service is (for the order service)
    #[arg(long, env = "PAYMENT_URL", value_name = "URL", default_value = "http://127.0.0.1:7472")]
    pub payment_url: String,
    /// Undecided for so long, an order is aborted (for the order service)
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub transaction_timeout_ms: u64,
    /// Put goods and money for about so many orders into an empty database
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub demo_orders: u32,
}

impl Options {
    /// The options for a coordinator and a database; the rest as the flags' defaults.
    #[must_use]
    pub fn new(coordinator: impl Into<String>, database_url: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            coordinator: coordinator.into(),
            database_url: database_url.into(),
            inventory_url: "http://127.0.0.1:7471".to_owned(),
            payment_url: "http://127.0.0.1:7472".to_owned(),
            transaction_timeout_ms: 10_000,
            demo_orders: 100,
        }
    }

    pub(crate) fn transaction_timeout(&self) -> Duration {
        Duration::from_millis(self.transaction_timeout_ms)
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
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

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
    with_database!(&options.database_url, start_on(kind, options))
}

async fn start_on<DB: Database>(kind: Kind, options: &Options) -> anyhow::Result<Running> {
    // The address first: a second instance by mistake fails before it does anything.
    let listener = bind(options.listen).await?;
    let pools = DB::open(&options.database_url).await?;
    let client = Client::connect(&options.coordinator)?;
    match kind {
        Kind::Order => {
            order::prepare(&pools).await?;
            let orders = order::start(&client, pools, options).await?;
            serve(listener, order::routes(orders.clone()), orders.participant)
        }
        Kind::Payment => {
            payment::prepare(&pools, options.demo_orders).await?;
            let payment = payment::start(&client, pools).await?;
            serve(listener, payment::routes(payment.clone()), payment.participant)
        }
        Kind::Inventory => {
            inventory::prepare(&pools, options.demo_orders).await?;
            let inventory = inventory::start(&client, pools).await?;
            serve(listener, inventory::routes(inventory.clone()), inventory.participant)
        }
    }
}

fn serve<DB: Database>(
    listener: TcpListener,
    routes: Router,
    participant: Participant<DB>,
) -> anyhow::Result<Running> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let routes = routes.layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX));
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
        // Last, since requests in hand need it.
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

/// A client for calls between services, with limits.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    // reqwest asks for a TLS provider even if nothing here speaks TLS. An error means that the
    // process has one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(2))
        // Shorter than the transaction's deadline, so that the caller hears of it in time.
        .timeout(Duration::from_secs(5));
    Ok(client.build()?)
}
