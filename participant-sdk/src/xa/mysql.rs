//! XA branches in MariaDB and MySQL.
//!
//! What shapes this file: before MySQL 8.0.29, and in MariaDB, a branch may be finished by another
//! session only when the one that prepared it is gone, so the connection is closed before the vote;
//! `XAER_NOTA` says neither whether the branch was never prepared nor whether a session still holds
//! it, so `XA RECOVER` and the ledger decide. `autocommit` is off while the work runs: work that ends
//! the XA transaction by itself writes nothing that stays after that.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::mysql::{MySqlConnection, MySqlDatabaseError};
use sqlx::{AssertSqlSafe, Connection as _, MySql, Pool, Row as _, Transaction, raw_sql};
use unanimity_types::LogId;

use crate::durability::Durability;
use crate::wall_clock::now_ms;
use crate::xa::backend::sealed::Backend;
use crate::xa::backend::{FinishFailure, LedgerRow, LedgerState, Listed, XaBranch, XaDatabase, migrate};
use crate::xa::error::XaError;
use crate::xa::gid::{ForeignGid, Gid};

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/participant/mysql");

// Error numbers of both servers.
const DUPLICATE_KEY: u16 = 1062;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const XAER_NOTA: u16 = 1397;
const XAER_RMFAIL: u16 = 1399;
const XA_RBROLLBACK: u16 = 1402;
const XAER_DUPID: u16 = 1440;
const XA_RBTIMEOUT: u16 = 1613;
const XA_RBDEADLOCK: u16 = 1614;

impl XaDatabase for MySql {}

impl Backend for MySql {
    const REUSABLE: bool = false;

    async fn migrate(pool: &Pool<Self>) -> Result<(), XaError> {
        migrate(pool, &MIGRATIONS).await
    }

    async fn check(connection: &mut MySqlConnection, _: u32) -> Result<Vec<Durability>, XaError> {
        let row = sqlx::query(
            "-- unanimity xa: check
             SELECT CAST(@@innodb_flush_log_at_trx_commit AS SIGNED) AS flush, CAST(@@sync_binlog AS SIGNED) AS sync,
                    CAST(@@log_bin AS SIGNED) AS binlog",
        )
        .fetch_one(connection)
        .await?;
        let (flush, sync): (i64, i64) = (row.try_get("flush")?, row.try_get("sync")?);
        let mut found = Vec::new();
        if flush != 1 {
            found.push(Durability::loses(
                "innodb_flush_log_at_trx_commit",
                flush.to_string(),
                "a crash of the machine loses votes and commits that were answered; set it to 1",
            ));
        }
        if row.try_get::<i64, _>("binlog")? != 0 && sync != 1 {
            found.push(Durability::loses(
                "sync_binlog",
                sync.to_string(),
                "after a crash of the machine the server can roll back what its binary log lost; set it to 1",
            ));
        }
        Ok(found)
    }

    async fn begin<'c>(
        connection: &'c mut MySqlConnection,
        gid: &Gid,
        lock_timeout: Duration,
    ) -> Result<Transaction<'c, MySql>, sqlx::Error> {
        // In whole seconds, and it is the session's: the connection is closed after the work.
        let seconds = whole_seconds(lock_timeout);
        let sql = format!(
            "SET SESSION innodb_lock_wait_timeout = {seconds}, SESSION lock_wait_timeout = {seconds}, autocommit = 0"
        );
        execute(connection, sql).await?;
        connection.begin_with(AssertSqlSafe(format!("XA START {}", gid.xa_literal()))).await
    }

    async fn insert_working(
        connection: &mut MySqlConnection,
        gid: &Gid,
        branch: &XaBranch,
    ) -> Result<Option<i64>, sqlx::Error> {
        let now = now_ms();
        let done = sqlx::query(
            "-- unanimity xa: insert_working
             INSERT INTO unanimity_ledger
                 (gid, log_id, xid, branch_key, participant, operation, state, created_at_ms, updated_at_ms)
             VALUES (?, ?, ?, ?, ?, ?, 'working', ?, ?)",
        )
        .bind(gid.to_string())
        .bind(branch.log_id.0)
        .bind(branch.xid.uuid())
        .bind(branch.key.as_str())
        .bind(branch.participant.as_str())
        .bind(branch.operation.as_str())
        .bind(now)
        .bind(now)
        .execute(connection)
        .await;
        match done {
            Ok(_) => Ok(Some(0)),
            Err(error) if number(&error) == Some(DUPLICATE_KEY) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn mark_committed(
        connection: &mut MySqlConnection,
        gid: &Gid,
        _: i64,
    ) -> Result<bool, sqlx::Error> {
        let done = sqlx::query(
            "-- unanimity xa: mark_committed
             UPDATE unanimity_ledger SET state = 'committed', updated_at_ms = ?
             WHERE gid = ? AND state = 'working'",
        )
        .bind(now_ms())
        .bind(gid.to_string())
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn prepare(mut tx: Transaction<'_, MySql>, gid: &Gid) -> Result<bool, sqlx::Error> {
        let xid = gid.xa_literal();
        // Fails if this is not the XA transaction that the session is in.
        execute(&mut tx, format!("XA END {xid}")).await?;
        execute(&mut tx, format!("XA PREPARE {xid}")).await?;
        Self::is_prepared(&mut tx, gid).await
    }

    async fn commit_local(mut tx: Transaction<'_, MySql>, gid: &Gid) -> Result<(), sqlx::Error> {
        let xid = gid.xa_literal();
        execute(&mut tx, format!("XA END {xid}")).await?;
        execute(&mut tx, format!("XA COMMIT {xid} ONE PHASE")).await
    }

    async fn rollback_local(mut tx: Transaction<'_, MySql>, gid: &Gid) -> Result<(), sqlx::Error> {
        let xid = gid.xa_literal();
        // Fails where the server has marked the transaction as one that can only be rolled back.
        let _ = execute(&mut tx, format!("XA END {xid}")).await;
        execute(&mut tx, format!("XA ROLLBACK {xid}")).await
    }

    async fn commit_prepared(connection: &mut MySqlConnection, gid: &Gid) -> Result<(), sqlx::Error> {
        execute(connection, format!("XA COMMIT {}", gid.xa_literal())).await
    }

    async fn rollback_prepared(connection: &mut MySqlConnection, gid: &Gid) -> Result<(), sqlx::Error> {
        execute(connection, format!("XA ROLLBACK {}", gid.xa_literal())).await
    }

    async fn is_prepared(connection: &mut MySqlConnection, gid: &Gid) -> Result<bool, sqlx::Error> {
        Ok(recover(connection).await?.iter().any(|listed| listed.gid == Ok(*gid)))
    }

    async fn prepared(connection: &mut MySqlConnection) -> Result<Vec<Listed>, sqlx::Error> {
        let mut all = recover(connection).await?;
        let ours: Vec<String> =
            all.iter().filter_map(|listed| Some(format!("'{}'", listed.gid.ok()?))).collect();
        if ours.is_empty() {
            return Ok(all);
        }
        // One list for the whole server: ours are those whose row, not committed yet, is in the ledger
        // of this database. The level holds for the next statement alone.
        execute(connection, "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED".to_owned()).await?;
        let sql = format!(
            "-- unanimity xa: prepared
             SELECT gid FROM unanimity_ledger WHERE gid IN ({})",
            ours.join(",")
        );
        let here: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(connection).await?;
        for listed in &mut all {
            listed.here = here.contains(&listed.name);
        }
        Ok(all)
    }

    async fn close_row(
        connection: &mut MySqlConnection,
        gid: &Gid,
        wait: Duration,
    ) -> Result<Option<LedgerState>, sqlx::Error> {
        // The connection goes back to its pool: its own limit must be there again.
        let seconds = whole_seconds(wait);
        execute(
            connection,
            format!(
                "SET @unanimity_wait = @@SESSION.innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = {seconds}"
            ),
        )
        .await?;
        let mut tx = connection.begin().await?;
        let now = now_ms();
        let inserted = sqlx::query(
            "-- unanimity xa: close_row
             INSERT INTO unanimity_ledger (gid, log_id, xid, state, created_at_ms, updated_at_ms)
             VALUES (?, ?, ?, 'rolled_back', ?, ?)",
        )
        .bind(gid.to_string())
        .bind(gid.log_id().0)
        .bind(gid.xid().uuid())
        .bind(now)
        .bind(now)
        .execute(&mut *tx)
        .await;
        match inserted {
            Ok(_) => tx.commit().await?,
            // The next statement begins anew and sees the row that won.
            Err(error) if number(&error) == Some(DUPLICATE_KEY) => {
                tx.rollback().await?;
            }
            Err(error) => return Err(error),
        }
        execute(connection, "SET SESSION innodb_lock_wait_timeout = @unanimity_wait".to_owned()).await?;
        Self::read_state(connection, gid).await
    }

    async fn read_state(
        connection: &mut MySqlConnection,
        gid: &Gid,
    ) -> Result<Option<LedgerState>, sqlx::Error> {
        let state: Option<String> = sqlx::query_scalar(
            "-- unanimity xa: read_state
             SELECT state FROM unanimity_ledger WHERE gid = ?",
        )
        .bind(gid.to_string())
        .fetch_optional(connection)
        .await?;
        state.as_deref().map(LedgerState::parse).transpose()
    }

    async fn settled(
        connection: &mut MySqlConnection,
        log_id: LogId,
        before_ms: i64,
        after: Option<&LedgerRow>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, sqlx::Error> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "-- unanimity xa: settled
             SELECT gid, state, updated_at_ms FROM unanimity_ledger
             WHERE log_id = ? AND updated_at_ms < ? AND state <> 'working' AND (updated_at_ms, gid) > (?, ?)
             ORDER BY updated_at_ms, gid LIMIT ?",
        )
        .bind(log_id.0)
        .bind(before_ms)
        .bind(after.map_or(i64::MIN, |row| row.updated_at_ms))
        .bind(after.map_or(String::new(), |row| row.gid.to_string()))
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
        rows.into_iter().map(LedgerRow::read).collect()
    }

    async fn delete(connection: &mut MySqlConnection, gid: &Gid) -> Result<bool, sqlx::Error> {
        let done = sqlx::query(
            "-- unanimity xa: delete
             DELETE FROM unanimity_ledger WHERE gid = ? AND state <> 'working'",
        )
        .bind(gid.to_string())
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    fn is_lock_wait(error: &sqlx::Error) -> bool {
        // XA START meets the same XID in a session that is at work with it.
        matches!(number(error), Some(LOCK_WAIT_TIMEOUT | DEADLOCK | XAER_DUPID))
    }

    fn is_definite(error: &sqlx::Error) -> bool {
        matches!(number(error), Some(XA_RBROLLBACK | XA_RBTIMEOUT | XA_RBDEADLOCK | XAER_NOTA))
    }

    fn is_lost(error: &sqlx::Error) -> bool {
        matches!(number(error), Some(XAER_NOTA | XAER_RMFAIL | XA_RBROLLBACK | XA_RBTIMEOUT | XA_RBDEADLOCK))
    }

    fn finish_failure(error: &sqlx::Error) -> FinishFailure {
        match number(error) {
            Some(XAER_NOTA) => FinishFailure::Missing,
            _ => FinishFailure::Other,
        }
    }
}

/// The server's prepared transactions, of all its databases. It has no times.
async fn recover(connection: &mut MySqlConnection) -> Result<Vec<Listed>, sqlx::Error> {
    let rows = raw_sql("XA RECOVER").fetch_all(connection).await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in &rows {
        let format_id: i64 = row.try_get_unchecked(0)?;
        let (gtrid, bqual): (i64, i64) = (row.try_get_unchecked(1)?, row.try_get_unchecked(2)?);
        let data: Vec<u8> = row.try_get_unchecked(3)?;
        let gid = Gid::from_xa(format_id, gtrid, bqual, &data);
        let name = match &gid {
            Ok(gid) => gid.to_string(),
            Err(ForeignGid) => format!("{format_id}:{}", data.escape_ascii()),
        };
        all.push(Listed { name, gid, here: true, age: None });
    }
    Ok(all)
}

/// The text protocol: XA statements cannot be prepared everywhere.
async fn execute(connection: &mut MySqlConnection, sql: String) -> Result<(), sqlx::Error> {
    raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

/// InnoDB's limits are whole seconds, at least one.
fn whole_seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).clamp(1, 1_000_000)
}

fn number(error: &sqlx::Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}
