//! Several partitions' blocks in one write (protocol H18): what one of them meets is its own affair.
//!
//! A test's runtime has one thread: offers that are made in one breath gather before any is written.

use std::time::Duration;

use futures::future::join_all;
use sqlx::PgConnection;
use unanimity_coordinator::log::{
    Appended, Block, BlockKind, Error, PostgresLog, PostgresOptions, TransactionLog,
};
use unanimity_types::{PartitionId, Seq};

use crate::on_postgres::{database, run, until_blocked};
use crate::subject::{Kind, Subject, after, file_in};

const ALL: u16 = 4;

/// Epoch 1 in every partition. Answers the epoch blocks.
async fn begin(log: &dyn TransactionLog) -> Vec<Block> {
    let mut blocks = Vec::new();
    for partition in 0..ALL {
        let birth = log.read(PartitionId(partition)).await.unwrap().pop().unwrap();
        blocks.push(after(&birth, BlockKind::Epoch, 1, 0, b"A"));
    }
    for answer in offer(log, &blocks).await {
        assert_eq!(answer.unwrap(), Appended::Written);
    }
    blocks
}

/// The data blocks after these.
fn next(blocks: &[Block]) -> Vec<Block> {
    blocks.iter().map(|block| after(block, BlockKind::Data, 1, 0, b"data")).collect()
}

/// Offers in one breath.
async fn offer<'a>(
    log: &dyn TransactionLog,
    blocks: impl IntoIterator<Item = &'a Block>,
) -> Vec<Result<Appended, Error>> {
    join_all(blocks.into_iter().map(|block| log.append(block))).await
}

fn good(answers: Vec<Result<Appended, Error>>) -> Vec<Appended> {
    answers.into_iter().map(|answer| answer.expect("an answer")).collect()
}

pub(crate) async fn h18_one_deposed_partition_among_many(subject: &Subject) {
    use Appended::{AlreadyThere, Conflict, Written};
    let log = &*subject.log;
    let epochs = begin(log).await;
    let rival = after(&epochs[1], BlockKind::Epoch, 2, 0, b"B");
    assert_eq!(log.append(&rival).await.unwrap(), Written);

    let mine = next(&epochs);
    assert_eq!(good(offer(log, &mine).await), [Written, Conflict, Written, Written]);
    // The same again, two of them with a block that goes on: everybody has an answer of its own.
    let further = [next(&mine[..1]), mine[1..3].to_vec(), next(&mine[3..])].concat();
    assert_eq!(good(offer(log, &further).await), [Written, Conflict, AlreadyThere, Written]);
    for (partition, last) in [(0, 3), (1, 2), (2, 2), (3, 3)] {
        assert_eq!(log.read(PartitionId(partition)).await.unwrap().pop().unwrap().seq, Seq(last));
    }
}

pub(crate) async fn h18_two_claimants_of_one_partition_among_many(subject: &Subject) {
    let log = &*subject.log;
    let mut tips = begin(log).await;
    for round in 0..20 {
        // In both orders: the crowd takes one block of a partition, the other waits for its turn.
        let mut offers = next(&tips);
        let claim = after(&tips[2], BlockKind::Epoch, 2 + round, 0, b"claim");
        offers.insert(if round % 2 == 0 { 0 } else { 4 }, claim.clone());
        let answers = good(offer(log, &offers).await);
        let written: Vec<&Block> =
            offers.iter().zip(&answers).filter(|(_, a)| **a == Appended::Written).map(|(b, _)| b).collect();
        assert_eq!(written.len(), 4, "round {round}: {answers:?}");
        assert_eq!(answers.iter().filter(|a| **a == Appended::Conflict).count(), 1, "round {round}");
        for block in written {
            tips[usize::from(block.partition.0)] = block.clone();
        }
        // A data block of a deposed epoch cannot follow; the claimant goes on.
        if tips[2] != claim {
            let epoch = after(&tips[2], BlockKind::Epoch, 2 + round, 0, b"again");
            assert_eq!(log.append(&epoch).await.unwrap(), Appended::Written);
            tips[2] = epoch;
        }
    }
}

/// A database that refuses one partition's rows with a definite error.
pub(crate) async fn h18_a_definite_error_is_not_blamed_on_the_innocent(subject: &Subject) {
    let log = &*subject.log;
    let epochs = begin(log).await;
    let on = match &subject.kind {
        Kind::Memory(_) => return,
        Kind::Sqlite(_) => {
            "CREATE TRIGGER harm AFTER INSERT ON log_blocks WHEN new.partition = 2 \
             BEGIN SELECT RAISE(ABORT, 'no space'); END"
        }
        Kind::Postgres(_) | Kind::Placed(..) => {
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''no space'' USING ERRCODE = ''53100''; END'; \
             CREATE CONSTRAINT TRIGGER harm AFTER INSERT ON log_blocks DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW WHEN (new.partition = 2) EXECUTE FUNCTION refuse()"
        }
    };
    subject.sql(on).await;
    let mine = next(&epochs);
    for (block, answer) in mine.iter().zip(offer(log, &mine).await) {
        match answer {
            Ok(Appended::Written) => assert_ne!(block.partition, PartitionId(2)),
            Err(Error::Refused(text)) => {
                assert!(block.partition == PartitionId(2) && text.contains("no space"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    let off = if matches!(subject.kind, Kind::Sqlite(_)) { "" } else { " ON log_blocks" };
    subject.sql(&format!("DROP TRIGGER harm{off}")).await;
    assert_eq!(log.append(&mine[2]).await.unwrap(), Appended::Written);
}

/// Counted: rows of one statement bear one transaction's number.
#[tokio::test]
async fn h18_what_gathers_is_written_in_one_statement() {
    let subject = Subject::postgres(ALL).await;
    let epochs = begin(&*subject.log).await;
    offer(&*subject.log, &next(&epochs)).await;
    let mut connection = database(&subject).connect().await;
    let statements: Vec<i64> = sqlx::query_scalar(
        "SELECT count(DISTINCT xmin::text) FROM log_blocks WHERE seq > 0 GROUP BY seq ORDER BY seq",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(statements, [1, 1]);
    drop(connection);
    subject.finish().await;
}

/// Counted in the write-ahead log: a frame whose header bears the database's size ends a transaction.
#[tokio::test]
async fn h18_what_gathers_is_written_with_one_flush_in_sqlite() {
    let subject = Subject::sqlite(ALL).await;
    let Kind::Sqlite(directory) = &subject.kind else { unreachable!() };
    let commits = || {
        let wal = std::fs::read(file_in(directory.path()).with_extension("db-wal")).unwrap();
        let page = u32::from_be_bytes(wal[8..12].try_into().unwrap()) as usize;
        let salt = wal[16..24].to_vec();
        let frames = wal[32..].chunks_exact(24 + page).take_while(|frame| frame[8..16] == salt[..]);
        frames.filter(|frame| frame[4..8] != [0; 4]).count()
    };
    let epochs = begin(&*subject.log).await;
    let before = commits();
    let answers = good(offer(&*subject.log, &next(&epochs)).await);
    assert_eq!(answers, [Appended::Written; 4]);
    assert_eq!(commits() - before, 1);
    subject.finish().await;
}

/// Somebody holds a partition's next place in an open transaction.
async fn hold(subject: &Subject, block: &Block) -> PgConnection {
    let mut rival = database(subject).connect().await;
    run(&mut rival, "BEGIN").await;
    sqlx::query(
        "INSERT INTO log_blocks (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
         VALUES ($1, $2, 1, 2, 1, 0, 0, $3, $3, '')",
    )
    .bind(i32::from(block.partition.0))
    .bind(i64::try_from(block.seq.0).unwrap())
    .bind(vec![9_u8; 16])
    .execute(&mut rival)
    .await
    .unwrap();
    rival
}

/// Node A writes partitions 1 and 2 and waits in 2; node B offers 2 and 1. Were B to begin with 2, each
/// would hold what the other wants once the place in 2 is free.
#[tokio::test]
async fn h18_two_nodes_that_want_the_same_partitions_do_not_deadlock() {
    let subject = Subject::postgres(ALL).await;
    let node_b = PostgresLog::open(&database(&subject).url, PostgresOptions::default()).await.unwrap();
    let epochs = begin(&*subject.log).await;
    let a = [1, 2].map(|p| after(&epochs[p], BlockKind::Epoch, 2, 0, b"A again"));
    let b = [2, 1].map(|p| after(&epochs[p], BlockKind::Epoch, 2, 0, b"B"));
    let mut rival = hold(&subject, &a[1]).await;
    let log = std::sync::Arc::clone(&subject.log);
    let first = tokio::spawn(async move { offer(&*log, &a).await });
    until_blocked(&mut rival).await;
    let second = tokio::spawn(async move {
        let answers = offer(&node_b, &b).await;
        node_b.close().await;
        answers
    });
    let mut watcher = database(&subject).connect().await;
    until_count(&mut watcher, "wait_event_type = 'Lock'", 2).await;
    run(&mut rival, "ROLLBACK").await;
    assert_eq!(good(first.await.unwrap()), [Appended::Written; 2]);
    assert_eq!(good(second.await.unwrap()), [Appended::Conflict; 2]);
    // A backend's statistics are there when it is gone.
    subject.log.close().await;
    until_count(&mut watcher, "application_name = 'unanimity'", 0).await;
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&mut watcher)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    drop((rival, watcher));
    subject.finish().await;
}

/// Waits until so many backends of this database are in this state.
async fn until_count(connection: &mut PgConnection, which: &'static str, count: i64) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND backend_type = 'client backend' AND {which}"
    );
    for _ in 0..200 {
        let found: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(query.as_str()))
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        if found == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not {count} backends with {which}")
}

/// The backend is ended while it writes four partitions' blocks and waits in one of them: the outcome
/// is unknown to all four. Offered again the three that nobody disputes do not wait for the fourth.
#[tokio::test]
async fn h18_an_unknown_outcome_makes_every_partition_settle_and_one_in_trouble_holds_up_no_other() {
    let subject = Subject::postgres(ALL).await;
    let epochs = begin(&*subject.log).await;
    let mine = next(&epochs);
    let mut rival = hold(&subject, &mine[2]).await;
    let (log, blocks) = (std::sync::Arc::clone(&subject.log), mine.clone());
    let crowd = tokio::spawn(async move { offer(&*log, &blocks).await });
    let pid = until_blocked(&mut rival).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut rival).await.unwrap();
    for answer in crowd.await.unwrap() {
        assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    }
    // Each settles, in one breath again; the rival still holds partition 2.
    let (log, fought) = (std::sync::Arc::clone(&subject.log), mine[2].clone());
    let waits = tokio::spawn(async move { log.append(&fought).await });
    let others = good(offer(&*subject.log, [&mine[0], &mine[1], &mine[3]]).await);
    assert_eq!(others, [Appended::Written; 3], "the server had undone all of it");
    assert!(!waits.is_finished(), "the rival is still there");
    run(&mut rival, "ROLLBACK").await;
    assert_eq!(waits.await.unwrap().unwrap(), Appended::Written);
    subject.finish().await;
}

/// The time runs out while the server goes on: unknown to all, and all of it lands late.
#[tokio::test]
async fn h18_a_crowd_that_lands_late_is_found_by_every_partition() {
    let subject = Subject::postgres(ALL).await;
    let epochs = begin(&*subject.log).await;
    let mine = next(&epochs);
    let mut rival = hold(&subject, &mine[3]).await;
    let limits = PostgresOptions { append_limit: Duration::from_millis(200), ..PostgresOptions::default() };
    let hasty = PostgresLog::open(&database(&subject).url, limits).await.unwrap();
    for answer in offer(&hasty, &mine).await {
        assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    }
    for block in &mine {
        let there = subject.log.block_at(block.partition, block.seq).await.unwrap();
        assert_eq!(there, None, "reading says absent (protocol C4)");
    }
    run(&mut rival, "ROLLBACK").await;
    until_count(&mut rival, "wait_event_type = 'Lock'", 0).await;
    for block in &mine {
        assert_eq!(subject.log.append(block).await.unwrap(), Appended::AlreadyThere, "and then it landed");
    }
    hasty.close().await;
    subject.finish().await;
}

/// All callers go away at once; their blocks are written all the same.
#[tokio::test]
async fn h18_dropped_callers_take_no_offer_back() {
    let subject = Subject::postgres(ALL).await;
    let epochs = begin(&*subject.log).await;
    let mine = next(&epochs);
    // Polled once: offered, not yet written.
    let mut offers: Vec<_> = mine.iter().map(|block| subject.log.append(block)).collect();
    for offer in &mut offers {
        assert!(futures::poll!(offer).is_pending());
    }
    drop(offers);
    for block in &mine {
        let mut answer = None;
        for _ in 0..200 {
            answer = subject.log.block_at(block.partition, block.seq).await.unwrap();
            if answer.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(answer.as_ref(), Some(block));
    }
    subject.finish().await;
}
