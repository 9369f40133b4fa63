//! A bank: a service with one account, which takes part in transfers by two-phase commit.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use turmoil::net::TcpListener;
use unanimity_sdk::{Client, Context, HookError, NoFence, Participant, ServerLayer};

use crate::ledger::Ledger;
use crate::net::{Door, connector};
use crate::record::Record;

/// Where banks listen.
pub(crate) const BANK_PORT: u16 = 9_000;
const ACCOUNT: &str = "account";

/// The name of a bank, of its host and of its participant.
pub(crate) fn bank_name(place: usize) -> String {
    format!("bank-{place}")
}

/// Runs a bank until its host dies.
pub(crate) async fn run(
    place: usize,
    addresses: Vec<String>,
    ledger: Ledger,
    record: Arc<Record>,
) -> turmoil::Result {
    let client = Client::builder(addresses).connector(connector(&record)).connect()?;
    let bank = Participant::without_fence(bank_name(place))
        .two_phase(ACCOUNT, ledger)
        .in_doubt_after(Duration::from_secs(8))
        .in_doubt_every(Duration::from_secs(2))
        .attach(&client)
        .await?;
    let listener = TcpListener::bind(("0.0.0.0", BANK_PORT)).await?;
    let routes = Router::new().route("/move", post(move_money)).layer(ServerLayer::new());
    axum::serve(Door(listener), routes.with_state(Arc::new(bank))).await?;
    Ok(())
}

async fn move_money(
    State(bank): State<Arc<Participant<NoFence>>>,
    amount: String,
) -> Result<(), (StatusCode, String)> {
    let invalid = || (StatusCode::BAD_REQUEST, "no amount, or no transaction".to_owned());
    let amount: i64 = amount.parse().map_err(|_| invalid())?;
    let context = Context::current().ok_or_else(invalid)?;
    // The ledger learns of the amount by the prepare.
    let work =
        bank.two_phase_branch(ACCOUNT).own_work(&context, amount, |_| async { Ok::<_, HookError>(()) });
    work.await.map_err(|error| (StatusCode::CONFLICT, error.to_string()))
}
