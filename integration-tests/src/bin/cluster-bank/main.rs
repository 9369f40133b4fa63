//! A bank that takes part in transfers of all modes, for the bank of a cluster (`tests/suite/cluster_bank`): accounts in
//! one PostgreSQL database, a participant with hooks of every kind, a resource manager, an outbox and its relay.
//!
//! | path | does |
//! | --- | --- |
//! | `POST /tcc/debit`, `/tcc/credit`, header `unanimity-xid` | tries a TCC branch; `locked`: under a lock key |
//! | `POST /xa`, header `unanimity-xid` | books and prepares an XA branch |
//! | `POST /message` | debits in a local transaction with a prepared message to the other bank |
//! | `POST /outbox` | the same with a message in the outbox |
//! | `GET /entries/{transfer}` | how many entries a transfer has here |
//! | `GET /healthz` | how the participant and the relay are |

mod books;
mod hooks;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres};
use unanimity_sdk::xa::PostgresResource;
use unanimity_sdk::{Client, Fence, Outbox, Participant, Relay};

use self::hooks::{Credit, Debit, Step, Take};

/// The resource manager's name.
pub(crate) const ENTRY: &str = "entry";
/// How long anything waits for an account: its holder may be prepared and wait for a decision.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections: transfers, hooks, the relay.
const CONNECTIONS: u32 = 24;
/// Short, so that another process of the bank takes over while a test waits.
const RELAY_LEASE: Duration = Duration::from_secs(2);

/// One bank's part of a transfer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The transfer's id.
    pub(crate) transfer: String,
    /// Whose account.
    pub(crate) account: String,
    /// How much; XA: below zero if it goes.
    pub(crate) cents: i64,
    /// Sagas: what the third bank says.
    #[serde(default)]
    pub(crate) approved: bool,
    /// TCC: under a lock key for the account.
    #[serde(default)]
    pub(crate) locked: bool,
}

/// What the handlers share.
pub(crate) struct Bank {
    pub(crate) name: String,
    pub(crate) client: Client,
    pub(crate) participant: Participant<Postgres>,
    pub(crate) fence: Fence<Postgres>,
    pub(crate) outbox: Outbox<Postgres>,
    pub(crate) relay: Relay<Postgres>,
    pub(crate) pool: PgPool,
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (name, database) = (variable("NAME")?, variable("DATABASE_URL")?);
    let options = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(Duration::from_secs(5));
    let pool = options.connect(&database).await?;
    books::open(&pool, variable("ACCOUNTS")?.parse()?, variable("OPENING")?.parse()?).await?;
    let client = Client::connect(variable("COORDINATOR_URL")?)?;
    let fence = Fence::new(pool.clone()).lock_timeout(LOCK_TIMEOUT);
    fence.migrate().await?;
    let resource =
        PostgresResource::new(pool.clone()).lock_timeout(LOCK_TIMEOUT).work_timeout(Duration::from_secs(5));
    resource.migrate().await?;
    let participant = Participant::builder(name.clone(), fence.clone())
        .tcc("debit", Debit)
        .tcc("credit", Credit)
        .saga_step("withdraw", Step::Withdraw)
        .saga_step("deposit", Step::Deposit)
        .saga_step("approve", Step::Approve)
        .saga_step("open", Step::Open)
        .receiver("take", Take)
        .sender("sent")
        .two_phase(ENTRY, resource)
        .in_doubt_after(Duration::from_secs(5))
        .in_doubt_every(Duration::from_secs(2))
        // Collected while the test goes on.
        .collect_after(Duration::from_secs(60))
        .collect_every(Duration::from_secs(5))
        .attach(&client)
        .await?;
    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await?;
    let relay = Relay::builder(&outbox, client.clone())
        .lease(RELAY_LEASE)
        .poll(Duration::from_millis(500))
        .check_every(Duration::from_secs(1))
        .retry_cap(Duration::from_millis(500))
        .start();
    let bank = Arc::new(Bank { name, client, participant, fence, outbox, relay, pool });
    let listener = tokio::net::TcpListener::bind(variable("LISTEN")?).await?;
    axum::serve(listener, routes::routes(bank)).await?;
    Ok(())
}
