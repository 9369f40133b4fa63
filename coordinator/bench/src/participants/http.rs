//! A participant that writes nothing, called by HTTP: answers 200 to every `POST`, over connections that
//! stay open.
//!
//! It reads a request's body only where something depends on it: which transaction is finished, which
//! step is to refuse. Where it does not (sagas without aborts) it is the cheapest participant there can
//! be, the same one for every product that is compared.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use serde::Deserialize;
use tokio::net::TcpListener;
use unanimity_proto::v1;

use crate::participants::Answerer;

/// What is looked at in a request of Unanimity. Texts with escapes are no texts of the bench.
#[derive(Deserialize)]
struct Call<'a> {
    xid: &'a str,
    branch_id: u32,
    operation: &'a str,
    attempt: u32,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    payload: Option<&'a serde_json::value::RawValue>,
}

async fn answer(State(answerer): State<Arc<Answerer>>, body: Bytes) -> StatusCode {
    if !answerer.looks() {
        return StatusCode::OK;
    }
    let Ok(call) = serde_json::from_slice::<Call<'_>>(&body) else {
        answerer.remember("a request by HTTP is none of the coordinator".to_owned());
        return StatusCode::BAD_REQUEST;
    };
    let operation = v1::BranchOperation {
        xid: call.xid.to_owned(),
        branch_id: call.branch_id,
        operation: operation(call.operation).into(),
        attempt: call.attempt,
        transaction_name: call.name.unwrap_or_default().into_owned(),
        payload: call
            .payload
            .map(|payload| Bytes::copy_from_slice(payload.get().as_bytes()))
            .unwrap_or_default(),
        ..Default::default()
    };
    let done = answerer.answer(std::slice::from_ref(&operation));
    let is_refused =
        done.first().is_some_and(|result| result.outcome() == v1::branch_result::Outcome::Refused);
    if is_refused { StatusCode::CONFLICT } else { StatusCode::OK }
}

fn operation(word: &str) -> v1::Operation {
    if word == "action" { v1::Operation::Action } else { v1::Operation::Unspecified }
}

/// Serves until the task is dropped.
pub(super) async fn serve(listener: TcpListener, answerer: Arc<Answerer>) {
    let app = Router::new().fallback(answer).with_state(Arc::clone(&answerer));
    let listener = listener.tap_io(|connection| {
        // Without it small answers wait for the other side's acknowledgement.
        let _ = connection.set_nodelay(true);
    });
    if let Err(error) = axum::serve(listener, app).await {
        answerer.remember(format!("the HTTP server ended: {error}"));
    }
}
