//! What the teller calls.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use unanimity_sdk::{
    BranchOptions, Context, HookError, LocalError, Message, MessageTarget, ServerLayer, TccHooks, TryError,
};

use crate::hooks::{Credit, Debit};
use crate::{Bank, ENTRY, Part, books};

/// When the sender of a message is asked whether its debit committed.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a debit waits for the lock of its account.
const LOCK_WAIT: Duration = Duration::from_secs(2);

pub(crate) fn routes(bank: Arc<Bank>) -> Router {
    Router::new()
        .route("/tcc/debit", post(tcc::<Debit>))
        .route("/tcc/credit", post(tcc::<Credit>))
        .route("/xa", post(xa))
        // Reads the transaction from the request's header, and puts the branch's vote into the answer's.
        .layer(ServerLayer::new())
        .route("/message", post(message))
        .route("/outbox", post(outbox))
        .route("/entries/{transfer}", get(entries))
        .route("/healthz", get(healthz))
        .with_state(bank)
}

async fn tcc<H: TccHooks<sqlx::Postgres, Payload = Part, Output = ()>>(
    State(bank): State<Arc<Bank>>,
    context: Context,
    Json(part): Json<Part>,
) -> Result<StatusCode, TryError> {
    let mut options = BranchOptions::new();
    if part.locked {
        options = options.lock_keys([format!("{}:{}", bank.name, part.account)]).lock_wait(LOCK_WAIT);
    }
    bank.participant.try_in_with::<H>(&context, options, part).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn xa(
    State(bank): State<Arc<Bank>>,
    context: Context,
    Json(part): Json<Part>,
) -> Result<StatusCode, TryError> {
    let branch = bank.participant.two_phase_branch(ENTRY);
    let booked = part.clone();
    let work = branch.work(&context, part, move |tx: &mut PgConnection| {
        Box::pin(async move { books::book(tx, &booked, "entry", booked.cents).await })
    });
    // Worked before: the same call came twice, and its vote is there.
    work.await.map(|_| StatusCode::NO_CONTENT)
}

/// A debit here and a message that credits the other bank.
#[derive(Debug, Deserialize)]
struct Send {
    part: Part,
    bank: String,
    account: String,
}

impl Send {
    /// What the other bank is told.
    fn message(&self) -> Part {
        Part { account: self.account.clone(), ..self.part.clone() }
    }
}

/// An outcome for whoever asks, as the coordinator words it.
type Answer = Result<Json<Value>, (StatusCode, String)>;

fn outcome(word: &str, why: impl std::fmt::Display) -> Answer {
    Ok(Json(json!({ "decision": word, "why": why.to_string() })))
}

async fn message(State(bank): State<Arc<Bank>>, Json(send): Json<Send>) -> Answer {
    let bad = |error: &dyn std::fmt::Display| (StatusCode::BAD_REQUEST, error.to_string());
    let xid = send.part.transfer.parse().map_err(|error| bad(&error))?;
    let message = bank.client.message("transfer").xid(xid).timeout(MESSAGE_TIMEOUT);
    let message = message.deliver((send.bank.as_str(), "take"), &send.message());
    let message = message.map_err(|error| bad(&error))?.check_back(bank.name.as_str(), "sent");
    // Not prepared as far as we know: then we do not begin, and the check-back finds nothing.
    let prepared = match message.prepare().await {
        Ok(prepared) => prepared,
        Err(error) => return outcome("abort", error),
    };
    let part = send.part.clone();
    let sent = prepared.in_local_transaction(&bank.fence, move |tx| {
        Box::pin(async move { books::book(tx, &part, "send", -part.cents).await })
    });
    match sent.await {
        Ok(()) => outcome("commit", ""),
        // Rolled back.
        Err(LocalError::<HookError>::User(error)) => outcome("abort", error),
        Err(LocalError::Fence(error)) => outcome("abort", error),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, error_text(&error))),
    }
}

fn error_text(error: &LocalError<HookError>) -> String {
    match error {
        LocalError::CommitUnknown { error, .. } => format!("unknown: {error}"),
        LocalError::NotSent(error) => format!("debited and not sent: {error}"),
        other => format!("{other:?}"),
    }
}

async fn outbox(State(bank): State<Arc<Bank>>, Json(send): Json<Send>) -> Answer {
    let aborted = |error: &dyn std::fmt::Display| outcome("abort", error);
    let message = async {
        let target = MessageTarget::participant(send.bank.as_str(), "take")?;
        Message::new("transfer")
            .key(send.part.account.as_str())?
            .payload(&send.message())
            .map(|m| m.to(target))
    };
    let message = match message.await {
        Ok(message) => message,
        Err(error) => return Err((StatusCode::BAD_REQUEST, error.to_string())),
    };
    let mut tx = match bank.pool.begin().await {
        Ok(tx) => tx,
        Err(error) => return aborted(&error),
    };
    if let Err(error) = books::book(&mut tx, &send.part, "send", -send.part.cents).await {
        return aborted(&error);
    }
    if let Err(error) = bank.outbox.send(&mut tx, &message).await {
        return aborted(&error);
    }
    match tx.commit().await {
        Ok(()) => {
            bank.outbox.wake();
            outcome("commit", "")
        }
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("unknown: {error}"))),
    }
}

async fn entries(State(bank): State<Arc<Bank>>, Path(transfer): Path<String>) -> Answer {
    let count = books::entries(&bank.pool, &transfer).await;
    let count = count.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(Json(json!({ "entries": count })))
}

async fn healthz(State(bank): State<Arc<Bank>>) -> Answer {
    let away = |error: &dyn std::fmt::Display| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let health = bank.participant.health().await.map_err(|error| away(&error))?;
    let stats = bank.relay.stats().await.map_err(|error| away(&error))?;
    let attention: Vec<_> = health.attention.iter().map(|a| format!("{}: {}", a.code, a.message)).collect();
    let attached = health.nodes.iter().filter(|node| node.attached).count();
    Ok(Json(json!({
        "attached": attached,
        "open": health.open,
        "prepared": health.two_phase.iter().map(|manager| manager.prepared).sum::<usize>(),
        "errors": health.two_phase.iter().filter_map(|manager| manager.error.as_ref()).collect::<Vec<_>>(),
        "attention": attention,
        "undelivered": stats.pending + stats.handed,
        "dead": stats.dead,
    })))
}
