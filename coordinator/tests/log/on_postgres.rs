//! What is special to PostgreSQL: real races on two connections, broken connections, settings,
//! schema, comments, views.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::time::timeout;
use unanimity_coordinator::log::{
    Appended, Block, BlockKind, Error, NodeBeat, PARTITIONS_DEFAULT, PostgresLog, PostgresOptions,
    TransactionLog, migrate_postgres,
};
use unanimity_types::{Seq, Status};

use crate::history::{AS_A_SAGA, COMPACT, CompactBranch, row, write};
use crate::postgres::Database;
use crate::subject::{Kind, P, Subject, after, fill};

pub(crate) fn database(subject: &Subject) -> &Database {
    let Kind::Postgres(database) = &subject.kind else { unreachable!("a PostgreSQL subject") };
    database
}

pub(crate) async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.expect(sql);
}

/// Waits until a backend of this database waits for a lock, and answers its process id.
pub(crate) async fn until_blocked(connection: &mut PgConnection) -> i32 {
    for _ in 0..200 {
        let waiting: Option<i32> = sqlx::query_scalar(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_optional(&mut *connection)
        .await
        .unwrap();
        if let Some(pid) = waiting {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("nobody waits for a lock")
}

fn spawn_append(subject: &Subject, block: &Block) -> tokio::task::JoinHandle<Result<Appended, Error>> {
    let (log, block) = (Arc::clone(&subject.log), block.clone());
    tokio::spawn(async move { log.append(&block).await })
}

/// Blocks 1 to 10 by A, epoch block 11 and data to 20 by B. Answers A's stale block 11.
async fn two_epochs(subject: &Subject) -> Block {
    let old = fill(&*subject.log, 10, 0).await.pop().unwrap();
    let mut tip = after(&old, BlockKind::Epoch, 2, 0, b"B");
    subject.log.append(&tip).await.unwrap();
    for seq in 12..=20 {
        tip = after(&tip, BlockKind::Data, 2, if seq == 20 { 20 } else { 0 }, b"");
        subject.log.append(&tip).await.unwrap();
    }
    after(&old, BlockKind::Data, 1, 0, b"commit X")
}

/// Protocol C7, on two connections, as the protocol's page has it: with a trim that takes the epoch
/// block too (the planted bug) the stale append, as first designed, waits for the deleter and is then
/// *written*; with the epoch block kept it hits that key. Ours refuses in both cases, since it also
/// wants to be the last.
#[tokio::test]
async fn c7_a_stale_append_races_a_trim() {
    const FIRST_DESIGN: &str = "INSERT INTO log_blocks \
        (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
        SELECT 0, 11, 1, 2, 1, 0, 0, $1, $2, '' \
        WHERE EXISTS (SELECT 1 FROM log_blocks WHERE partition = 0 AND seq = 10 AND checksum = $1)";
    for (planted_bug, delete) in [
        (true, "DELETE FROM log_blocks WHERE partition = 0 AND seq > 1 AND seq < 20"),
        (false, "DELETE FROM log_blocks WHERE partition = 0 AND seq < 20 AND kind >= 2"),
    ] {
        let subject = Subject::postgres(1).await;
        let stale = two_epochs(&subject).await;
        let mut trimmer = database(&subject).connect().await;
        let mut old_owner = database(&subject).connect().await;
        run(&mut trimmer, "BEGIN").await;
        run(&mut trimmer, delete).await;
        assert_eq!(subject.log.append(&stale).await.unwrap(), Appended::Conflict, "while the trim runs");
        let (previous, checksum) = (stale.previous.0.to_vec(), stale.checksum.0.to_vec());
        let insert = tokio::spawn(async move {
            let query = sqlx::query(FIRST_DESIGN).bind(previous).bind(checksum);
            let done = query.execute(&mut old_owner).await;
            done.map(|done| done.rows_affected())
        });
        if planted_bug {
            until_blocked(&mut database(&subject).connect().await).await;
            run(&mut trimmer, "COMMIT").await;
            assert_eq!(insert.await.unwrap().expect("the hole"), 1, "written below the floor");
        } else {
            let duplicate = insert.await.unwrap().expect_err("the kept epoch block's key");
            assert_eq!(duplicate.as_database_error().unwrap().code().unwrap(), "23505");
            run(&mut trimmer, "COMMIT").await;
            assert_eq!(subject.log.append(&stale).await.unwrap(), Appended::Conflict);
        }
        trimmer.close().await.unwrap();
        subject.finish().await;
    }
}

/// A claimant that saw the epoch block 1 as the last, and whose own comes after everything behind it
/// was trimmed: its predecessor is kept and its place is free, and it is refused all the same.
#[tokio::test]
async fn c7_a_stale_claimant_is_refused_in_a_place_that_a_trim_freed() {
    for subject in [Subject::memory(1).await, Subject::sqlite(1).await, Subject::postgres(1).await] {
        let blocks = fill(&*subject.log, 9, 9).await;
        let mut tip = blocks[9].clone();
        tip = after(&tip, BlockKind::Data, 1, 10, b"");
        subject.log.append(&tip).await.unwrap();
        subject.log.trim(P, Seq(10)).await.unwrap();
        assert_eq!(subject.log.block_at(P, Seq(2)).await.unwrap(), None);
        let claim = after(&blocks[1], BlockKind::Epoch, 2, 0, b"claimant");
        assert_eq!(subject.log.append(&claim).await.unwrap(), Appended::Conflict);
        assert_eq!(subject.log.append(&blocks[2]).await.unwrap(), Appended::Conflict, "C4 (c)");
        subject.finish().await;
    }
}

/// A rival holds the place in an open transaction: our append waits for it.
async fn rival_holds(subject: &Subject, block: &Block) -> PgConnection {
    let mut rival = database(subject).connect().await;
    run(&mut rival, "BEGIN").await;
    sqlx::query(
        "INSERT INTO log_blocks (partition, seq, version, kind, epoch, floor, time_ms, previous, checksum, body) \
         VALUES (0, $1, 1, 2, 1, 0, 0, $2, $2, '')",
    )
    .bind(i64::try_from(block.seq.0).unwrap())
    .bind(vec![9_u8; 16])
    .execute(&mut rival)
    .await
    .unwrap();
    rival
}

#[tokio::test]
async fn c4_a_dropped_caller_does_not_cancel_its_append_and_it_lands_late() {
    let subject = Subject::postgres(1).await;
    let tip = fill(&*subject.log, 2, 0).await.pop().unwrap();
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    let mut rival = rival_holds(&subject, &block).await;
    let dropped = timeout(Duration::from_millis(300), subject.log.append(&block)).await;
    assert!(dropped.is_err(), "it waits for the rival");
    assert_eq!(subject.log.block_at(P, block.seq).await.unwrap(), None, "reading says absent");
    run(&mut rival, "ROLLBACK").await;
    for _ in 0..100 {
        if subject.log.block_at(P, block.seq).await.unwrap().is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(subject.log.append(&block).await.unwrap(), Appended::AlreadyThere, "and then it landed");
    subject.finish().await;
}

#[tokio::test]
async fn c4_a_terminated_backend_and_a_timeout_are_unknown_until_offered_again() {
    let subject = Subject::postgres(1).await;
    let tip = fill(&*subject.log, 2, 0).await.pop().unwrap();
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    let mut rival = rival_holds(&subject, &block).await;
    let append = spawn_append(&subject, &block);
    let pid = until_blocked(&mut rival).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut rival).await.unwrap();
    let answer = append.await.unwrap();
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");

    let limits = PostgresOptions { append_limit: Duration::from_millis(200), ..PostgresOptions::default() };
    let hasty = PostgresLog::open(&database(&subject).url, limits).await.unwrap();
    let answer = hasty.append(&block).await;
    assert!(matches!(answer, Err(Error::Unknown(_))), "{answer:?}");
    run(&mut rival, "ROLLBACK").await;
    let mut answer = hasty.append(&block).await;
    while matches!(answer, Err(Error::Unknown(_))) {
        answer = hasty.append(&block).await;
    }
    assert!(matches!(answer, Ok(Appended::Written | Appended::AlreadyThere)), "{answer:?}");
    hasty.close().await;
    subject.finish().await;
}

/// An error at the commit, after the row was reported, is an error.
#[tokio::test]
async fn h16_an_error_at_the_commit_is_a_refusal() {
    let subject = Subject::postgres(1).await;
    let tip = fill(&*subject.log, 2, 0).await.pop().unwrap();
    subject
        .sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN RAISE EXCEPTION ''no space'' USING ERRCODE = ''53100''; END'; \
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON log_blocks \
             DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    let answer = subject.log.append(&block).await;
    assert!(matches!(&answer, Err(Error::Refused(text)) if text.contains("free disk space")), "{answer:?}");
    assert_eq!(subject.log.tip(P).await.unwrap().seq, Seq(2));
    subject.sql("DROP TRIGGER late ON log_blocks").await;
    assert_eq!(subject.log.append(&block).await.unwrap(), Appended::Written);
    subject.finish().await;
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_comes_back() {
    let subject = Subject::postgres(1).await;
    let tip = fill(&*subject.log, 2, 0).await.pop().unwrap();
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    let name = database(&subject).name().to_owned();
    database(&subject).admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false")).await;
    database(&subject)
        .admin(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
        .await;
    // The connection that was there breaks under the first append; then none can be had.
    let first = subject.log.append(&block).await;
    assert!(matches!(first, Err(Error::Unknown(_) | Error::Unavailable(_))), "{first:?}");
    for _ in 0..3 {
        let answer = subject.log.append(&block).await;
        assert!(matches!(answer, Err(Error::Unavailable(_))), "certain: nothing was sent: {answer:?}");
    }
    assert!(matches!(subject.log.read(P).await, Err(Error::Unavailable(_))));
    database(&subject).admin(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true")).await;
    assert_eq!(subject.log.append(&block).await.unwrap(), Appended::Written);
    subject.finish().await;

    let nobody = PostgresLog::open("postgres://u:s3cr3t@127.0.0.1:1/x", PostgresOptions::default()).await;
    let Err(Error::Unavailable(text)) = nobody else { panic!("{nobody:?}") };
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[tokio::test]
async fn m16_synchronous_commit_off_refuses_appends() {
    let subject = Subject::postgres(1).await;
    let tip = fill(&*subject.log, 2, 0).await.pop().unwrap();
    let block = after(&tip, BlockKind::Data, 1, 0, b"");
    let name = database(&subject).name().to_owned();
    for (setting, good) in [("off", false), ("local", false), ("remote_write", false), ("remote_apply", true)]
    {
        subject.sql(&format!("ALTER DATABASE {name} SET synchronous_commit = {setting}")).await;
        let log = PostgresLog::open(&database(&subject).url, PostgresOptions::default()).await.unwrap();
        let warned = log.warnings().await.unwrap().iter().any(|text| text.contains("synchronous_commit"));
        assert_eq!(warned, !good, "{setting}");
        let answer = log.append(&block).await;
        if good {
            assert_eq!(answer.unwrap(), Appended::Written);
        } else {
            assert!(matches!(&answer, Err(Error::Refused(text)) if text.contains(setting)), "{answer:?}");
            assert_eq!(log.block_at(P, block.seq).await.unwrap(), None);
        }
        log.close().await;
    }
    subject.finish().await;
}

#[tokio::test]
async fn an_unknown_schema_is_refused() {
    let database = Database::create().await;
    let says = async |word: &str| match PostgresLog::open(&database.url, PostgresOptions::default()).await {
        Err(Error::Schema(text)) => assert!(text.contains(word), "{text}"),
        other => panic!("{other:?}"),
    };
    says("unanimity migrate").await;
    // Four at once: one bears the log, all see the same one.
    let migrations = (0..4).map(|_| migrate_postgres(&database.url, None));
    let migrated = futures::future::join_all(migrations).await;
    let migrated: Vec<_> = migrated.into_iter().map(|done| done.expect("migrate")).collect();
    assert_eq!(migrated.iter().filter(|done| done.born).count(), 1);
    assert!(migrated.iter().all(|done| done.identity == migrated[0].identity));
    assert_eq!(migrated[0].identity.partitions, PARTITIONS_DEFAULT);
    let other = migrate_postgres(&database.url, Some(8)).await;
    assert!(matches!(&other, Err(Error::Schema(text)) if text.contains("16 partitions")), "{other:?}");
    let log = PostgresLog::open(&database.url, PostgresOptions::default()).await.unwrap();
    assert_eq!(log.identity(), migrated[0].identity);
    for partition in 0..PARTITIONS_DEFAULT {
        let blocks = log.read(unanimity_types::PartitionId(partition)).await.unwrap();
        assert_eq!((blocks.len(), blocks[0].kind), (1, BlockKind::Birth));
    }
    log.close().await;

    let later = "INSERT INTO log_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'later', true, '\\x00', 0)";
    database.run(later).await;
    says("newer than this binary").await;
    assert!(matches!(migrate_postgres(&database.url, None).await, Err(Error::Schema(_))));
    database.run("DELETE FROM log_migrations WHERE version = 9999").await;
    database.run("UPDATE log_migrations SET checksum = '\\x00'").await;
    says("another origin").await;
    database.run("DELETE FROM log_migrations").await;
    says("unanimity migrate").await;
    database.remove().await;
}

#[tokio::test]
async fn every_column_has_a_comment() {
    let subject = Subject::postgres(1).await;
    let mut connection = database(&subject).connect().await;
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 \
           AND c.relname <> 'log_migrations' \
           AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid, 'pg_class') IS NULL)",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(bare, Vec::<String>::new());
    connection.close().await.unwrap();
    subject.finish().await;
}

#[tokio::test]
async fn the_views_unpack_the_detail() {
    let subject = Subject::postgres(1).await;
    let mut bare = row(2, Status::Active);
    bare.detail = r#"{"b":7,"a":"x"}"#.to_owned();
    bare.deadline = unanimity_types::Timestamp(u64::MAX);
    write(&*subject.log, vec![row(1, Status::Committed), bare], 1, 1).await;
    let mut connection = database(&subject).connect().await;
    let seen: (String, String, i32, String, String) = sqlx::query_as(
        "SELECT to_char(begun_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS'), duration::text, branch_count, \
             attention_message, to_char(attention_since AT TIME ZONE 'UTC', 'SS') \
         FROM transactions WHERE status = 'committed'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    let expected = ("2023-11-14 22:13:20.001", "00:00:02.499", 2, "five attempts failed", "22");
    assert_eq!((seen.0.as_str(), seen.1.as_str(), seen.2, seen.3.as_str(), seen.4.as_str()), expected);
    let odd: (String, i32, Option<String>) = sqlx::query_as(
        "SELECT deadline::text, branch_count, attention_message FROM transactions WHERE status = 'active'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(odd, ("infinity".into(), 0, None), "another shape shows less, it breaks nothing");
    type Branch = (i64, String, String, i64, Option<String>, Option<String>);
    let rows: Vec<Branch> = sqlx::query_as(
        "SELECT branch_id, key, status, attempts, last_error, resolved_by FROM branches ORDER BY branch_id",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0], (1, "k1".into(), "confirmed".into(), 2, Some("refused".into()), None));
    assert_eq!(rows[1], (2, "k2".into(), "confirming".into(), 5, None, Some("ann".into())));
    let mut saga = row(3, Status::Active);
    saga.detail = AS_A_SAGA.to_owned();
    write(&*subject.log, vec![saga], 1, 2).await;
    let rows: Vec<(String, bool, Vec<String>, Option<String>)> =
        sqlx::query_as("SELECT kind, parked, lock_keys, role FROM branches ORDER BY key")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    let plain = ("tcc".to_owned(), false, Vec::new(), None);
    assert_eq!(rows[..2], [plain.clone(), plain], "rows of before it was known");
    assert_eq!(rows[2], ("step".into(), true, Vec::new(), Some("pivot".into())));
    assert_eq!(rows[3], ("tcc".into(), false, vec!["sku-7".into(), "sku-8".into()], None));
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
    connection.close().await.unwrap();
    subject.finish().await;
}

async fn opened(database: &Database) -> PostgresLog {
    PostgresLog::open(&database.url, PostgresOptions::default()).await.unwrap()
}

fn beat(node: &str) -> NodeBeat {
    NodeBeat {
        node: node.to_owned(),
        instance: uuid::Uuid::new_v4(),
        joins: true,
        address: format!("http://{node}"),
        version: "1".to_owned(),
        formats: 2,
        servers: Vec::new(),
        leaving: false,
    }
}

/// A beat of a node that lives waits for nobody who joins or raises; and whoever has to wait gives up in time.
#[tokio::test]
async fn f1_a_beat_does_not_wait_for_others_and_nobody_hangs_behind_a_stuck_one() {
    let database = Database::create().await;
    migrate_postgres(&database.url, Some(1)).await.unwrap();
    let log = opened(&database).await;
    let (lease, patience) = (Duration::from_secs(6), Duration::from_secs(60));
    let (mut a, b) = (beat("a"), beat("b"));
    assert_eq!(log.heartbeat(&a, lease * 10).await.unwrap().format, 2);
    a.joins = false;
    // Somebody sits on the format, and is not frozen: the server does not take its lock back.
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    let mut stuck = other.begin().await.unwrap();
    sqlx::query("SELECT format FROM log_format FOR UPDATE").execute(&mut *stuck).await.unwrap();
    let view = timeout(patience, log.heartbeat(&a, lease * 10)).await.expect("no wait").unwrap();
    assert!(view.format == 2 && view.nodes[0].alive);
    let joining = timeout(patience, log.heartbeat(&b, lease)).await.expect("it gives up");
    assert!(matches!(joining, Err(Error::Unavailable(_))), "{joining:?}");
    stuck.rollback().await.unwrap();
    // And on the node's own row.
    let mut stuck = other.begin().await.unwrap();
    sqlx::query("SELECT node FROM nodes FOR UPDATE").execute(&mut *stuck).await.unwrap();
    let waiting = timeout(patience, log.heartbeat(&a, lease * 10)).await.expect("it gives up");
    assert!(matches!(waiting, Err(Error::Unavailable(_))), "{waiting:?}");
    stuck.rollback().await.unwrap();
    assert_eq!(log.heartbeat(&b, lease).await.unwrap().nodes.len(), 2);
    log.close().await;
    database.remove().await;
}

/// M18: a node whose beat was on its way while the others raised the format without it finds that out at once, and its
/// refused word keeps it alive for nobody.
#[tokio::test]
async fn m18_a_beat_that_was_under_way_during_a_raise_is_refused() {
    let database = Database::create().await;
    migrate_postgres(&database.url, Some(1)).await.unwrap();
    let log = opened(&database).await;
    let long = Duration::from_secs(60);
    let mut old = NodeBeat { formats: 1, ..beat("old") };
    assert_eq!(log.heartbeat(&old, long).await.unwrap().format, 1);
    assert_eq!(log.heartbeat(&beat("new"), long).await.unwrap().format, 1, "one knows only that");
    old.joins = false;
    // A raise that takes its time, by somebody who saw the old node as silent already.
    let mut other = PgConnection::connect(&database.url).await.unwrap();
    let mut raise = other.begin().await.unwrap();
    sqlx::query("SELECT format FROM log_format FOR UPDATE").execute(&mut *raise).await.unwrap();
    sqlx::query("SELECT node FROM nodes ORDER BY node FOR UPDATE").execute(&mut *raise).await.unwrap();
    let beating = {
        let (log, old) = (opened(&database).await, old.clone());
        tokio::spawn(async move { log.heartbeat(&old, long).await })
    };
    let mut look = PgConnection::connect(&database.url).await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' \
                 AND datname = current_database()";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut look).await.unwrap() == 0 {
        assert!(!beating.is_finished(), "it did not wait");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sqlx::query("UPDATE log_format SET format = 2").execute(&mut *raise).await.unwrap();
    raise.commit().await.unwrap();
    let refused = beating.await.unwrap();
    assert!(matches!(refused, Err(Error::Schema(_))), "{refused:?}");
    let until = "SELECT alive_until FROM nodes WHERE node = 'old'";
    let until = format!("SELECT ({until})::text");
    let before: String =
        sqlx::query_scalar(sqlx::AssertSqlSafe(until.clone())).fetch_one(&mut look).await.unwrap();
    assert!(matches!(log.heartbeat(&old, long).await, Err(Error::Schema(_))));
    let after: String = sqlx::query_scalar(sqlx::AssertSqlSafe(until)).fetch_one(&mut look).await.unwrap();
    assert_eq!(before, after);
    log.close().await;
    database.remove().await;
}
