//! A participant of every kind with its fence in memory, and the faults that can be planted into it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, Uri};
use serde_json::{Value, json};

/// What a toy does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// A repeated try, action, prepare or delivery acts again.
    BeginsAgain,
    /// A repeated confirm or commit acts again.
    FinishesAgain,
    /// A repeated cancel, compensate or rollback acts again.
    UndoesAgain,
    /// What was done before is a conflict.
    RefusesRepetition,
    /// Each answer to an action has another result.
    NewResult,
    /// Only the transaction counts.
    ForgetsKey,
    /// Only the key counts.
    ForgetsXid,
    /// Looks, waits, and then acts on what it saw.
    ChecksThenActs,
    /// The effect first, the fence row later: who hangs up in between ends the handler.
    FenceAfterEffect,
    /// Nothing to undo is an error.
    RefusesUnknownUndo,
    /// Nothing to undo is fine, and forgotten.
    NoTombstone,
    /// A confirm or commit of nothing is fine.
    FinishesNothing,
    /// A confirm that is faster than its try is refused.
    RefusesEarlyFinish,
    UndoesFinished,
    FinishesUndone,
    /// Undo says yes and does nothing.
    UndoKeeps,
    /// Undo gives half back.
    UndoKeepsHalf,
    /// Prepare votes read-only and then changes something.
    LiesReadOnly,
    /// Remembers the last branch only.
    RemembersLast,
    /// A sender that cannot say no.
    NeverSaysNo,
    /// A sender that says yes to everything.
    AlwaysSaysYes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    Worked,
    Begun,
    Finished,
    Undone,
}

#[derive(Debug, Default)]
struct Store {
    branches: HashMap<(String, String), Branch>,
    /// What there is left: the number that is observed.
    free: i64,
    results: u64,
}

/// A running toy.
#[derive(Clone)]
pub(crate) struct Toy {
    fault: Fault,
    store: Arc<Mutex<Store>>,
    /// Bodies and headers of all calls.
    pub(crate) calls: Arc<Mutex<Vec<(String, http::HeaderMap, Value)>>>,
    pub(crate) url: String,
}

/// An amount that halves without rest.
pub(crate) const AMOUNT: i64 = 6;

impl Toy {
    pub(crate) async fn start(fault: Fault) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let toy = Self { fault, store: Arc::default(), calls: Arc::default(), url };
        let routes = Router::new()
            .route("/", post(call))
            .route("/{*operation}", post(call))
            .route("/observed", get(observed))
            .with_state(toy.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        toy
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    async fn answer(&self, operation: &str, branch: (String, String), amount: i64) -> (StatusCode, Value) {
        let seen = self.store.lock().expect("no holder panics").branches.get(&branch).copied();
        if self.has(Fault::ChecksThenActs) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        } else if self.has(Fault::FenceAfterEffect) && seen.is_none() && operation != "cancel" {
            self.store.lock().expect("no holder panics").free -= amount;
            tokio::time::sleep(Duration::from_millis(25)).await;
            self.store.lock().expect("no holder panics").free += amount;
        }
        let mut store = self.store.lock().expect("no holder panics");
        if self.has(Fault::RemembersLast) {
            store.branches.retain(|known, _| *known == branch);
        }
        let state = if self.has(Fault::ChecksThenActs) { seen } else { store.branches.get(&branch).copied() };
        let (status, next, change) = self.judge(operation, state, amount);
        store.free += change;
        if let Some(next) = next {
            store.branches.insert(branch, next);
        }
        if self.has(Fault::NewResult) {
            store.results += 1;
        }
        let vote = if self.has(Fault::LiesReadOnly) { "read_only" } else { "prepared" };
        let body = match operation {
            "prepare" => json!({ "vote": vote }),
            "action" => json!({ "booking": store.results }),
            _ => Value::Null,
        };
        (status, if status == StatusCode::OK { body } else { Value::Null })
    }

    /// Status, the branch's next state, and the change of what is left.
    fn judge(
        &self,
        operation: &str,
        state: Option<Branch>,
        amount: i64,
    ) -> (StatusCode, Option<Branch>, i64) {
        const OK: StatusCode = StatusCode::OK;
        const NO: StatusCode = StatusCode::CONFLICT;
        let repeated = if self.has(Fault::RefusesRepetition) { NO } else { OK };
        let again = |fault: Fault, change: i64| if self.has(fault) { change } else { 0 };
        let is_one_step = matches!(operation, "action" | "compensate" | "deliver");
        match (operation, state) {
            // The work of a two-phase branch; the work of a sender is below.
            ("work", None | Some(Branch::Worked)) => (OK, Some(Branch::Worked), 0),
            ("work", Some(Branch::Undone)) => (NO, None, 0),
            ("work", Some(_)) => (OK, None, 0),

            ("try" | "action" | "prepare" | "deliver", None | Some(Branch::Worked)) => {
                (OK, Some(Branch::Begun), -amount)
            }
            ("try" | "action" | "prepare" | "deliver", Some(Branch::Begun | Branch::Finished)) => {
                (repeated, None, again(Fault::BeginsAgain, -amount))
            }
            ("try" | "action" | "prepare", Some(Branch::Undone)) => (NO, None, 0),

            ("confirm" | "commit", Some(Branch::Begun)) => (OK, Some(Branch::Finished), 0),
            ("confirm" | "commit", Some(Branch::Finished)) => {
                (repeated, None, again(Fault::FinishesAgain, -amount))
            }
            ("confirm" | "commit", None | Some(Branch::Worked)) if self.has(Fault::FinishesNothing) => {
                (OK, None, 0)
            }
            ("confirm", None) if !self.has(Fault::RefusesEarlyFinish) => (StatusCode::TOO_EARLY, None, 0),
            ("confirm" | "commit", Some(Branch::Undone)) if self.has(Fault::FinishesUndone) => (OK, None, 0),
            ("confirm" | "commit", _) => (NO, None, 0),
            ("commit_one_phase", Some(Branch::Worked)) => (OK, Some(Branch::Finished), -amount),
            ("commit_one_phase", Some(Branch::Finished)) => (OK, None, again(Fault::FinishesAgain, -amount)),

            ("cancel" | "compensate" | "rollback", None) if self.has(Fault::RefusesUnknownUndo) => {
                (StatusCode::NOT_FOUND, None, 0)
            }
            ("cancel" | "compensate" | "rollback", None) if self.has(Fault::NoTombstone) => (OK, None, 0),
            ("cancel" | "compensate" | "rollback", None | Some(Branch::Worked)) => {
                (OK, Some(Branch::Undone), 0)
            }
            ("cancel" | "compensate" | "rollback", Some(Branch::Begun)) => {
                let back = match self.fault {
                    Fault::UndoKeeps => 0,
                    Fault::UndoKeepsHalf => amount / 2,
                    _ => amount,
                };
                (OK, Some(Branch::Undone), back)
            }
            ("cancel" | "compensate" | "rollback", Some(Branch::Undone)) => {
                (repeated, None, again(Fault::UndoesAgain, amount))
            }
            ("cancel" | "rollback", Some(Branch::Finished)) if self.has(Fault::UndoesFinished) => {
                (OK, Some(Branch::Undone), amount)
            }
            ("cancel" | "rollback", Some(Branch::Finished)) => (NO, None, 0),

            // A sender: its local transaction commits at once.
            ("local_transaction", None) => (OK, Some(Branch::Finished), -amount),
            ("local_transaction", Some(Branch::Undone)) => (NO, None, 0),
            ("local_transaction", Some(_)) => (OK, None, again(Fault::BeginsAgain, -amount)),
            ("check_back", Some(Branch::Finished)) => (OK, None, 0),
            ("check_back", None) if self.has(Fault::NoTombstone) => (NO, None, 0),
            ("check_back", None) if self.has(Fault::NeverSaysNo) => (StatusCode::TOO_EARLY, None, 0),
            ("check_back", _) if self.has(Fault::AlwaysSaysYes) => (OK, None, 0),
            ("check_back", _) => (NO, Some(Branch::Undone), 0),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, None, if is_one_step { 1 } else { 0 }),
        }
    }
}

async fn call(
    State(toy): State<Toy>,
    uri: Uri,
    headers: http::HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    toy.calls.lock().expect("no holder panics").push((uri.path().to_owned(), headers, body.clone()));
    let text = |name: &str| body[name].as_str().expect("a text").to_owned();
    let xid = if toy.has(Fault::ForgetsXid) { String::new() } else { text("xid") };
    let key = if toy.has(Fault::ForgetsKey) { String::new() } else { text("key") };
    let operation = match uri.path() {
        path @ ("/work" | "/local_transaction") => path[1..].to_owned(),
        _ => text("operation"),
    };
    let amount = body["payload"]["amount"].as_i64().expect("an amount");
    let (status, answer) = toy.answer(&operation, (xid, key), amount).await;
    (status, Json(answer))
}

/// As people store money: a text.
async fn observed(State(toy): State<Toy>) -> Json<String> {
    Json(format!("{}.00", toy.store.lock().expect("no holder panics").free))
}
