//! A service with a database of its own, whose hooks write a line for everything they do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::{Sqlite, SqlitePool, Transaction};
use unanimity_sdk::{
    Branch, BranchKey, Client, Fence, HookError, MessageHooks, Outbox, Participant, ParticipantBuilder,
    ReceivedMessage, Refused, StepCall, StepHooks, TccHooks, TransactionInfo, Xid, sqlite_pool,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// What a hook does the next time.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mood {
    Refuses,
    Panics,
    Slow(Duration),
}

/// The hooks of every kind; clones share their moods.
#[derive(Clone, Default)]
pub(crate) struct Hooks(Arc<Mutex<BTreeMap<String, VecDeque<Mood>>>>);

impl Hooks {
    /// What the hook does the next times, by `operation key`; after that it does well.
    pub(crate) fn next(&self, what: &str, moods: impl IntoIterator<Item = Mood>) {
        self.0.lock().unwrap().insert(what.to_owned(), moods.into_iter().collect());
    }

    async fn act(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        at: (Xid, &BranchKey),
        what: &str,
        text: &str,
    ) -> Result<(), HookError> {
        sqlx::query("INSERT INTO lines (xid, branch, what, line) VALUES ($1, $2, $3, $4)")
            .bind(at.0.to_string())
            .bind(at.1.as_str())
            .bind(what)
            .bind(text)
            .execute(&mut **tx)
            .await?;
        let mood = self.0.lock().unwrap().get_mut(&format!("{what} {}", at.1)).and_then(VecDeque::pop_front);
        match mood {
            None => Ok(()),
            Some(Mood::Refuses) => Err(Refused::new("no").into()),
            Some(Mood::Panics) => panic!("the hook had enough"),
            Some(Mood::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
        }
    }
}

impl StepHooks<Sqlite> for Hooks {
    type Payload = String;
    type Output = String;

    async fn action(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<String>,
    ) -> Result<String, HookError> {
        let mut said = call.payload.clone();
        let before: Vec<_> = call.inputs.steps().map(str::to_owned).collect();
        for step in before {
            said = format!("{said}<{}>", call.inputs.get::<String>(&step)?.unwrap_or_default());
        }
        self.act(tx, (call.xid, &call.key), "action", &said).await?;
        Ok(said)
    }

    async fn compensate(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        call: &StepCall<String>,
        result: Option<String>,
    ) -> Result<(), HookError> {
        self.act(tx, (call.xid, &call.key), "compensate", &result.unwrap_or_default()).await
    }
}

impl MessageHooks<Sqlite> for Hooks {
    type Payload = String;

    async fn deliver(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        message: &ReceivedMessage<String>,
    ) -> Result<(), HookError> {
        self.act(tx, (message.xid, &message.key), "deliver", &message.payload).await
    }
}

impl TccHooks<Sqlite> for Hooks {
    type Payload = String;
    type Output = ();

    async fn try_(&self, tx: &mut Transaction<'_, Sqlite>, branch: &Branch<String>) -> Result<(), HookError> {
        self.act(tx, (branch.xid, &branch.key), "try", &branch.payload).await
    }

    async fn confirm(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        branch: &Branch<String>,
    ) -> Result<(), HookError> {
        self.act(tx, (branch.xid, &branch.key), "confirm", &branch.payload).await
    }

    async fn cancel(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        branch: &Branch<String>,
    ) -> Result<(), HookError> {
        self.act(tx, (branch.xid, &branch.key), "cancel", &branch.payload).await
    }
}

pub(crate) struct Service {
    _directory: tempfile::TempDir,
    pub(crate) pool: SqlitePool,
    pub(crate) fence: Fence<Sqlite>,
    pub(crate) outbox: Outbox<Sqlite>,
    pub(crate) hooks: Hooks,
    pub(crate) participant: Participant<Sqlite>,
}

impl Service {
    pub(crate) async fn open(name: &str, client: &Client) -> Self {
        Self::with(name, client, |builder, hooks| builder.saga_step("book", hooks)).await
    }

    /// With the steps that the closure registers.
    pub(crate) async fn with(
        name: &str,
        client: &Client,
        steps: impl FnOnce(ParticipantBuilder<Sqlite>, Hooks) -> ParticipantBuilder<Sqlite>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pool = sqlite_pool(directory.path().join("service.db")).await.unwrap();
        // The same twice for one branch is an error of the fence, and of the hook's statement.
        sqlx::raw_sql(
            "CREATE TABLE lines (n INTEGER PRIMARY KEY, xid TEXT NOT NULL, branch TEXT NOT NULL, what TEXT NOT NULL,
                                 line TEXT NOT NULL, UNIQUE (xid, branch, what))",
        )
        .execute(&pool)
        .await
        .unwrap();
        let (fence, outbox) = (Fence::new(pool.clone()), Outbox::new(pool.clone()));
        fence.migrate().await.unwrap();
        outbox.migrate().await.unwrap();
        let hooks = Hooks::default();
        let builder = Participant::builder(name, fence.clone())
            .tcc("reserve", hooks.clone())
            .receiver("take", hooks.clone())
            .sender("placed")
            .in_doubt_after(Duration::from_millis(200))
            .in_doubt_every(Duration::from_millis(50))
            .collect_after(Duration::from_secs(2))
            .collect_every(Duration::from_millis(50));
        let participant = steps(builder, hooks.clone()).attach(client).await.unwrap();
        eventually("it is attached", async || participant.health().await.unwrap().attached).await;
        Self { _directory: directory, pool, fence, outbox, hooks, participant }
    }

    /// `what branch line` in their order.
    pub(crate) async fn lines(&self) -> Vec<String> {
        let sql = "SELECT what || ' ' || branch || ' ' || line FROM lines ORDER BY n";
        sqlx::query_scalar(sql).fetch_all(&self.pool).await.unwrap()
    }

    pub(crate) async fn count(&self, what: &str) -> i64 {
        let sql = "SELECT count(*) FROM lines WHERE what = $1";
        sqlx::query_scalar(sql).bind(what).fetch_one(&self.pool).await.unwrap()
    }

    /// Rows of the fence, of whatever state.
    pub(crate) async fn fence_rows(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM unanimity_fence").fetch_one(&self.pool).await.unwrap()
    }

    /// H9: what is settled is collected, and nothing needed a look.
    pub(crate) async fn is_clean(&self) {
        eventually("the fence's rows are collected", async || self.fence_rows().await == 0).await;
        let health = self.participant.health().await.unwrap();
        assert!(health.is_well(), "{health:?}");
    }
}

pub(crate) async fn finished(client: &Client, xid: Xid) -> TransactionInfo {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match client.wait_finished(xid, LIMIT).await {
            Ok(info) if info.status.is_terminal() => return info,
            other => assert!(tokio::time::Instant::now() < end, "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < end, "within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
