//! A participant that dies at failpoints, for the crash-point matrix (`tests/suite/matrix`): TCC hooks, an XA resource
//! and an outbox with its relay, over one PostgreSQL database.
//!
//! Every effect is a row of the table `effects` (xid, key, operation), written in the transaction that makes it.
//!
//! | `POST` | does |
//! | --- | --- |
//! | `/try`, header `unanimity-xid` | tries a TCC branch |
//! | `/work` `{xid, key, log_id}` | works and prepares an XA branch |
//! | `/prepare`, `/commit`, `/rollback` | callbacks of the coordinator for XA branches |
//! | `/order` `{to, commit}` | a local transaction with a message to the URL `to`, committed or rolled back |

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use unanimity_sdk::xa::{PostgresResource, Prepared, Settled, XaBranch};
use unanimity_sdk::{
    Branch, BranchKey, Client, Context, Fence, HookError, LogId, Message, MessageTarget, Outbox, Participant,
    Relay, TccHooks, Xid,
};
use uuid::Uuid;

/// The lease of the relay: short, so that another one takes over while a test waits.
const LEASE: Duration = Duration::from_secs(1);

async fn effect(
    connection: &mut PgConnection,
    xid: Xid,
    key: &str,
    operation: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO effects (xid, key, operation) VALUES ($1, $2, $3)")
        .bind(xid.to_string())
        .bind(key)
        .bind(operation)
        .execute(connection)
        .await
        .map(drop)
}

struct Hold;

impl TccHooks<Postgres> for Hold {
    type Payload = ();
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Postgres>, branch: &Branch<()>) -> Result<(), HookError> {
        Ok(effect(tx, branch.xid, branch.key.as_str(), "try").await?)
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, Postgres>,
        branch: &Branch<()>,
    ) -> Result<(), HookError> {
        Ok(effect(tx, branch.xid, branch.key.as_str(), "confirm").await?)
    }

    async fn cancel(&self, tx: &mut Transaction<'_, Postgres>, branch: &Branch<()>) -> Result<(), HookError> {
        Ok(effect(tx, branch.xid, branch.key.as_str(), "cancel").await?)
    }
}

struct Service {
    participant: Participant<Postgres>,
    resource: PostgresResource,
    outbox: Outbox<Postgres>,
    pool: PgPool,
    log_id: LogId,
}

/// An answer: 409 refuses, 500 says nothing.
type Answer = (StatusCode, String);

fn nothing_known(error: impl std::fmt::Display) -> Answer {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn try_(State(service): State<Arc<Service>>, headers: HeaderMap) -> Answer {
    let header = headers.get("unanimity-xid").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let context = match Context::from_header(header) {
        Ok(context) => context,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    match service.participant.try_in::<Hold>(&context, ()).await {
        Ok(()) => (StatusCode::OK, String::new()),
        Err(error) => (StatusCode::CONFLICT, error.to_string()),
    }
}

impl Service {
    /// The XA branch that a request is about.
    fn branch(&self, call: &Value) -> anyhow::Result<XaBranch> {
        let text = |name: &str| call[name].as_str().with_context(|| format!("no {name}"));
        Ok(XaBranch {
            log_id: self.log_id,
            xid: text("xid")?.parse()?,
            key: BranchKey::new(text("key")?)?,
            participant: "matrix".to_owned(),
            operation: "work".to_owned(),
        })
    }
}

async fn work(State(service): State<Arc<Service>>, Json(call): Json<Value>) -> Answer {
    let branch = match service.branch(&call) {
        Ok(branch) => branch,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let (xid, key) = (branch.xid, branch.key.clone());
    let worked = service.resource.work(&branch, move |connection| {
        Box::pin(async move { Ok(effect(connection, xid, key.as_str(), "work").await?) })
    });
    match worked.await {
        Ok(_) => (StatusCode::OK, String::new()),
        Err(error) if error.is_refusal() => (StatusCode::CONFLICT, error.to_string()),
        Err(error) => nothing_known(error),
    }
}

async fn second_phase(
    State(service): State<Arc<Service>>,
    Path(operation): Path<String>,
    Json(call): Json<Value>,
) -> Answer {
    let gid = match service.branch(&call) {
        Ok(branch) => branch.gid(),
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let settled = match operation.as_str() {
        "prepare" => {
            return match service.resource.prepare(&gid).await {
                Prepared::Yes => (StatusCode::OK, String::new()),
                Prepared::Refused(why) => (StatusCode::CONFLICT, why),
                other => nothing_known(format!("{other:?}")),
            };
        }
        "commit" => service.resource.commit(&gid).await,
        "rollback" => service.resource.rollback(&gid).await,
        _ => return (StatusCode::NOT_FOUND, operation),
    };
    match settled {
        Settled::Done => (StatusCode::OK, String::new()),
        Settled::Alarm(alarm) => (StatusCode::CONFLICT, format!("{alarm:?}")),
        other => nothing_known(format!("{other:?}")),
    }
}

async fn order(State(service): State<Arc<Service>>, Json(call): Json<Value>) -> (StatusCode, Json<Value>) {
    match place(&service, &call).await {
        Ok(id) => (StatusCode::OK, Json(json!({ "id": id.to_string() }))),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": error.to_string() }))),
    }
}

async fn place(service: &Service, call: &Value) -> anyhow::Result<Xid> {
    let to = MessageTarget::url(call["to"].as_str().context("no to")?)?;
    let message = Message::new("order-placed").key("orders")?.payload(&7)?.to(to);
    let mut tx = service.pool.begin().await?;
    let id = service.outbox.send(&mut tx, &message).await?;
    effect(&mut tx, id, "order", "order").await?;
    if call["commit"] == true {
        tx.commit().await?;
        service.outbox.wake();
    } else {
        tx.rollback().await?;
    }
    Ok(id)
}

fn variable(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(8).connect(&variable("DATABASE_URL")?).await?;
    let client = Client::connect(variable("COORDINATOR_URL")?)?;
    let fence = Fence::new(pool.clone());
    fence.migrate().await?;
    let participant = Participant::builder("matrix", fence)
        .tcc("hold", Hold)
        .in_doubt_after(Duration::from_secs(1))
        .in_doubt_every(Duration::from_millis(500))
        .attach(&client)
        .await?;
    let resource = PostgresResource::new(pool.clone());
    resource.migrate().await?;
    let outbox = Outbox::new(pool.clone());
    outbox.migrate().await?;
    let relay = Relay::builder(&outbox, client)
        .lease(LEASE)
        .poll(Duration::from_millis(200))
        .check_every(Duration::from_millis(200))
        .retry_cap(Duration::from_millis(200))
        .start();
    let log_id = LogId(Uuid::parse_str(&variable("LOG_ID")?)?);
    let service = Arc::new(Service { participant, resource, outbox, pool, log_id });
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/try", post(try_))
        .route("/work", post(work))
        .route("/order", post(order))
        .route("/{operation}", post(second_phase))
        .with_state(service);
    let listener = tokio::net::TcpListener::bind(variable("LISTEN")?).await?;
    axum::serve(listener, routes).await?;
    relay.shutdown().await;
    Ok(())
}
