//! The teller: moves money between the banks, learns how each transfer ended, and asks somebody else whether that is so.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::time::{sleep, timeout};
use tower::{Layer as _, Service as _};
use turmoil::net::TcpStream;
use unanimity_sdk::{
    Client, ClientLayer, CommitError, Decision, GlobalTransaction, TransactionBuilder, TransactionError, Xid,
};
use uuid::Uuid;

use crate::bank::{BANK_PORT, bank_name};
use crate::hits::Hit;
use crate::net::connector;
use crate::record::{Record, Told};

/// Tellers at work at once.
pub(crate) const TELLERS: usize = 3;
/// Transfers that each makes after healing: the proof that all works again.
pub(crate) const AFTER_HEALING: usize = 2;
/// How long a bank may take.
const CALL_LIMIT: Duration = Duration::from_secs(3);
/// How long a transfer may take.
const TRANSFER_LIMIT: Duration = Duration::from_secs(10);

/// Runs all tellers; answers when everything that they began is settled.
pub(crate) async fn run(seed: u64, addresses: Vec<String>, record: Arc<Record>) -> turmoil::Result {
    let client = |addresses: &[String]| {
        Client::builder(addresses)
            .connector(connector(&record))
            .call_timeout(Duration::from_secs(4))
            .begin_retry_for(Duration::from_secs(4))
            .commit_retry_for(Duration::from_secs(3))
            .connect()
    };
    let asks = client(&addresses)?;
    // Another process, as far as coordinators can tell: with streams and news of its own.
    let doubts = client(&addresses.iter().rev().cloned().collect::<Vec<_>>())?;
    let tellers = (0..TELLERS as u64).map(|number| {
        let dice = fastrand::Rng::with_seed(seed ^ (0x7e11 + number));
        let (asks, doubts, record) = (asks.clone(), doubts.clone(), Arc::clone(&record));
        Teller { dice, asks, doubts, record }.run()
    });
    for ended in tellers.map(tokio::task::spawn_local).collect::<Vec<_>>() {
        ended.await?;
    }
    // Its clients stay: the host lives on.
    std::future::pending().await
}

struct Teller {
    dice: fastrand::Rng,
    asks: Client,
    doubts: Client,
    record: Arc<Record>,
}

impl Teller {
    async fn run(mut self) {
        let mut proofs = 0;
        while proofs < AFTER_HEALING {
            let healed = self.record.healed.load(Ordering::Relaxed);
            if self.transfer(healed).await == Some(Told::Committed) && healed {
                self.record.after_healing.fetch_add(1, Ordering::Relaxed);
                proofs += 1;
            }
            sleep(Duration::from_millis(self.dice.u64(20..600))).await;
        }
        self.record.tellers_done.fetch_add(1, Ordering::Relaxed);
    }

    /// One transfer, until its outcome is known; `None` if it could not be begun.
    async fn transfer(&mut self, small: bool) -> Option<Told> {
        let amount = if small { 1 } else { self.dice.i64(1..400) };
        let from = self.dice.usize(..2);
        let own = self.dice.bool().then(|| Xid::new(Uuid::from_u128(self.dice.u128(..))));
        let begin = |client: &Client| -> TransactionBuilder {
            let builder = client.two_phase("transfer").timeout(TRANSFER_LIMIT);
            match own {
                Some(xid) => builder.xid(xid),
                None => builder,
            }
        };
        let tx = begin(&self.asks).begin().await.ok()?;
        self.record.hit(if own.is_some() { Hit::ByCall } else { Hit::Ticketed });
        let moved = tx.scope(async {
            self.call(from, -amount).await?;
            self.call(1 - from, amount).await
        });
        let ended = match moved.await {
            Ok(()) => self.commit(&tx).await,
            // Its own code gave it up: if nobody can be told, the deadline does it.
            Err(_) => match tx.abort().await {
                Err(error) if error.code() == Some(unanimity_sdk::ErrorCode::AlreadyDecided) => None,
                _ => Some(Told::Aborted),
            },
        };
        let told = match ended {
            Some(told) => told,
            None => self.find_out(tx.xid()).await,
        };
        self.record.told(tx.xid(), told);
        if own.is_some() {
            self.again(begin(&self.doubts), told).await;
        }
        Some(told)
    }

    async fn commit(&self, tx: &GlobalTransaction) -> Option<Told> {
        self.record.committing.fetch_add(1, Ordering::Relaxed);
        let committed = tx.commit().await;
        self.record.committing.fetch_sub(1, Ordering::Relaxed);
        outcome(&committed)
    }

    /// Asks, now here and now there, until somebody says how it ended.
    async fn find_out(&self, xid: Xid) -> Told {
        self.record.hit(Hit::Unknown);
        loop {
            for client in [&self.doubts, &self.asks] {
                let found = client.wait_decided(xid, Duration::from_secs(2)).await;
                match found.ok().and_then(|found| found.decision()) {
                    Some(Decision::Commit) => return Told::Committed,
                    Some(Decision::Abort) => return Told::Aborted,
                    None => {}
                }
                // What nobody knows may still be under way to a coordinator: this settles it.
                if client.abort(xid).await.is_ok() {
                    return Told::Aborted;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Somebody else begins and commits the same transaction: it ended, and that is what it hears.
    async fn again(&self, builder: TransactionBuilder, told: Told) {
        let Ok(tx) = builder.begin().await else { return };
        if let Some(heard) = outcome(&tx.commit().await) {
            self.record.hit(Hit::BegunAgain);
            if heard != told {
                self.record.broken(format!("I4: {} was {told:?} and is begun again as {heard:?}", tx.xid()));
            }
        }
    }

    /// Asks a bank to move money, as a part of the current transaction.
    async fn call(&self, bank: usize, amount: i64) -> anyhow::Result<()> {
        let calling = async {
            let stream = TcpStream::connect((bank_name(bank), BANK_PORT)).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let request = http::Request::post("/move")
                .header(http::header::HOST, bank_name(bank))
                .body(Full::<axum::body::Bytes>::from(amount.to_string()))?;
            let mut bank =
                ClientLayer::new().layer(tower::service_fn(move |request| sender.send_request(request)));
            let answer = bank.call(request).await;
            connection.abort();
            anyhow::ensure!(answer?.status().is_success(), "the bank said no");
            Ok(())
        };
        timeout(CALL_LIMIT, calling).await?
    }
}

/// What the end of a commit says of the outcome.
fn outcome(ended: &Result<(), CommitError>) -> Option<Told> {
    match ended {
        Ok(()) => Some(Told::Committed),
        Err(TransactionError::Aborted { .. }) => Some(Told::Aborted),
        Err(_) => None,
    }
}
