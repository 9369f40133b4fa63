//! What a case runs in: a coordinator of its own over a log of its own, and participants, on a PostgreSQL server that
//! all cases share while any of them runs.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use integration_tests::coordinator::{CoordinatorProcess, migrate_to};
use integration_tests::output::{Scratch, say};
use integration_tests::postgres::{Options, TestPostgres};
use integration_tests::process::Process;
use unanimity_failpoints as failpoints;

use super::bank::Bank;

/// How long a coordinator may take to work, on a machine that is busy with other tests.
pub(super) const READY: Duration = Duration::from_secs(60);
/// How long a process may take to come to the point at which it dies.
pub(super) const DEATH: Duration = Duration::from_secs(30);

/// The server. It goes when the last case that uses it ends: a `static` would keep it for ever.
pub(super) async fn postgres() -> anyhow::Result<Arc<TestPostgres>> {
    static SHARED: tokio::sync::Mutex<Weak<TestPostgres>> = tokio::sync::Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(postgres) = shared.upgrade() {
        return Ok(postgres);
    }
    let postgres = Arc::new(TestPostgres::start(Options::default()).await?);
    *shared = Arc::downgrade(&postgres);
    Ok(postgres)
}

/// A fresh database on it; answers its URL.
pub(super) async fn database(postgres: &TestPostgres, what: &str) -> anyhow::Result<String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    postgres.create_database(&format!("{what}_{}", COUNT.fetch_add(1, Ordering::Relaxed))).await
}

/// A coordinator and the participants of a case.
pub(super) struct World {
    pub(super) coordinator: CoordinatorProcess,
    pub(super) bank: Bank,
    pub(super) log_url: String,
    /// What the bank's tables and others of the case are in.
    pub(super) bank_url: String,
    pub(super) scratch: Scratch,
    // Dropped last: the others use it.
    _postgres: Arc<TestPostgres>,
}

impl World {
    pub(super) async fn new(name: &str) -> anyhow::Result<Self> {
        let postgres = postgres().await?;
        let scratch = Scratch::new(name)?;
        let (log_url, bank_url) = (database(&postgres, "log").await?, database(&postgres, "bank").await?);
        // One partition: hits are counted over a whole process, and a recovery is one recovery.
        migrate_to(&log_url, 1).await?;
        let bank = Bank::start(&bank_url).await?;
        let coordinator = CoordinatorProcess::new(&scratch, "coordinator", &log_url)?
            .set("UNANIMITY_CALLBACKS_ALLOW", "loopback")
            .set("UNANIMITY_RETRY_INITIAL_MS", "20")
            .set("UNANIMITY_RETRY_CAP_MS", "200")
            .set("UNANIMITY_TIMEOUTS_CALLBACK_MS", "1000");
        Ok(Self { coordinator, bank, log_url, bank_url, scratch, _postgres: postgres })
    }

    /// Starts the coordinator with a point at which it is to die, and waits until it works.
    pub(super) async fn start_to_die(&mut self, point: &str, hit: u32) -> anyhow::Result<()> {
        arm(&mut self.coordinator.process, point, hit)?;
        self.coordinator.process.start()?;
        self.coordinator.ready(READY).await.map(drop)
    }

    /// Starts the coordinator again, to die while it recovers.
    pub(super) async fn die_recovering(&mut self, point: &str) -> anyhow::Result<()> {
        arm(&mut self.coordinator.process, point, 1)?;
        self.coordinator.process.start()?;
        died(&mut self.coordinator.process, point, 1).await
    }

    /// Starts the coordinator, to live.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        self.coordinator.process.unset(failpoints::VARIABLE);
        self.coordinator.process.start()?;
        self.coordinator.ready(READY).await.map(drop)
    }
}

/// Sets the point at which a process is to die when it is started next.
pub(super) fn arm(process: &mut Process, point: &str, hit: u32) -> anyhow::Result<()> {
    ensure!(failpoints::exists(point), "there is no point {point}");
    process.unset(failpoints::VARIABLE);
    process.set(failpoints::VARIABLE, format!("{point}@{hit}"));
    Ok(())
}

/// Waits until a process died, and makes sure that it did so at this point.
pub(super) async fn died(process: &mut Process, point: &str, hit: u32) -> anyhow::Result<()> {
    use std::os::unix::process::ExitStatusExt as _;
    let status = process.exit(DEATH).await.with_context(|| format!("{point}@{hit} was not reached"))?;
    let output = process.output()?;
    let words = failpoints::last_words(point, hit);
    ensure!(
        status.signal() == Some(SIGABRT) && output.lines().any(|line| line == words),
        "{} did not die at {point}@{hit}: {status}\n{}",
        process.name(),
        process.tail()
    );
    // Each in a line of its own: `cargo xtask matrix` counts them.
    say(&format!("died at {point}@{hit}"));
    Ok(())
}

/// The signal of `std::process::abort`.
const SIGABRT: i32 = 6;
