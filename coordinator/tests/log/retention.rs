//! What retention drops and what it leaves, on every log; days of PostgreSQL; rows from before days.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use unanimity_coordinator::log::{HistoryRow, TransactionLog};
use unanimity_types::{Epoch, Seq, Status, Timestamp};

use crate::history::{AS_A_SAGA, find, row, write};
use crate::postgres::Database;
use crate::subject::{Kind, P, Subject, sqlite_connection};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const DAY: Duration = Duration::from_millis(DAY_MS);

fn lived(number: u128, begun: u64, finished: Option<u64>) -> HistoryRow {
    let status = if finished.is_some() { Status::Committed } else { Status::Committing };
    HistoryRow {
        begun_at: Timestamp(begun),
        decided_at: Some(Timestamp(begun + 1)),
        finished_at: finished.map(Timestamp),
        ..row(number, status)
    }
}

async fn keep(log: &dyn TransactionLog) -> Timestamp {
    for _ in 0..100 {
        let kept = log.keep_history(DAY).await.expect("keep_history");
        if !kept.more {
            return kept.floor;
        }
    }
    panic!("it never has enough")
}

pub(crate) async fn what_is_over_for_long_enough_is_dropped_and_nothing_else(subject: &Subject) {
    let log = &*subject.log;
    let now = log.now().await.unwrap().0;
    // The same on a day that has a partition, and on one that has none.
    for (round, days) in [(0, 3), (1, 5)] {
        let old = now - days * DAY_MS;
        if let (Kind::Postgres(database), 3) = (&subject.kind, days) {
            database.run(&format!("SELECT history_make_day({old})")).await;
        }
        let number = |n: u128| 10 * round + n;
        let rows = vec![
            lived(number(1), old, Some(old + 5)),
            lived(number(2), old, Some(now - HOUR_MS)),
            lived(number(3), old, None),
            lived(number(4), now, Some(now)),
        ];
        write(log, rows, 1, 5).await;
        let floor = keep(log).await.0;
        assert!(floor >= now - DAY_MS && floor <= now - DAY_MS + 10 * HOUR_MS, "{floor}");
        assert_eq!(find(log, number(1)).await, None, "over for days");
        for n in 2..=4 {
            assert!(find(log, number(n)).await.is_some(), "{n}: young, or late, or open");
        }

        // H12 holds for rows that were moved: they change upwards, and are not there twice.
        let mut ended = lived(number(3), old, Some(now));
        (ended.epoch, ended.seq) = (Epoch(2), Seq(9));
        let mut stale = lived(number(3), old, None);
        (stale.epoch, stale.seq) = (Epoch(1), Seq(99));
        write(log, vec![ended.clone()], 2, 9).await;
        write(log, vec![stale], 1, 99).await;
        assert_eq!(find(log, number(3)).await, Some(ended));
        keep(log).await;
        assert_eq!(find(log, number(3)).await.unwrap().status, Status::Committed);
    }
}

/// C8: whoever finds no row and reads the floor afterwards knows whether there may have been one.
pub(crate) async fn c8_the_floor_only_rises(subject: &Subject) {
    let log = &*subject.log;
    assert_eq!(log.history_floor(P).await.unwrap(), Timestamp(0), "a log that never dropped anything");
    let first = log.keep_history(DAY).await.unwrap().floor;
    for retention in [30 * DAY, Duration::from_secs(u64::MAX), Duration::MAX] {
        let floor = log.keep_history(retention).await.unwrap().floor;
        assert!(floor >= first, "what is gone stays gone, whatever the configuration says now");
    }
    assert!(log.history_floor(P).await.unwrap() >= first);
}

async fn count(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn postgres_has_its_days_ahead_and_takes_back_what_lay_in_the_rest() {
    const DAYS: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'history'::regclass";
    const REST: &str = "SELECT count(*) FROM history_rest";
    let subject = Subject::postgres(1).await;
    let Kind::Postgres(database) = &subject.kind else { unreachable!() };
    let log = &*subject.log;
    let mut connection = database.connect().await;
    assert_eq!(count(&mut connection, DAYS).await, 4 + 1);
    // Several nodes at once: nothing is made twice.
    let calls = futures::future::join_all((0..8).map(|_| log.keep_history(DAY))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    assert_eq!(count(&mut connection, DAYS).await, 4 + 1);

    // A row whose day had no partition moves into it when it gets one.
    let begun = log.now().await.unwrap().0 - 2 * DAY_MS;
    write(log, vec![lived(1, begun, None)], 1, 1).await;
    assert_eq!(count(&mut connection, REST).await, 1);
    database.run(&format!("SELECT history_make_day({begun})")).await;
    assert_eq!(count(&mut connection, REST).await, 0);
    let mut ended = lived(1, begun, Some(begun + 7));
    ended.seq = Seq(9);
    write(log, vec![ended.clone()], 1, 9).await;
    assert_eq!(find(log, 1).await, Some(ended), "one row, the later one");

    // The whole day goes.
    assert!(log.keep_history(DAY / 2).await.unwrap().more);
    assert_eq!(find(log, 1).await, None);
    assert_eq!(count(&mut connection, DAYS).await, 4 + 1);
    for refused in ["SELECT history_make_day(99999999999999)", "SELECT history_drop_before(99999999999999)"] {
        assert!(sqlx::query(refused).execute(&mut connection).await.is_err(), "{refused}");
    }
    connection.close().await.unwrap();
    subject.finish().await;
}

/// A coordinator's role may read and write rows and call functions, and change no table.
#[tokio::test]
async fn a_role_without_rights_on_the_schema_keeps_history_in_order() {
    let subject = Subject::postgres(1).await;
    let Kind::Postgres(database) = &subject.kind else { unreachable!() };
    let role = format!("{}_runtime", database.name());
    let mut connection = database.connect().await;
    let sql = format!(
        "CREATE ROLE {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}; \
         REVOKE CREATE ON SCHEMA public FROM PUBLIC; SET ROLE {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    assert!(sqlx::query("CREATE TABLE mine ()").execute(&mut connection).await.is_err());
    let old = subject.log.now().await.unwrap().0 - 9 * DAY_MS;
    for call in [format!("history_make_day({old})"), format!("history_drop_before({old} + 2 * {DAY_MS})")] {
        let sql = AssertSqlSafe(format!("SELECT {call}"));
        let done: bool = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
        assert!(done, "{call}");
    }
    let sql = format!("RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}");
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    subject.finish().await;
}

/// Rows as the versions before wrote them: plain, a saga with all that it may have, odd ones.
fn rows_of_before(begun: u64, place: u32) -> Vec<String> {
    let plain = r#"{"b":[[1,"k1","stock/reserve","confirmed",2,"refused","",""],[2,"stock/reserve#1@x","payment/debit","confirming",5,"","ann","told so"]],"t":[[1700000000000,"begun",0,""]],"a":["attempts","five attempts failed",1700000002000,0]}"#;
    let details = [plain, AS_A_SAGA, "{}", r#"{"b":[],"a":"x"}"#];
    let statuses =
        [("committed", "'commit'"), ("aborting", "'abort'"), ("active", "NULL"), ("aborted", "'abort'")];
    let rows = details.iter().zip(statuses).enumerate().map(|(n, (detail, (status, decision)))| {
        let mode = ["'tcc'", "'saga'", "'two_phase'", "NULL"][n];
        let reason = if decision == "'abort'" { "'requested'" } else { "NULL" };
        let finished = if n == 0 { (begun + 9).to_string() } else { "NULL".to_owned() };
        let attention = if n == 0 { "'attempts'" } else { "NULL" };
        format!(
            "('00000000-0000-4000-8000-0000000{place:04}{n}', 3, {mode}, 'name {n}', '{status}', {decision}, {reason}, \
             DIGEST, {begun}, {begun} + 60000, NULL, {finished}, {attention}, false, PARTICIPANTS, '{detail}', 7, {n})"
        )
    });
    rows.collect()
}

const COLUMNS: &str = "xid, partition, mode, name, status, decision, abort_reason, digest, begun_at_ms, \
    deadline_ms, decided_at_ms, finished_at_ms, attention, heuristic, participants, detail, epoch, seq";

const BRANCHES: &str = "SELECT xid, branch_id, key, target, status, attempts, nullif(last_error, '') AS last_error, \
    nullif(resolved_by, '') AS resolved_by, nullif(resolved_reason, '') AS resolved_reason, transaction_name, \
    transaction_status, kind, parked, lock_keys, role FROM branches";

async fn shown(connection: &mut PgConnection) -> Vec<String> {
    let sql = format!(
        "SELECT row_to_json(t)::text FROM transactions t UNION ALL SELECT row_to_json(b)::text FROM ({BRANCHES}) b \
         ORDER BY 1"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn postgres_rows_of_before_are_shown_as_they_were() {
    let database = Database::create().await;
    for sql in [
        include_str!("../../../migrations/coordinator/postgres/0001_log.sql"),
        include_str!("../../../migrations/coordinator/postgres/0002_branch_kinds.sql"),
    ] {
        database.run(sql).await;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    // Some of a day that gets a partition, and some of long ago.
    for (begun, place) in [(now - 2 * DAY_MS, 1), (1_700_000_000_000, 2)] {
        let values = rows_of_before(begun, place).join(", ");
        let values = values.replace("DIGEST", "'\\x03030303030303030303030303030303'");
        let values = values.replace("PARTICIPANTS", "ARRAY['payment', 'stock ö\"''']");
        database.run(&format!("INSERT INTO history ({COLUMNS}) VALUES {values}")).await;
    }
    let mut connection = database.connect().await;
    let before = shown(&mut connection).await;
    assert_eq!(before.len(), 8 + 8, "transactions and branches");
    let migration = include_str!("../../../migrations/coordinator/postgres/0003_history_by_day.sql");
    database.run(&format!("BEGIN; {migration}; COMMIT")).await;
    assert_eq!(shown(&mut connection).await, before);
    assert_eq!(
        count(&mut connection, "SELECT count(*) FROM history_rest").await,
        4,
        "the young lie in their day"
    );
    connection.close().await.unwrap();
    database.remove().await;
}

async fn shown_by_sqlite(connection: &mut SqliteConnection) -> Vec<String> {
    let transactions = "json_array(xid, mode, name, status, decision, abort_reason, begun_at, deadline, decided_at, \
        finished_at, duration_ms, participants, branch_count, attention, attention_message, attention_since, \
        heuristic, partition)";
    let branches = "json_array(xid, branch_id, key, target, status, attempts, last_error, resolved_by, \
        resolved_reason, transaction_name, transaction_status, kind, parked, lock_keys, role)";
    let sql = format!(
        "SELECT {transactions} FROM transactions UNION ALL SELECT {branches} FROM ({BRANCHES}) ORDER BY 1"
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await.unwrap()
}

#[tokio::test]
async fn sqlite_rows_of_before_are_shown_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("old.db");
    std::fs::write(&file, "").unwrap();
    let mut connection = sqlite_connection(&file).await;
    let values = rows_of_before(1_700_000_000_000, 1).join(", ");
    let values = values.replace("DIGEST", "x'03030303030303030303030303030303'");
    let values = values.replace("PARTICIPANTS", "'[\"payment\", \"stock ö\\\"''\"]'");
    for sql in [
        include_str!("../../../migrations/coordinator/sqlite/0001_log.sql").to_owned(),
        include_str!("../../../migrations/coordinator/sqlite/0002_branch_kinds.sql").to_owned(),
        format!("INSERT INTO history ({COLUMNS}) VALUES {values}"),
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    }
    let before = shown_by_sqlite(&mut connection).await;
    assert_eq!(before.len(), 4 + 4, "transactions and branches");
    let migration = include_str!("../../../migrations/coordinator/sqlite/0003_history_compact.sql");
    sqlx::raw_sql(migration).execute(&mut connection).await.unwrap();
    assert_eq!(shown_by_sqlite(&mut connection).await, before);
    connection.close().await.unwrap();
}
