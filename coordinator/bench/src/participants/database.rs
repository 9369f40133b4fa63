//! Participants with a real database: the SDK's, with its fence, and one small effect in each hook.
//!
//! ```text
//!   try, action, deliver   one row is inserted   ┐ in one local transaction with the fence's row
//!   confirm, cancel, undo  that row is deleted   ┘
//! ```
//!
//! Of TCC branches the try is called by HTTP, as a service's is: it registers the branch, and its vote
//! goes back with the answer.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bytes::Bytes;
use serde_json::Value;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Pool, Postgres, Sqlite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use unanimity_sdk::{
    Branch, Client, Context, Fence, FenceDatabase, HookError, LocalTransaction, MessageHooks, Participant,
    ReceivedMessage, Refused, ServerLayer, StepCall, StepHooks, TccHooks, Xid, sqlite_pool,
};

use crate::error::Error;
use crate::options::{Database, Options, Reach, Workload};
use crate::participants::{Answerer, listen};
use crate::places::{OPERATION, service_name};
use crate::stamp::Stamp;

/// Connections of each service: more than the machine that measures has cores, fewer than a PostgreSQL
/// with its defaults has for all.
const CONNECTIONS: u32 = 16;

/// Where the services are.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// For callbacks; empty if attached.
    pub(super) grpc: Vec<String>,
    /// For tries; empty if there are none.
    pub(super) tries: Vec<String>,
}

/// Starts the services of the options' database.
pub(super) async fn start(
    tasks: &mut JoinSet<()>,
    options: &Options,
    answerer: &Arc<Answerer>,
) -> Result<Addresses, Error> {
    let failed = |error: &dyn std::error::Error| Error::Database(error.to_string());
    let mut addresses = Addresses::default();
    for service in 0..options.services() {
        match &options.database {
            Database::None => {}
            Database::Sqlite(path) => {
                // A file each: services share no database, and a SQLite file has one writer.
                let path = if service == 0 { path.clone() } else { format!("{path}.{}", service + 1) };
                let pool = sqlite_pool(path).await.map_err(|error| failed(&error))?;
                serve(tasks, options, service, pool, answerer, &mut addresses).await?;
            }
            Database::Postgres(url) => {
                let pool = PgPoolOptions::new().max_connections(CONNECTIONS).connect(url).await;
                let pool = pool.map_err(|error| failed(&error))?;
                serve(tasks, options, service, pool, answerer, &mut addresses).await?;
            }
        }
    }
    Ok(addresses)
}

async fn serve<DB: Effects>(
    tasks: &mut JoinSet<()>,
    options: &Options,
    service: u32,
    pool: Pool<DB>,
    answerer: &Arc<Answerer>,
    addresses: &mut Addresses,
) -> Result<(), Error> {
    let failed = |error: &dyn std::error::Error| Error::Database(error.to_string());
    if service == 0 || matches!(options.database, Database::Sqlite(_)) {
        DB::make_table(&pool).await.map_err(|error| failed(&error))?;
    }
    let fence = Fence::new(pool);
    fence.migrate().await.map_err(|error| failed(&error))?;
    let work = Work(Arc::clone(answerer));
    // A bench's coordinator is often thrown away, and its participants' rows with it.
    let builder = Participant::builder(service_name(service), fence).accept_new_log();
    let builder = match options.mode {
        Workload::Tcc | Workload::TwoPhase => builder.tcc(OPERATION, work),
        Workload::Saga => builder.saga_step(OPERATION, work),
        Workload::Message => builder.receiver(OPERATION, work),
    };
    let client = Client::connect(options.coordinator.clone())?;
    let cannot = |error: &dyn std::error::Error| Error::Participants(error.to_string());
    let participant = if options.participants == Reach::Grpc {
        let (listener, url) = listen().await?;
        let participant = builder.called_at(&client, &url).await.map_err(|error| cannot(&error))?;
        let server =
            tonic::transport::Server::builder().tcp_nodelay(true).add_service(participant.grpc_service());
        let incoming = TcpListenerStream::new(listener);
        tasks.spawn(async move {
            // It ends with the process.
            let _ = server.serve_with_incoming(incoming).await;
        });
        addresses.grpc.push(url);
        participant
    } else {
        builder.attach(&client).await.map_err(|error| cannot(&error))?
    };
    if options.mode == Workload::Tcc {
        let (listener, url) = listen().await?;
        tasks.spawn(tries(listener, participant));
        addresses.tries.push(url);
    } else {
        // Kept alive with the others: dropped, a participant stops.
        tasks.spawn(async move {
            std::future::pending::<()>().await;
            drop(participant);
        });
    }
    Ok(())
}

async fn tries<DB: Effects>(listener: TcpListener, participant: Participant<DB>) {
    let app = Router::new().route("/", post(handle::<DB>)).layer(ServerLayer::new()).with_state(participant);
    // It ends with the process.
    let _ = axum::serve(listener, app).await;
}

async fn handle<DB: Effects>(
    State(participant): State<Participant<DB>>,
    body: Bytes,
) -> (StatusCode, String) {
    let Some(context) = Context::current() else {
        return (StatusCode::BAD_REQUEST, "no transaction".to_owned());
    };
    let payload = serde_json::from_slice(&body).unwrap_or(Value::Null);
    match participant.try_in::<Work>(&context, payload).await {
        Ok(()) => (StatusCode::OK, String::new()),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The effects, in the words of a database.
trait Effects: FenceDatabase {
    /// Makes the table, empty.
    fn make_table(pool: &Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    fn add_row(
        tx: &mut LocalTransaction<'_, Self>,
        xid: Xid,
        key: &str,
    ) -> impl Future<Output = Result<(), HookError>> + Send;

    fn drop_row(
        tx: &mut LocalTransaction<'_, Self>,
        xid: Xid,
        key: &str,
    ) -> impl Future<Output = Result<(), HookError>> + Send;
}

/// The same text for both: they differ in their types alone, which sqlx's traits make hard to say once.
macro_rules! effects {
    ($database:ty) => {
        impl Effects for $database {
            async fn make_table(pool: &Pool<Self>) -> Result<(), sqlx::Error> {
                sqlx::query(
                    "CREATE TABLE IF NOT EXISTS unanimity_bench_work \
                     (xid TEXT NOT NULL, branch TEXT NOT NULL, PRIMARY KEY (xid, branch))",
                )
                .execute(pool)
                .await?;
                sqlx::query("DELETE FROM unanimity_bench_work").execute(pool).await.map(drop)
            }

            async fn add_row(
                tx: &mut LocalTransaction<'_, Self>,
                xid: Xid,
                key: &str,
            ) -> Result<(), HookError> {
                sqlx::query("INSERT INTO unanimity_bench_work (xid, branch) VALUES ($1, $2)")
                    .bind(xid.to_string())
                    .bind(key)
                    .execute(&mut **tx)
                    .await?;
                Ok(())
            }

            async fn drop_row(
                tx: &mut LocalTransaction<'_, Self>,
                xid: Xid,
                key: &str,
            ) -> Result<(), HookError> {
                sqlx::query("DELETE FROM unanimity_bench_work WHERE xid = $1 AND branch = $2")
                    .bind(xid.to_string())
                    .bind(key)
                    .execute(&mut **tx)
                    .await?;
                Ok(())
            }
        }
    };
}

effects!(Postgres);
effects!(Sqlite);

/// The hooks of every mode.
struct Work(Arc<Answerer>);

impl Work {
    /// The fence runs each of these once, unless its local transaction failed.
    fn note(&self, xid: Xid, payload: &Value) {
        if let Some(tally) = &self.0.tally {
            tally.note_next(xid, stamp(payload));
        }
    }
}

fn stamp(payload: &Value) -> Option<Stamp> {
    Stamp::read(payload.as_str()?.as_bytes(), "")
}

impl<DB: Effects> TccHooks<DB> for Work {
    type Payload = Value;
    type Output = ();

    async fn try_(&self, tx: &mut LocalTransaction<'_, DB>, branch: &Branch<Value>) -> Result<(), HookError> {
        DB::add_row(tx, branch.xid, branch.key.as_str()).await
    }

    async fn confirm(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        branch: &Branch<Value>,
    ) -> Result<(), HookError> {
        DB::drop_row(tx, branch.xid, branch.key.as_str()).await?;
        self.note(branch.xid, &branch.payload);
        Ok(())
    }

    async fn cancel(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        branch: &Branch<Value>,
    ) -> Result<(), HookError> {
        DB::drop_row(tx, branch.xid, branch.key.as_str()).await?;
        self.note(branch.xid, &branch.payload);
        Ok(())
    }
}

impl<DB: Effects> StepHooks<DB> for Work {
    type Payload = Value;
    type Output = ();

    async fn action(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        call: &StepCall<Value>,
    ) -> Result<(), HookError> {
        if stamp(&call.payload).is_some_and(|stamp| stamp.refuse) {
            return Err(Refused::new("it is to refuse").into());
        }
        DB::add_row(tx, call.xid, call.key.as_str()).await
    }

    async fn compensate(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        call: &StepCall<Value>,
        _: Option<()>,
    ) -> Result<(), HookError> {
        DB::drop_row(tx, call.xid, call.key.as_str()).await
    }
}

impl<DB: Effects> MessageHooks<DB> for Work {
    type Payload = Value;

    async fn deliver(
        &self,
        tx: &mut LocalTransaction<'_, DB>,
        message: &ReceivedMessage<Value>,
    ) -> Result<(), HookError> {
        DB::add_row(tx, message.xid, message.key.as_str()).await?;
        self.note(message.xid, &message.payload);
        Ok(())
    }
}
