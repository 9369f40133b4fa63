//! A log under test, whichever it is, and the means to harm its rows by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};
use unanimity_coordinator::log::{
    Block, BlockHeader, BlockKind, MemoryLog, PlacedLog, PostgresLog, PostgresOptions, SqliteLog,
    TransactionLog, migrate_postgres, migrate_postgres_server, migrate_sqlite,
};
use unanimity_types::{Epoch, PartitionId, Seq, Timestamp};

use crate::postgres::Database;

pub(crate) const P: PartitionId = PartitionId(0);

pub(crate) struct Subject {
    pub(crate) log: Arc<dyn TransactionLog>,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Memory(MemoryLog),
    Sqlite(tempfile::TempDir),
    Postgres(Database),
    /// The home, and the server with the partitions.
    Placed(Database, Database),
}

impl Subject {
    pub(crate) async fn memory(partitions: u16) -> Self {
        let log = MemoryLog::new(partitions);
        Self { log: Arc::new(log.clone()), kind: Kind::Memory(log) }
    }

    pub(crate) async fn sqlite(partitions: u16) -> Self {
        let directory = fast_directory();
        let file = file_in(directory.path());
        migrate_sqlite(&file, Some(partitions)).await.expect("migrate");
        let log = SqliteLog::open(&file).await.expect("open");
        Self { log: Arc::new(log), kind: Kind::Sqlite(directory) }
    }

    pub(crate) async fn postgres(partitions: u16) -> Self {
        let database = Database::create().await;
        migrate_postgres(&database.url, Some(partitions)).await.expect("migrate");
        let log = PostgresLog::open(&database.url, PostgresOptions::default()).await.expect("open");
        Self { log: Arc::new(log), kind: Kind::Postgres(database) }
    }

    /// Everything but leases lives on a second server, as if it had been born there.
    pub(crate) async fn placed(partitions: u16) -> Self {
        let (home, b) = (Database::create().await, Database::create().await);
        let born = migrate_postgres(&home.url, Some(partitions)).await.expect("migrate");
        migrate_postgres_server(&home.url, "b", &b.url).await.expect("migrate");
        let alone = PostgresLog::open(&home.url, PostgresOptions::default()).await.expect("open");
        for partition in (0..born.identity.partitions).map(PartitionId) {
            let Block { version, time, checksum, body, .. } =
                alone.block_at(partition, Seq(0)).await.expect("look").expect("born");
            let body: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
            b.run(&format!(
                "INSERT INTO log_blocks (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
                 VALUES ({partition}, 0, {version}, 0, 0, 0, {}, '\\x{:032x}', '\\x{checksum}', '\\x{body}')",
                time.0, 0
            ))
            .await;
            home.run(&format!("UPDATE partitions SET server = 'b' WHERE partition = {partition}")).await;
            home.run(&format!("DELETE FROM log_blocks WHERE partition = {partition}")).await;
        }
        alone.close().await;
        let servers = BTreeMap::from([("b".to_owned(), b.url.clone())]);
        let log = PlacedLog::open(&home.url, servers, PostgresOptions::default()).await.expect("open");
        Self { log: Arc::new(log), kind: Kind::Placed(home, b) }
    }

    pub(crate) async fn finish(self) {
        self.log.close().await;
        match self.kind {
            Kind::Memory(_) | Kind::Sqlite(_) => {}
            Kind::Postgres(database) => database.remove().await,
            Kind::Placed(home, b) => {
                home.remove().await;
                b.remove().await;
            }
        }
    }

    pub(crate) async fn sql(&self, sql: &str) {
        match &self.kind {
            Kind::Memory(_) => unreachable!("memory has no SQL"),
            Kind::Sqlite(directory) => {
                let mut connection = sqlite_connection(&file_in(directory.path())).await;
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect(sql);
                connection.close().await.expect("close");
            }
            Kind::Postgres(database) => database.run(sql).await,
            Kind::Placed(home, b) => {
                home.run(sql).await;
                b.run(sql).await;
            }
        }
    }

    /// Deletes a row by hand.
    pub(crate) async fn delete(&self, partition: PartitionId, seq: u64) {
        match &self.kind {
            Kind::Memory(log) => assert!(log.remove(partition, Seq(seq))),
            _ => {
                self.sql(&format!("DELETE FROM log_blocks WHERE partition = {partition} AND seq = {seq}"))
                    .await;
            }
        }
    }

    /// Changes a row's body by hand.
    pub(crate) async fn damage(&self, partition: PartitionId, seq: u64) {
        let zero = match &self.kind {
            Kind::Memory(log) => {
                assert!(log.damage(partition, Seq(seq), |block| block.body = Bytes::from_static(b"\0")));
                return;
            }
            Kind::Sqlite(_) => "x'00'",
            Kind::Postgres(_) | Kind::Placed(..) => "'\\x00'",
        };
        self.sql(&format!(
            "UPDATE log_blocks SET body = {zero} WHERE partition = {partition} AND seq = {seq}"
        ))
        .await;
    }
}

pub(crate) async fn sqlite_connection(file: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await.expect("the file")
}

/// In memory where the machine offers that: each append is flushed, and there are thousands.
fn fast_directory() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    made.or_else(|_| tempfile::tempdir()).expect("a directory")
}

pub(crate) fn file_in(directory: &Path) -> PathBuf {
    directory.join("unanimity.db")
}

/// The block after `before`.
pub(crate) fn after(before: &Block, kind: BlockKind, epoch: u64, floor: u64, body: &[u8]) -> Block {
    let header = BlockHeader {
        kind,
        partition: before.partition,
        seq: before.seq.next(),
        epoch: Epoch(epoch),
        floor: Seq(floor),
        time: Timestamp(before.time.0 + 1),
        previous: before.checksum,
    };
    Block::new(header, Bytes::copy_from_slice(body))
}

/// Epoch block 1, then data up to `last`; the floor from `floor + 1` on is `floor`.
pub(crate) async fn fill(log: &dyn TransactionLog, last: u64, floor: u64) -> Vec<Block> {
    let mut blocks = log.read(P).await.expect("a new partition");
    for seq in 1..=last {
        let kind = if seq == 1 { BlockKind::Epoch } else { BlockKind::Data };
        let records = if seq > floor { floor } else { 0 };
        let block = after(&blocks[blocks.len() - 1], kind, 1, records, &seq.to_be_bytes());
        let appended = log.append(&block).await.expect("append");
        assert_eq!(appended, unanimity_coordinator::log::Appended::Written);
        blocks.push(block);
    }
    blocks
}
