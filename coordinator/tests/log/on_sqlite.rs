//! What is special to SQLite: one opener, private files, a full disk, schema, views.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use unanimity_coordinator::log::{
    Appended, BlockKind, Error, PARTITIONS_DEFAULT, SqliteLog, TransactionLog, migrate_sqlite,
};
use unanimity_types::Status;

use crate::history::{AS_A_SAGA, COMPACT, CompactBranch, row, write};
use crate::subject::{P, Subject, after, file_in, fill, sqlite_connection};

#[tokio::test]
async fn m16_a_second_coordinator_on_the_same_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_in(directory.path());
    let first = SqliteLog::open_or_create(&file).await.unwrap();
    for second in [
        SqliteLog::open(&file).await.map(drop),
        SqliteLog::open_or_create(&file).await.map(drop),
        migrate_sqlite(&file, None).await.map(drop),
    ] {
        let Err(Error::InUse(text)) = second else { panic!("{second:?}") };
        assert!(text.contains(&std::process::id().to_string()) && text.contains("in use"), "{text}");
    }
    let blocks = fill(&first, 3, 0).await;
    first.close().await;
    assert!(matches!(first.tip(P).await, Err(Error::Unavailable(_))), "closed");
    let again = SqliteLog::open(&file).await.expect("free again");
    assert_eq!(again.read(P).await.unwrap(), blocks);
    assert_eq!(again.identity().partitions, 1, "M16: one partition in dev");
    assert!(again.warnings().await.unwrap().is_empty(), "WAL and synchronous = FULL");
}

#[tokio::test]
async fn reading_only_needs_no_lock_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_in(&directory.path().join("data"));
    let missing = SqliteLog::open_read_only(&file).await;
    assert!(
        matches!(&missing, Err(Error::Schema(text)) if text.contains("unanimity migrate")),
        "{missing:?}"
    );
    assert!(!file.parent().unwrap().exists(), "looking makes nothing");

    let owner = SqliteLog::open_or_create(&file).await.unwrap();
    let mut blocks = fill(&owner, 3, 0).await;
    let reader = SqliteLog::open_read_only(&file).await.expect("beside the owner");
    assert_eq!(reader.identity(), owner.identity());
    assert_eq!(reader.read(P).await.unwrap(), blocks);
    assert!(reader.warnings().await.unwrap().is_empty());
    // The owner goes on, and the reader sees it.
    let next = after(&blocks[blocks.len() - 1], BlockKind::Data, 1, 0, b"more");
    assert_eq!(owner.append(&next).await.unwrap(), Appended::Written);
    blocks.push(next);
    assert_eq!(reader.read(P).await.unwrap(), blocks);

    let contents = || {
        [file.clone(), file.with_extension("db-wal"), file.with_extension("db.lock")]
            .map(|file| std::fs::read(file).unwrap())
    };
    let before = contents();
    let refused = after(&blocks[blocks.len() - 1], BlockKind::Data, 1, 0, b"mine");
    let minute = std::time::Duration::from_secs(60);
    for write in [
        reader.append(&refused).await.map(drop),
        reader.trim(P, unanimity_types::Seq(1)).await.map(drop),
        reader.lease(P, "b", "", minute).await.map(drop),
        reader.release(P, "b").await,
    ] {
        assert!(matches!(&write, Err(Error::Refused(text)) if text.contains("reading only")), "{write:?}");
    }
    reader.close().await;
    assert!(contents() == before, "not a byte is changed, and the write-ahead log is not merged");
    assert_eq!(owner.read(P).await.unwrap(), blocks);
    owner.close().await;

    // Without an owner it keeps none away.
    let reader = SqliteLog::open_read_only(&file).await.expect("alone");
    assert_eq!(reader.read(P).await.unwrap(), blocks);
    let owner = SqliteLog::open(&file).await.expect("nobody holds the lock");
    owner.close().await;
    reader.close().await;
}

#[tokio::test]
async fn files_are_for_the_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_in(&directory.path().join("data"));
    let log = SqliteLog::open_or_create(&file).await.unwrap();
    fill(&log, 2, 0).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    let mut seen = 0;
    for entry in std::fs::read_dir(file.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 3, "database, lock, write-ahead log");
}

#[tokio::test]
async fn an_unknown_schema_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = file_in(directory.path());
    let says = async |word: &str| match SqliteLog::open(&file).await {
        Err(Error::Schema(text)) => assert!(text.contains(word), "{text}"),
        other => panic!("{other:?}"),
    };
    says("unanimity migrate").await;
    std::fs::write(&file, b"").unwrap();
    says("unanimity migrate").await;

    let born = migrate_sqlite(&file, Some(3)).await.unwrap();
    assert!(born.born && born.applied == 5 && born.identity.partitions == 3);
    let again = migrate_sqlite(&file, None).await.unwrap();
    assert!(!again.born && again.applied == 0 && again.identity == born.identity);
    let other = migrate_sqlite(&file, Some(PARTITIONS_DEFAULT)).await;
    assert!(matches!(other, Err(Error::Schema(_))), "the number is for ever: {other:?}");
    let none = migrate_sqlite(&file, Some(0)).await;
    assert!(matches!(none, Err(Error::Schema(_))), "{none:?}");

    let mut connection = sqlite_connection(&file).await;
    sqlx::raw_sql(
        "INSERT INTO log_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', true, x'00', 0)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    says("newer than this binary").await;
    assert!(matches!(migrate_sqlite(&file, None).await, Err(Error::Schema(_))));
    sqlx::raw_sql("DELETE FROM log_migrations; DELETE FROM log_identity")
        .execute(&mut connection)
        .await
        .unwrap();
    drop(connection);
    says("unanimity migrate").await;

    std::fs::write(&file, b"this is no database at all, it only says so in plain words").unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", file.display()));
    }
    assert!(matches!(SqliteLog::open(&file).await, Err(Error::Schema(_))));
}

#[tokio::test]
async fn h17_a_lost_birth_block_is_not_born_again() {
    let subject = Subject::sqlite(2).await;
    let crate::subject::Kind::Sqlite(directory) = &subject.kind else { unreachable!() };
    subject.log.close().await;
    let file = file_in(directory.path());
    subject.delete(P, 0).await;
    assert!(!migrate_sqlite(&file, None).await.unwrap().born);
    let log = SqliteLog::open(&file).await.unwrap();
    assert!(matches!(log.read(P).await, Err(Error::Damaged { .. })));
}

#[tokio::test]
async fn the_views_unpack_the_detail() {
    let subject = Subject::sqlite(1).await;
    let mut bare = row(2, Status::Active);
    bare.detail = "{}".to_owned();
    write(&*subject.log, vec![row(1, Status::Committed), bare], 1, 1).await;
    let crate::subject::Kind::Sqlite(directory) = &subject.kind else { unreachable!() };
    let mut connection = sqlite_connection(&file_in(directory.path())).await;
    let (begun, duration, branches, message): (String, i64, i64, String) = sqlx::query_as(
        "SELECT begun_at, duration_ms, branch_count, attention_message FROM transactions WHERE status = 'committed'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(begun, "2023-11-14 22:13:20.001");
    assert_eq!((duration, branches, message.as_str()), (2_499, 2, "five attempts failed"));
    let rows: Vec<(i64, String, String, i64, Option<String>)> = sqlx::query_as(
        "SELECT branch_id, key, status, attempts, last_error FROM branches ORDER BY branch_id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], (1, "k1".into(), "confirmed".into(), 2, Some("refused".into())));
    assert_eq!(rows[1], (2, "k2".into(), "confirming".into(), 5, None));
    let mut saga = row(3, Status::Active);
    saga.detail = AS_A_SAGA.to_owned();
    write(&*subject.log, vec![saga], 1, 2).await;
    let rows: Vec<(String, bool, String, Option<String>)> =
        sqlx::query_as("SELECT kind, parked, lock_keys, role FROM branches ORDER BY key")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let plain = ("tcc".to_owned(), false, "[]".to_owned(), None);
    assert_eq!(rows[..2], [plain.clone(), plain], "rows of before it was known");
    assert_eq!(rows[2], ("step".into(), true, "[]".into(), Some("pivot".into())));
    assert_eq!(rows[3], ("tcc".into(), false, r#"["sku-7","sku-8"]"#.into(), None));
    let mut compact = row(4, Status::Committed);
    compact.detail = COMPACT.to_owned();
    write(&*subject.log, vec![compact], 1, 3).await;
    let rows: Vec<CompactBranch> = sqlx::query_as(
        "SELECT key, status, attempts, last_error, resolved_reason FROM branches \
         WHERE xid = '00000000-0000-0000-0000-000000000004' ORDER BY branch_id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows[0], ("stock/reserve#1@c1".into(), "confirmed".into(), 1, None, None));
    assert_eq!(rows[1], ("own key".into(), "checking".into(), 0, Some("no".into()), Some("so".into())));
    assert_eq!(rows[2], ("k".into(), "a_later_word".into(), 0, None, None));
    let schema: String = sqlx::query_scalar("SELECT group_concat(sql, char(10)) FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'log_migrations'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(schema.contains("-- The truth."), "comments are kept");
    subject.finish().await;
}

/// A small tmpfs, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(directory.path())
            .output()
            .is_ok_and(|mount| mount.status.success());
        mounted.then(|| Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn h16_a_full_disk_refuses_and_passes() {
    let Some(disk) = SmallDisk::mount() else {
        assert!(std::env::var_os("CI").is_none(), "the full-disk test must run in CI: mount needs root");
        eprintln!("log tests: SKIPPED the full disk: no right to mount a tmpfs");
        return;
    };
    let file = file_in(&disk.0.path().join("data"));
    let log = SqliteLog::open_or_create(&file).await.unwrap();
    let mut blocks = fill(&log, 2, 0).await;
    let filler = disk.0.path().join("filler");
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    let refused = loop {
        let block = after(&blocks[blocks.len() - 1], BlockKind::Data, 1, 0, &[7; 8_000]);
        match log.append(&block).await {
            Ok(Appended::Written) => blocks.push(block),
            Err(Error::Refused(text)) => break (block, text),
            other => panic!("{other:?}"),
        }
        assert!(blocks.len() < 1_000, "2 MB are never full");
    };
    let (block, text) = refused;
    eprintln!("log tests: full disk after {} blocks: {text}", blocks.len());
    assert!(text.contains("free space"), "{text}");
    assert_eq!(log.read(P).await.unwrap(), blocks, "all that was answered is there, nothing else");
    assert!(matches!(log.append(&block).await, Err(Error::Refused(_))));
    std::fs::remove_file(&filler).unwrap();
    assert_eq!(log.append(&block).await.unwrap(), Appended::Written, "by itself, once there is space");
    blocks.push(block);
    log.close().await;
    let log = SqliteLog::open(&file).await.unwrap();
    assert_eq!(log.read(P).await.unwrap(), blocks);
    log.close().await;
}
