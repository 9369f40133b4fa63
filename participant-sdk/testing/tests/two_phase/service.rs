//! A bank as a service: a database, and a participant in front of it.

use std::time::Duration;

use unanimity_sdk::xa::{Resource, Worked};
use unanimity_sdk::{
    Client, Context, NoFence, Participant, ParticipantBuilder, TransactionInfo, TryError, Xid,
};

use super::support::{Bank, Xa};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Service<DB: Xa> {
    pub(crate) bank: Bank<DB>,
    pub(crate) participant: Participant<NoFence>,
}

/// A builder whose loops turn fast.
pub(crate) fn fast<DB: Xa>(name: &str, resource: &Resource<DB>) -> ParticipantBuilder<NoFence> {
    Participant::without_fence(name)
        .two_phase("transfer", resource.clone())
        .in_doubt_after(Duration::from_millis(500))
        .in_doubt_every(Duration::from_millis(50))
}

impl<DB: Xa> Service<DB> {
    pub(crate) async fn open(name: &str, client: &Client) -> Option<Self> {
        Some(Self::of(name, Bank::fresh().await?, client).await)
    }

    pub(crate) async fn of(name: &str, bank: Bank<DB>, client: &Client) -> Self {
        let participant = fast(name, &bank.resource).attach(client).await.unwrap();
        attached(&participant).await;
        Self { bank, participant }
    }

    /// Adds cents to account `a`, in the early form.
    pub(crate) async fn add(
        &self,
        transaction: &impl AsRef<Context>,
        cents: i64,
    ) -> Result<Worked<i64>, TryError> {
        add::<DB>(&self.participant, transaction, cents).await
    }

    pub(crate) async fn cents(&self) -> i64 {
        self.bank.cents("a").await
    }

    /// Branches of the coordinator's log that are prepared in this database.
    pub(crate) async fn prepared(&self, client: &Client) -> usize {
        let log_id = client.log_id().unwrap();
        self.bank.resource.in_doubt(log_id).await.unwrap().ours.len()
    }

    pub(crate) async fn ledger(&self) -> i64 {
        DB::number(self.bank.resource.pool(), "SELECT count(*) FROM unanimity_ledger").await
    }
}

pub(crate) fn sql(cents: i64) -> String {
    format!("UPDATE accounts SET cents = cents + {cents} WHERE name = 'a'")
}

pub(crate) async fn add<DB: Xa>(
    participant: &Participant<NoFence>,
    transaction: &impl AsRef<Context>,
    cents: i64,
) -> Result<Worked<i64>, TryError> {
    let sql = sql(cents);
    let branch = participant.two_phase_branch("transfer");
    branch
        .work(transaction, cents, move |connection: &mut DB::Connection| {
            Box::pin(async move {
                DB::sql(connection, &sql).await?;
                assert!(Context::current().is_some(), "the work is in the transaction");
                Ok(cents)
            })
        })
        .await
}

pub(crate) async fn attached(participant: &Participant<NoFence>) {
    eventually("it is attached", async || participant.health().await.unwrap().attached).await;
}

/// A call that came with the transaction's header, and comes again: the same context each time.
pub(crate) fn call(xid: Xid) -> Context {
    Context::from_header(&format!("{xid};call=c1")).unwrap()
}

pub(crate) async fn finished(client: &Client, xid: Xid) -> TransactionInfo {
    let info = client.wait_finished(xid, LIMIT).await.unwrap();
    assert!(info.status.is_terminal(), "{info:?}");
    info
}

pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < end, "within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
