//! How far back history goes, and what is deleted of it: a few rows at a time, so that appends get between.

use std::time::Duration;

use sqlx::SqliteConnection;
use unanimity_types::Timestamp;

use super::{error, in_transaction, leases};
use crate::log::row::{from_sql, to_sql};
use crate::log::{Error, HistoryKept, rules};

/// Rows of one deletion: some milliseconds of the only writer's time.
const ROWS_AT_ONCE: u64 = 1_000;

const FLOOR: &str = "/* history_floor */ SELECT floor_ms FROM history_retention";

const RAISE: &str = "/* drop_history */ UPDATE history_retention SET floor_ms = max(floor_ms, $1)";

/// What finished before the moment began before it, too: the index of pages finds it.
const DROP: &str = "/* drop_history */ DELETE FROM history WHERE rowid IN ( \
    SELECT rowid FROM history WHERE begun_at_ms < $1 AND finished_at_ms < $1 ORDER BY begun_at_ms LIMIT $2)";

pub(super) async fn floor(connection: &mut SqliteConnection) -> Result<Timestamp, Error> {
    let floor: i64 = sqlx::query_scalar(FLOOR).fetch_one(connection).await.map_err(|e| error::reading(&e))?;
    Ok(Timestamp(from_sql(floor)))
}

pub(super) async fn keep(
    connection: &mut SqliteConnection,
    retention: Duration,
) -> Result<HistoryKept, Error> {
    let cut = rules::cut(leases::now(connection).await?, retention);
    in_transaction(connection, "/* drop_history */ BEGIN IMMEDIATE", async |connection| {
        let raise = sqlx::query(RAISE).bind(to_sql(cut.0)).execute(&mut *connection).await;
        raise.map_err(|e| error::writing(&e))?;
        let gone =
            sqlx::query(DROP).bind(to_sql(cut.0)).bind(to_sql(ROWS_AT_ONCE)).execute(&mut *connection).await;
        let gone = gone.map_err(|e| error::writing(&e))?.rows_affected();
        Ok(HistoryKept { floor: floor(connection).await?, more: gone == ROWS_AT_ONCE })
    })
    .await
}
