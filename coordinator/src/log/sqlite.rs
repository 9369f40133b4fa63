//! The log in a SQLite file: for `unanimity dev`, for embedding, for one node without a server.
//!
//! One connection writes and one reads beside it (WAL). `synchronous = FULL`: an append is flushed
//! before it is answered. A lock file beside the database keeps a second coordinator out; a tool that
//! only looks ([`SqliteLog::open_read_only`]) needs no lock and works beside a coordinator.
//!
//! Every call runs in a task of its own, appends in tasks that they share (several partitions' blocks
//! in one transaction, that is, with one flush), so that a caller that is dropped leaves no half transaction.

mod blocks;
mod error;
mod history;
mod leases;
mod lock;
mod migrate;
mod nodes;
mod retention;

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{Mutex, MutexGuard};
use unanimity_types::{PartitionId, Seq, Timestamp, Xid};

use self::lock::{DataLock, create_private};
pub use self::migrate::migrate_sqlite;
use super::gather::{BlockWriter, CrowdError, Gather};
use super::{
    Appended, Block, ClusterView, Error, HistoryBatch, HistoryFilter, HistoryKept, HistoryPage, HistoryRow,
    HistoryWatermark, Lease, LogFuture, LogIdentity, NodeBeat, Tip, TransactionLog, chain, detached, rules,
};

/// How long SQLite waits for a lock. Only the reader and the writer of one process meet here, and in
/// WAL they do not wait for each other; a backup tool may.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// How long closing waits for what is under way.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A log in a SQLite file.
pub struct SqliteLog {
    identity: LogIdentity,
    path: PathBuf,
    files: Arc<Files>,
    appends: Arc<Gather<Arc<Files>>>,
}

struct Files {
    writer: Mutex<Option<SqliteConnection>>,
    reader: Mutex<Option<SqliteConnection>>,
    /// There never was a writer.
    is_read_only: bool,
    /// Released last.
    lock: std::sync::Mutex<Option<DataLock>>,
}

impl SqliteLog {
    /// Opens the log in this file. Its schema must be there and be one that this binary knows.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has it, [`Error::Schema`], [`Error::Refused`].
    pub async fn open(path: &Path) -> Result<Self, Error> {
        check_there(path)?;
        let lock = DataLock::take(path).await?;
        let mut writer = connect(path, false).await?;
        let identity = migrate::check_schema(&mut writer).await?;
        Self::with(path, lock, writer, identity).await
    }

    /// Opens the log in this file; makes the file, its tables and its log if they are not there (what
    /// `dev` does).
    ///
    /// # Errors
    /// As [`SqliteLog::open`] and [`migrate_sqlite`].
    pub async fn open_or_create(path: &Path) -> Result<Self, Error> {
        create_private(path)?;
        let lock = DataLock::take(path).await?;
        let mut writer = connect(path, false).await?;
        let migrated = migrate::migrate(&mut writer, None).await?;
        Self::with(path, lock, writer, migrated.identity).await
    }

    /// Opens the log in this file to look at it, also beside a coordinator that runs on it: takes no
    /// lock, and SQLite itself refuses whatever would change the log. Calls that write answer
    /// [`Error::Refused`].
    ///
    /// If no coordinator runs, SQLite may leave its empty helpers (`-shm`, `-wal`) beside the file; the next
    /// one that does takes them away.
    ///
    /// # Errors
    /// As [`SqliteLog::open`], but never [`Error::InUse`].
    pub async fn open_read_only(path: &Path) -> Result<Self, Error> {
        check_there(path)?;
        let options = options(path).read_only(true).pragma("query_only", "1");
        let mut reader = SqliteConnection::connect_with(&options).await.map_err(|e| error::reading(&e))?;
        let identity = migrate::check_schema(&mut reader).await?;
        let files = Files {
            writer: Mutex::new(None),
            reader: Mutex::new(Some(reader)),
            is_read_only: true,
            lock: std::sync::Mutex::new(None),
        };
        Ok(Self::over(path, identity, files))
    }

    fn over(path: &Path, identity: LogIdentity, files: Files) -> Self {
        let files = Arc::new(files);
        // There is one writer; who offers alone takes turns with who offers together.
        let appends = Gather::new(Arc::clone(&files), 1, 1);
        Self { identity, path: path.to_owned(), files, appends }
    }

    async fn with(
        path: &Path,
        lock: DataLock,
        writer: SqliteConnection,
        identity: LogIdentity,
    ) -> Result<Self, Error> {
        let reader = connect(path, true).await?;
        let files = Files {
            writer: Mutex::new(Some(writer)),
            reader: Mutex::new(Some(reader)),
            is_read_only: false,
            lock: std::sync::Mutex::new(Some(lock)),
        };
        Ok(Self::over(path, identity, files))
    }
}

fn check_there(path: &Path) -> Result<(), Error> {
    if path.is_file() {
        return Ok(());
    }
    Err(Error::Schema(format!("there is no log at {}: run `unanimity migrate`", path.display())))
}

/// What every connection has.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_LIMIT)
        .synchronous(SqliteSynchronous::Full)
}

async fn connect(path: &Path, read_only: bool) -> Result<SqliteConnection, Error> {
    let options = options(path)
        .journal_mode(SqliteJournalMode::Wal)
        // Where an ordinary flush stops at the disk's own cache (macOS); elsewhere without effect.
        .pragma("fullfsync", "1")
        .pragma("checkpoint_fullfsync", "1")
        // Refuses writes on the connection that is there to read.
        .pragma("query_only", if read_only { "1" } else { "0" });
    SqliteConnection::connect_with(&options).await.map_err(|e| error::reading(&e))
}

/// A connection on loan.
struct Lent<'a> {
    connection: MutexGuard<'a, Option<SqliteConnection>>,
    /// Why there is none, if there never was one.
    is_refused: bool,
}

impl Lent<'_> {
    fn connection(&mut self) -> Result<&mut SqliteConnection, Error> {
        self.connection.as_mut().ok_or_else(|| {
            if self.is_refused {
                Error::Refused("this log was opened for reading only".to_owned())
            } else {
                Error::Unavailable("the log was closed".to_owned())
            }
        })
    }
}

impl Files {
    async fn writer(&self) -> Lent<'_> {
        Lent { connection: self.writer.lock().await, is_refused: self.is_read_only }
    }

    async fn reader(&self) -> Lent<'_> {
        Lent { connection: self.reader.lock().await, is_refused: false }
    }

    async fn close(&self) {
        let both = async { (self.reader.lock().await.take(), self.writer.lock().await.take()) };
        let Ok((reader, writer)) = tokio::time::timeout(CLOSE_LIMIT, both).await else { return };
        for connection in [reader, writer].into_iter().flatten() {
            // Closing merges the write-ahead log; if that fails the next opening does it.
            let _ = tokio::time::timeout(CLOSE_LIMIT, connection.close()).await;
        }
        self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    }
}

impl BlockWriter for Arc<Files> {
    async fn write_many(&self, blocks: &[&Block]) -> Result<Vec<PartitionId>, CrowdError> {
        let mut lent = self.writer().await;
        let connection = lent.connection().map_err(CrowdError::NotSent)?;
        blocks::append_many(connection, blocks).await.map_err(CrowdError::during)
    }

    async fn write_one(&self, block: &Block) -> Result<Appended, Error> {
        blocks::append(self.writer().await.connection()?, block).await
    }
}

/// Runs `work` between `begin` and COMMIT, or undoes it.
async fn in_transaction<T>(
    connection: &mut SqliteConnection,
    begin: &'static str,
    work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    sqlx::raw_sql(begin).execute(&mut *connection).await.map_err(|e| error::writing(&e))?;
    let done = work(connection).await;
    let end = match done {
        Ok(_) => sqlx::raw_sql("COMMIT").execute(&mut *connection).await,
        Err(_) => return rollback(connection, done).await,
    };
    match end {
        Ok(_) => done,
        Err(e) => rollback(connection, Err(error::writing(&e))).await,
    }
}

async fn rollback<T>(connection: &mut SqliteConnection, why: Result<T, Error>) -> Result<T, Error> {
    // Some errors (a full disk) have already undone the transaction; then this one fails, harmlessly.
    let _ = sqlx::raw_sql("ROLLBACK").execute(connection).await;
    why
}

impl fmt::Debug for SqliteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLog")
            .field("identity", &self.identity)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TransactionLog for SqliteLog {
    fn identity(&self) -> LogIdentity {
        self.identity
    }

    fn describe(&self) -> String {
        format!("SQLite at {}", self.path.display())
    }

    fn now(&self) -> LogFuture<'_, Timestamp> {
        let files = Arc::clone(&self.files);
        detached(async move { leases::now(files.reader().await.connection()?).await })
    }

    fn append<'a>(&'a self, block: &'a Block) -> LogFuture<'a, Appended> {
        Box::pin(async move {
            chain::check_offer(self.identity, block)?;
            Arc::clone(&self.appends).append(block.clone()).await
        })
    }

    fn tip(&self, partition: PartitionId) -> LogFuture<'_, Tip> {
        let files = Arc::clone(&self.files);
        detached(async move { blocks::tip(files.reader().await.connection()?, partition).await })
    }

    fn read(&self, partition: PartitionId) -> LogFuture<'_, Vec<Block>> {
        let files = Arc::clone(&self.files);
        let log_id = self.identity.log_id;
        detached(async move { blocks::read(files.reader().await.connection()?, log_id, partition).await })
    }

    fn block_at(&self, partition: PartitionId, seq: Seq) -> LogFuture<'_, Option<Block>> {
        let files = Arc::clone(&self.files);
        detached(async move { blocks::block_at(files.reader().await.connection()?, partition, seq).await })
    }

    fn trim(&self, partition: PartitionId, floor: Seq) -> LogFuture<'_, u64> {
        let files = Arc::clone(&self.files);
        detached(async move {
            let mut deleted = 0;
            loop {
                // Between batches waiting appends go first.
                let (rows, more) = blocks::trim(files.writer().await.connection()?, partition, floor).await?;
                deleted += rows;
                if !more {
                    return Ok(deleted);
                }
            }
        })
    }

    fn lease<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, Lease> {
        let files = Arc::clone(&self.files);
        let (node, address) = (node.to_owned(), address.to_owned());
        detached(async move {
            leases::take(files.writer().await.connection()?, partition, node, address, duration).await
        })
    }

    fn release<'a>(&'a self, partition: PartitionId, node: &'a str) -> LogFuture<'a, ()> {
        let files = Arc::clone(&self.files);
        let node = node.to_owned();
        detached(async move { leases::release(files.writer().await.connection()?, partition, node).await })
    }

    fn hand_over<'a>(
        &'a self,
        partition: PartitionId,
        node: &'a str,
        to: &'a str,
        address: &'a str,
        duration: Duration,
    ) -> LogFuture<'a, bool> {
        let files = Arc::clone(&self.files);
        let (node, to, address) = (node.to_owned(), to.to_owned(), address.to_owned());
        detached(async move {
            let mut writer = files.writer().await;
            leases::hand_over(writer.connection()?, partition, node, to, address, duration).await
        })
    }

    fn heartbeat<'a>(&'a self, beat: &'a NodeBeat, duration: Duration) -> LogFuture<'a, ClusterView> {
        let files = Arc::clone(&self.files);
        let beat = beat.clone();
        detached(async move { nodes::beat(files.writer().await.connection()?, beat, duration).await })
    }

    fn set_draining<'a>(&'a self, node: &'a str, draining: bool) -> LogFuture<'a, bool> {
        let files = Arc::clone(&self.files);
        let node = node.to_owned();
        detached(async move { nodes::set_draining(files.writer().await.connection()?, node, draining).await })
    }

    fn write_history(&self, batch: HistoryBatch) -> LogFuture<'_, ()> {
        let files = Arc::clone(&self.files);
        let partitions = self.identity.partitions;
        detached(async move {
            rules::check_batch(partitions, &batch)?;
            history::write(files.writer().await.connection()?, batch).await
        })
    }

    fn history_watermark(&self, partition: PartitionId) -> LogFuture<'_, HistoryWatermark> {
        let files = Arc::clone(&self.files);
        detached(async move { history::watermark(files.reader().await.connection()?, partition).await })
    }

    fn find_history<'a>(&'a self, xids: &'a [Xid]) -> LogFuture<'a, Vec<HistoryRow>> {
        let files = Arc::clone(&self.files);
        let xids = xids.to_vec();
        detached(async move { history::find(files.reader().await.connection()?, &xids).await })
    }

    fn history_floor(&self, _: PartitionId) -> LogFuture<'_, Timestamp> {
        let files = Arc::clone(&self.files);
        detached(async move { retention::floor(files.reader().await.connection()?).await })
    }

    fn keep_history(&self, retention: Duration) -> LogFuture<'_, HistoryKept> {
        let files = Arc::clone(&self.files);
        detached(async move { retention::keep(files.writer().await.connection()?, retention).await })
    }

    fn list_history<'a>(&'a self, filter: &'a HistoryFilter) -> LogFuture<'a, HistoryPage> {
        let files = Arc::clone(&self.files);
        let filter = filter.clone();
        detached(async move { history::list(files.reader().await.connection()?, filter).await })
    }

    fn warnings(&self) -> LogFuture<'_, Vec<String>> {
        let files = Arc::clone(&self.files);
        detached(async move {
            // The journal's mode is the file's, and both connections flush in the same way.
            let mut lent = files.reader().await;
            let connection = lent.connection()?;
            let reading = |e: sqlx::Error| error::reading(&e);
            let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
                .fetch_one(&mut *connection)
                .await
                .map_err(reading)?;
            let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
                .fetch_one(&mut *connection)
                .await
                .map_err(reading)?;
            let mut warnings = Vec::new();
            if mode != "wal" {
                warnings.push(format!(
                    "the journal mode is {mode}, not wal: the file system may not support it (a network drive?)"
                ));
            }
            if synchronous < 2 {
                warnings.push("synchronous is below FULL: a power cut can lose what was answered".to_owned());
            }
            Ok(warnings)
        })
    }

    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.files.close())
    }
}
