//! XA branches in PostgreSQL: `PREPARE TRANSACTION` and its kin.
//!
//! What was measured and shapes this file (reliability, 3.1): `PREPARE TRANSACTION` in a failed
//! transaction answers `ROLLBACK` without an error, so the gid is looked up before anything is said;
//! an unknown and a finished gid are the same error 42704; only the preparing role (42501), from the
//! same database (0A000), may finish. None of these statements can be prepared or take parameters,
//! hence `raw_sql` and literals: a [`Gid`] needs no quoting.

use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection as _, Pool, Postgres, Row as _, Transaction, raw_sql};
use unanimity_types::LogId;

use crate::durability::Durability;
use crate::wall_clock::now_ms;
use crate::xa::backend::sealed::Backend;
use crate::xa::backend::{FinishFailure, LedgerRow, LedgerState, Listed, XaBranch, XaDatabase, migrate};
use crate::xa::error::XaError;
use crate::xa::gid::Gid;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations/participant/postgres");

impl XaDatabase for Postgres {}

impl Backend for Postgres {
    const REUSABLE: bool = true;

    async fn migrate(pool: &Pool<Self>) -> Result<(), XaError> {
        migrate(pool, &MIGRATIONS).await
    }

    async fn check(connection: &mut PgConnection, pool_size: u32) -> Result<Vec<Durability>, XaError> {
        let (prepared, commit, fsync, pages): (i32, String, String, String) = sqlx::query_as(
            "-- unanimity xa: check
             SELECT current_setting('max_prepared_transactions')::int4, current_setting('synchronous_commit'),
                    current_setting('fsync'), current_setting('full_page_writes')",
        )
        .fetch_one(connection)
        .await?;
        if prepared == 0 {
            return Err(XaError::PreparedTransactionsOff);
        }
        let mut found = Vec::new();
        if i64::from(prepared) < i64::from(pool_size) {
            found.push(Durability::hurts(
                "max_prepared_transactions",
                prepared.to_string(),
                "this pool alone has more connections, so that prepares will be refused under load; set it to at \
                 least the number of connections that work in XA branches (max_connections is a safe choice) and \
                 restart the server",
            ));
        }
        if commit == "off" {
            found.push(Durability::loses(
                "synchronous_commit",
                commit,
                "a crash of the server loses rollbacks and one-phase commits that were answered; set it to on \
                 for this role or database",
            ));
        }
        for (setting, value) in [("fsync", fsync), ("full_page_writes", pages)] {
            if value == "off" {
                let advice = "a crash of the machine loses or corrupts the database; set it to on";
                found.push(Durability::loses(setting, value, advice));
            }
        }
        Ok(found)
    }

    async fn begin<'c>(
        connection: &'c mut PgConnection,
        _: &Gid,
        lock_timeout: Duration,
    ) -> Result<Transaction<'c, Postgres>, sqlx::Error> {
        // READ COMMITTED, whatever the session's default: after a conflict the next statement must see
        // the row that won.
        let millis = lock_timeout.as_millis().max(1);
        let sql = format!("BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {millis}");
        connection.begin_with(AssertSqlSafe(sql)).await
    }

    async fn insert_working(
        connection: &mut PgConnection,
        gid: &Gid,
        branch: &XaBranch,
    ) -> Result<Option<i64>, sqlx::Error> {
        sqlx::query_scalar(
            "-- unanimity xa: insert_working
             INSERT INTO unanimity_ledger
                 (gid, log_id, xid, branch_key, participant, operation, state, created_at_ms, updated_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, 'working', $7, $7)
             ON CONFLICT (gid) DO NOTHING RETURNING txid_current()",
        )
        .bind(gid.to_string())
        .bind(branch.log_id.0)
        .bind(branch.xid.uuid())
        .bind(branch.key.as_str())
        .bind(branch.participant.as_str())
        .bind(branch.operation.as_str())
        .bind(now_ms())
        .fetch_optional(connection)
        .await
    }

    async fn mark_committed(
        connection: &mut PgConnection,
        gid: &Gid,
        mark: i64,
    ) -> Result<bool, sqlx::Error> {
        let done = sqlx::query(
            "-- unanimity xa: mark_committed
             UPDATE unanimity_ledger SET state = 'committed', updated_at_ms = $3
             WHERE gid = $1 AND state = 'working' AND txid_current() = $2",
        )
        .bind(gid.to_string())
        .bind(mark)
        .bind(now_ms())
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    async fn prepare(mut tx: Transaction<'_, Postgres>, gid: &Gid) -> Result<bool, sqlx::Error> {
        raw_sql(AssertSqlSafe(format!("PREPARE TRANSACTION '{gid}'"))).execute(&mut *tx).await?;
        // sqlx believes that its transaction is still open: let the one that looks the gid up be it.
        let sql = format!(
            "BEGIN; SELECT 1 FROM pg_prepared_xacts WHERE gid = '{gid}' AND database = current_database()"
        );
        let rows = raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *tx).await?;
        tx.rollback().await?;
        Ok(rows.len() == 1)
    }

    async fn commit_local(tx: Transaction<'_, Postgres>, _: &Gid) -> Result<(), sqlx::Error> {
        tx.commit().await
    }

    async fn rollback_local(tx: Transaction<'_, Postgres>, _: &Gid) -> Result<(), sqlx::Error> {
        tx.rollback().await
    }

    async fn commit_prepared(connection: &mut PgConnection, gid: &Gid) -> Result<(), sqlx::Error> {
        raw_sql(AssertSqlSafe(format!("COMMIT PREPARED '{gid}'"))).execute(connection).await.map(drop)
    }

    async fn rollback_prepared(connection: &mut PgConnection, gid: &Gid) -> Result<(), sqlx::Error> {
        raw_sql(AssertSqlSafe(format!("ROLLBACK PREPARED '{gid}'"))).execute(connection).await.map(drop)
    }

    async fn is_prepared(connection: &mut PgConnection, gid: &Gid) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar(
            "-- unanimity xa: is_prepared
             SELECT EXISTS (SELECT FROM pg_prepared_xacts WHERE gid = $1 AND database = current_database())",
        )
        .bind(gid.to_string())
        .fetch_one(connection)
        .await
    }

    async fn prepared(connection: &mut PgConnection) -> Result<Vec<Listed>, sqlx::Error> {
        let rows = sqlx::query(
            "-- unanimity xa: prepared
             SELECT gid, database = current_database() AS here,
                    greatest(extract(epoch FROM clock_timestamp() - prepared), 0)::float8 AS age
             FROM pg_prepared_xacts ORDER BY prepared",
        )
        .fetch_all(connection)
        .await?;
        let read = |row: &PgRow| {
            let name: String = row.try_get("gid")?;
            let gid = name.parse();
            let age = Duration::try_from_secs_f64(row.try_get("age")?).ok();
            Ok(Listed { name, gid, here: row.try_get("here")?, age })
        };
        rows.iter().map(read).collect()
    }

    async fn close_row(
        connection: &mut PgConnection,
        gid: &Gid,
        wait: Duration,
    ) -> Result<Option<LedgerState>, sqlx::Error> {
        let mut tx = Self::begin(connection, gid, wait).await?;
        sqlx::query(
            "-- unanimity xa: close_row
             INSERT INTO unanimity_ledger (gid, log_id, xid, state, created_at_ms, updated_at_ms)
             VALUES ($1, $2, $3, 'rolled_back', $4, $4) ON CONFLICT (gid) DO NOTHING",
        )
        .bind(gid.to_string())
        .bind(gid.log_id().0)
        .bind(gid.xid().uuid())
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        let state = Self::read_state(&mut tx, gid).await?;
        tx.commit().await?;
        Ok(state)
    }

    async fn read_state(
        connection: &mut PgConnection,
        gid: &Gid,
    ) -> Result<Option<LedgerState>, sqlx::Error> {
        let state: Option<String> = sqlx::query_scalar(
            "-- unanimity xa: read_state
             SELECT state FROM unanimity_ledger WHERE gid = $1",
        )
        .bind(gid.to_string())
        .fetch_optional(connection)
        .await?;
        state.as_deref().map(LedgerState::parse).transpose()
    }

    async fn settled(
        connection: &mut PgConnection,
        log_id: LogId,
        before_ms: i64,
        after: Option<&LedgerRow>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, sqlx::Error> {
        let rows: Vec<(String, String, i64)> = sqlx::query_as(
            "-- unanimity xa: settled
             SELECT gid, state, updated_at_ms FROM unanimity_ledger
             WHERE log_id = $1 AND updated_at_ms < $2 AND state <> 'working' AND (updated_at_ms, gid) > ($3, $4)
             ORDER BY updated_at_ms, gid LIMIT $5",
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

    async fn delete(connection: &mut PgConnection, gid: &Gid) -> Result<bool, sqlx::Error> {
        let done = sqlx::query(
            "-- unanimity xa: delete
             DELETE FROM unanimity_ledger WHERE gid = $1 AND state <> 'working'",
        )
        .bind(gid.to_string())
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    fn is_lock_wait(error: &sqlx::Error) -> bool {
        // lock_not_available, deadlock_detected.
        matches!(code(error).as_deref(), Some("55P03" | "40P01"))
    }

    fn is_definite(error: &sqlx::Error) -> bool {
        // An error that the server raised before it wrote anything. Not so: connection exceptions (08),
        // an operator's intervention (57: a commit that waits for a standby is ended with it and is
        // there all the same), trouble of the system or of the server itself (58, XX).
        code(error).is_some_and(|code| !["08", "57", "58", "XX"].iter().any(|class| code.starts_with(class)))
    }

    fn is_lost(error: &sqlx::Error) -> bool {
        // in_failed_sql_transaction.
        code(error).as_deref() == Some("25P02")
    }

    fn finish_failure(error: &sqlx::Error) -> FinishFailure {
        match code(error).as_deref() {
            Some("42704") => FinishFailure::Missing,
            Some("55000") => FinishFailure::Busy,
            Some("42501") => FinishFailure::WrongRole,
            Some("0A000") => FinishFailure::WrongDatabase,
            _ => FinishFailure::Other,
        }
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}
