//! The participants of a case: HTTP callbacks over a fence of their own in PostgreSQL.
//!
//! They never die. What they can be told is to be away, to lose their answers, and to refuse. Every effect is written
//! down in the transaction that makes it, so that a verdict can count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::Value;
use sqlx::{PgPool, Row as _};
use tokio::task::JoinHandle;

/// The fence, and what took effect: a row for each effect, never changed.
const SCHEMA: &str = "
CREATE TABLE fence (xid text, key text, state text NOT NULL, PRIMARY KEY (xid, key));
CREATE TABLE effects (xid text, key text, operation text, at timestamptz DEFAULT clock_timestamp());";

/// What an operation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Refused,
    NotYet,
}

/// What a branch's row says after an operation, and whether that made an effect. `None`: no row.
fn next(state: Option<&str>, operation: &str) -> (Reply, Option<&'static str>) {
    use Reply::{Done, NotYet, Refused};
    match (operation, state) {
        // The first phase, or the work itself. Late ones are refused.
        ("try" | "work" | "action" | "send", None) => (Done, Some("begun")),
        ("try" | "work" | "action" | "send", Some("begun" | "prepared" | "done")) => (Done, None),
        ("prepare", Some("begun")) => (Done, Some("prepared")),
        ("prepare", Some("prepared" | "done")) => (Done, None),
        // The second phase, forward.
        ("confirm", None) => (NotYet, None),
        ("confirm" | "commit_one_phase", Some("begun")) | ("commit", Some("prepared")) => {
            (Done, Some("done"))
        }
        ("deliver", None) => (Done, Some("done")),
        ("confirm" | "commit" | "commit_one_phase" | "deliver", Some("done")) => (Done, None),
        // Back. Where there is nothing, nothing may come any more.
        ("cancel" | "compensate" | "rollback" | "commit_one_phase", None) => {
            (if operation == "commit_one_phase" { Refused } else { Done }, Some("tombstone"))
        }
        ("cancel" | "compensate" | "rollback", Some("begun" | "prepared")) => (Done, Some("undone")),
        ("cancel" | "compensate" | "rollback", Some("undone" | "tombstone")) => (Done, None),
        // A sender's local transaction is there, or can never be.
        ("check_back", Some("begun")) => (Done, None),
        ("check_back", None) => (Refused, Some("tombstone")),
        _ => (Refused, None),
    }
}

/// The participants: one server, whose branches are told apart by their keys.
#[derive(Debug)]
pub(super) struct Bank {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
    url: String,
}

#[derive(Debug)]
struct Shared {
    pool: PgPool,
    down: AtomicBool,
    /// Operations are carried out, and each one's first answer breaks off.
    loses_replies: AtomicBool,
    lost: Mutex<BTreeSet<String>>,
    /// `key/operation` pairs that are refused without an effect.
    refuses: Mutex<BTreeSet<String>>,
    calls: AtomicU32,
}

impl Bank {
    /// Makes the tables of a fresh database and serves.
    pub(super) async fn start(database_url: &str) -> anyhow::Result<Self> {
        let pool = sqlx::postgres::PgPoolOptions::new().max_connections(4).connect(database_url).await?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await?;
        let shared = Arc::new(Shared {
            pool,
            down: AtomicBool::new(false),
            loses_replies: AtomicBool::new(false),
            lost: Mutex::default(),
            refuses: Mutex::default(),
            calls: AtomicU32::new(0),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let routes = Router::new().route("/{operation}", post(called)).with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { shared, server, url })
    }

    /// Where an operation goes.
    pub(super) fn url(&self, operation: &str) -> String {
        format!("{}/{operation}", self.url)
    }

    /// Whether it is away: calls break off and do nothing.
    pub(super) fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// From now on the first answer to each operation of each branch is lost.
    pub(super) fn lose_replies(&self) {
        self.shared.loses_replies.store(true, Ordering::SeqCst);
    }

    /// Refuses an operation of the branches with this key, or no longer.
    pub(super) fn refuse(&self, key: &str, operation: &str, refuses: bool) {
        let mut set = self.shared.refuses.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = format!("{key}/{operation}");
        if refuses {
            set.insert(pair);
        } else {
            set.remove(&pair);
        }
    }

    /// How often it was called.
    pub(super) fn calls(&self) -> u32 {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Does an operation at once, as the application does that calls a service.
    pub(super) async fn perform(&self, xid: &str, key: &str, operation: &str) -> anyhow::Result<Reply> {
        self.shared.perform(xid, key, operation).await
    }

    /// The states of a transaction's branches.
    pub(super) async fn states(&self, xid: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let rows = sqlx::query("SELECT key, state FROM fence WHERE xid = $1")
            .bind(xid)
            .fetch_all(&self.shared.pool)
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// What took effect for a transaction: (key, operation), in order.
    pub(super) async fn effects(&self, xid: &str) -> anyhow::Result<Vec<(String, String)>> {
        let rows = sqlx::query("SELECT key, operation FROM effects WHERE xid = $1 ORDER BY at")
            .bind(xid)
            .fetch_all(&self.shared.pool)
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Shared {
    async fn perform(&self, xid: &str, key: &str, operation: &str) -> anyhow::Result<Reply> {
        let pair = format!("{key}/{operation}");
        if self.refuses.lock().unwrap_or_else(PoisonError::into_inner).contains(&pair) {
            return Ok(Reply::Refused);
        }
        let mut tx = self.pool.begin().await?;
        // One at a time for each branch, whether it has a row or not.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind(format!("{xid}/{key}"))
            .execute(&mut *tx)
            .await?;
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM fence WHERE xid = $1 AND key = $2")
            .bind(xid)
            .bind(key)
            .fetch_optional(&mut *tx)
            .await?;
        let (reply, changed) = next(state.as_deref(), operation);
        if let Some(state) = changed {
            sqlx::query(
                "INSERT INTO fence (xid, key, state) VALUES ($1, $2, $3)
                 ON CONFLICT (xid, key) DO UPDATE SET state = excluded.state",
            )
            .bind(xid)
            .bind(key)
            .bind(state)
            .execute(&mut *tx)
            .await?;
            if state != "tombstone" {
                sqlx::query("INSERT INTO effects (xid, key, operation) VALUES ($1, $2, $3)")
                    .bind(xid)
                    .bind(key)
                    .bind(operation)
                    .execute(&mut *tx)
                    .await?;
            }
        }
        tx.commit().await?;
        Ok(reply)
    }
}

async fn called(State(shared): State<Arc<Shared>>, Path(operation): Path<String>, body: Bytes) -> Response {
    shared.calls.fetch_add(1, Ordering::SeqCst);
    if shared.down.load(Ordering::SeqCst) {
        return broken_off();
    }
    match carry_out(&shared, &operation, &body).await {
        Ok(None) => broken_off(),
        // A step's result is what its compensation is given.
        Ok(Some(Reply::Done)) if operation == "action" => (StatusCode::OK, "\"booked\"").into_response(),
        Ok(Some(Reply::Done)) => StatusCode::OK.into_response(),
        Ok(Some(Reply::Refused)) => (StatusCode::CONFLICT, "refused").into_response(),
        Ok(Some(Reply::NotYet)) => StatusCode::TOO_EARLY.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")).into_response(),
    }
}

/// `None`: its answer is lost.
async fn carry_out(shared: &Shared, operation: &str, body: &[u8]) -> anyhow::Result<Option<Reply>> {
    let call: Value = serde_json::from_slice(body)?;
    let (xid, key) = (call["xid"].as_str().context("no xid")?, call["key"].as_str().context("no key")?);
    let said = call["operation"].as_str().context("no operation")?;
    anyhow::ensure!(said == operation, "asked to {said} at {operation}");
    let reply = shared.perform(xid, key, operation).await?;
    if shared.loses_replies.load(Ordering::SeqCst) {
        let mut lost = shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        if lost.insert(format!("{xid}/{key}/{operation}")) {
            return Ok(None);
        }
    }
    Ok(Some(reply))
}

/// An answer whose body breaks off: it says nothing.
fn broken_off() -> Response {
    let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    Response::new(Body::from_stream(futures::stream::iter([Err::<Bytes, _>(broken)])))
}
