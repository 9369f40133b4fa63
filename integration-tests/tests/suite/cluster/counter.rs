//! A participant in the test's own process: a counter in SQLite, attached to every node.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use integration_tests::wait::until;
use sqlx::{Sqlite, SqlitePool, Transaction};
use unanimity_sdk::{Branch, Client, Fence, HookError, Participant, TccHooks, sqlite_pool};

use super::NODES;
use super::callers::Heard;

/// How long the rest may take once everything works again.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// The participant, and the client that it shares with those who call it.
#[derive(Debug, Clone)]
pub(super) struct Counter {
    pub(super) client: Client,
    pub(super) participant: Participant<Sqlite>,
    pool: SqlitePool,
}

/// One more: held by the try, counted by the confirm.
#[derive(Debug)]
pub(super) struct Count;

impl TccHooks<Sqlite> for Count {
    type Payload = ();
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, _: &Branch<()>) -> Result<(), HookError> {
        sqlx::query("UPDATE counter SET held = held + 1").execute(&mut **tx).await?;
        Ok(())
    }

    async fn confirm(&self, tx: &mut Transaction<'_, Sqlite>, _: &Branch<()>) -> Result<(), HookError> {
        sqlx::query("UPDATE counter SET held = held - 1, counted = counted + 1").execute(&mut **tx).await?;
        Ok(())
    }

    async fn cancel(&self, tx: &mut Transaction<'_, Sqlite>, _: &Branch<()>) -> Result<(), HookError> {
        sqlx::query("UPDATE counter SET held = held - 1").execute(&mut **tx).await?;
        Ok(())
    }
}

impl Counter {
    pub(super) async fn open(directory: &Path, coordinators: &str) -> anyhow::Result<Self> {
        let pool = sqlite_pool(&directory.join("counter.db")).await?;
        sqlx::query("CREATE TABLE counter (held INTEGER NOT NULL, counted INTEGER NOT NULL)")
            .execute(&pool)
            .await?;
        sqlx::query("INSERT INTO counter VALUES (0, 0)").execute(&pool).await?;
        let fence = Fence::new(pool.clone());
        fence.migrate().await?;
        let client = Client::connect(coordinators)?;
        let builder = Participant::builder("counter", fence).tcc("count", Count);
        let participant = builder.in_doubt_after(Duration::from_secs(10)).attach(&client).await?;
        let counter = Self { client, participant, pool };
        until("a session with every node", Duration::from_secs(30), async || {
            let attached = counter.attached().await?;
            ensure!(attached == NODES, "{attached}");
            Ok(())
        })
        .await?;
        Ok(counter)
    }

    /// How many nodes it has a session with.
    pub(super) async fn attached(&self) -> anyhow::Result<usize> {
        let health = self.participant.health().await?;
        Ok(health.nodes.iter().filter(|node| node.attached).count())
    }

    /// Waits until nothing is held, and what was counted is exactly what committed.
    pub(super) async fn settled(&self, heard: &Heard) -> anyhow::Result<()> {
        until("the counter is settled", SETTLE_LIMIT, async || {
            let counted: (i64, i64) =
                sqlx::query_as("SELECT held, counted FROM counter").fetch_one(&self.pool).await?;
            let open = self.participant.health().await?.open;
            let committed = i64::try_from(heard.committed)?;
            ensure!(
                (counted, open) == ((0, committed), 0),
                "{counted:?} of {committed}, {open} branches open"
            );
            Ok(())
        })
        .await?;
        self.participant.shutdown().await;
        Ok(())
    }
}
