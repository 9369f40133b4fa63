//! Starting a service: in this process ([`start`]), or as a process of its own
//! ([`process::ServiceProcess`]).

pub mod cli;
mod failure;
mod health;
pub mod process;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use futures::future::BoxFuture;
use sqlx::MySql;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::limit::GlobalConcurrencyLimitLayer;
use unanimity_sdk::{Client, FenceDatabase, Outbox};

use crate::database::{Database, with_database, with_fence};
use crate::{relay, shop, warehouse};

pub use failure::Failure;

/// Requests in hand at once; others wait. Far more than a database does at a time.
const REQUESTS_MAX: usize = 512;
/// How long a stop waits for requests in hand.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Which service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    /// Takes orders and writes messages beside them.
    Shop,
    /// Brings the messages to the coordinator.
    Relay,
    /// Receives them.
    Warehouse,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Shop => "shop",
            Self::Relay => "relay",
            Self::Warehouse => "warehouse",
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
    /// The service's own database, a relay's is its shop's: sqlite://FILE, postgres://…, and for shop and
    /// relay mysql://…
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
    /// Put so many customers into an empty database (shop)
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub customers: u32,
    /// Run a relay in this process too (shop)
    #[arg(long)]
    pub with_relay: bool,
    /// After so long without a sign of it, another relay takes over (relay)
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pub lease_ms: u64,
    /// Die where a voucher says so (shop): for demonstrations
    #[arg(long)]
    pub allow_crashes: bool,
}

impl Options {
    /// The options for a coordinator and a database; the rest as the flags' defaults.
    #[must_use]
    pub fn new(coordinator: impl Into<String>, database_url: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            coordinator: coordinator.into(),
            database_url: database_url.into(),
            customers: 8,
            with_relay: false,
            lease_ms: 5_000,
            allow_crashes: false,
        }
    }

    const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
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

    /// Stops: answers the requests in hand, gives leases back, says goodbye to the coordinator.
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

/// What a service is made of: what it answers, and what it does at its end.
#[derive(Default)]
struct Parts {
    routes: Router,
    endings: Vec<BoxFuture<'static, ()>>,
}

/// Starts a service in this process. Answers when it listens.
///
/// # Errors
/// If its database or its address cannot be had. That the coordinator cannot be reached is none:
/// the SDK tries again for ever.
pub async fn start(kind: Kind, options: &Options) -> anyhow::Result<Running> {
    // The address first: a second instance by mistake fails before it does anything.
    let listener = bind(options.listen).await?;
    let client = Client::connect(&options.coordinator)?;
    let url = options.database_url.as_str();
    let parts = match kind {
        Kind::Shop if url.starts_with("mysql://") || url.starts_with("mariadb://") => {
            shop_without_vouchers(&client, options).await?
        }
        Kind::Shop => with_fence!(url, full_shop(&client, options))?,
        Kind::Relay => with_database!(url, relay_alone(&client, options))?,
        Kind::Warehouse => with_fence!(url, warehouse(&client, options))?,
    };
    serve(listener, parts)
}

async fn full_shop<DB: Database + FenceDatabase>(
    client: &Client,
    options: &Options,
) -> anyhow::Result<Parts> {
    let pool = DB::open(&options.database_url).await?;
    let outbox = shop::prepare(&pool, options.customers).await?;
    let vouchers = shop::start_vouchers(client, &pool, options.allow_crashes).await?;
    let participant = vouchers.participant.clone();
    let mut parts = orders(client, &outbox, options);
    parts.routes =
        parts.routes.merge(shop::voucher_routes(vouchers)).merge(health::of_participant(participant.clone()));
    parts.endings.push(Box::pin(async move { participant.shutdown().await }));
    Ok(parts)
}

/// MariaDB holds an outbox, and no fence: orders, but no prepared messages.
async fn shop_without_vouchers(client: &Client, options: &Options) -> anyhow::Result<Parts> {
    let pool = MySql::open(&options.database_url).await?;
    let outbox = shop::prepare(&pool, options.customers).await?;
    let mut parts = orders(client, &outbox, options);
    parts.routes = parts.routes.merge(health::of_server());
    Ok(parts)
}

fn orders<DB: Database>(client: &Client, outbox: &Outbox<DB>, options: &Options) -> Parts {
    let mut parts = Parts { routes: shop::order_routes(outbox.clone()), ..Parts::default() };
    if options.with_relay {
        parts.add_relay(client, outbox, options);
    }
    parts
}

async fn relay_alone<DB: Database>(client: &Client, options: &Options) -> anyhow::Result<Parts> {
    let outbox = Outbox::new(DB::open(&options.database_url).await?);
    // It may be the first to start.
    outbox.migrate().await?;
    let mut parts = Parts { routes: health::of_server(), ..Parts::default() };
    parts.add_relay(client, &outbox, options);
    Ok(parts)
}

async fn warehouse<DB: Database + FenceDatabase>(
    client: &Client,
    options: &Options,
) -> anyhow::Result<Parts> {
    let pool = DB::open(&options.database_url).await?;
    warehouse::prepare(&pool).await?;
    let participant = warehouse::start(client, &pool).await?;
    let routes = warehouse::routes(pool).merge(health::of_participant(participant.clone()));
    Ok(Parts { routes, endings: vec![Box::pin(async move { participant.shutdown().await })] })
}

impl Parts {
    fn add_relay<DB: Database>(&mut self, client: &Client, outbox: &Outbox<DB>, options: &Options) {
        let relay = relay::start(outbox, client.clone(), options.lease());
        self.routes = std::mem::take(&mut self.routes).merge(relay::routes(Arc::clone(&relay)));
        self.endings.push(Box::pin(async move {
            // The routes are gone by now; if a request still has it, it stops when that ends.
            if let Some(relay) = Arc::into_inner(relay) {
                relay.shutdown().await;
            }
        }));
    }
}

fn serve(listener: TcpListener, parts: Parts) -> anyhow::Result<Running> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let routes = parts.routes.layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX));
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
        futures::future::join_all(parts.endings).await;
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

/// A client for calls to the services, with limits.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    // reqwest asks for a TLS provider even if nothing here speaks TLS. An error means that the
    // process has one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client =
        reqwest::Client::builder().connect_timeout(Duration::from_secs(2)).timeout(Duration::from_secs(20));
    Ok(client.build()?)
}
