//! How far back history goes, and order in its days.
//!
//! Days are made and dropped by functions of the schema (migration 0003), which act with the rights of the
//! role that migrated: the coordinator's own role needs none to change tables.

use std::time::Duration;

use unanimity_types::Timestamp;

use super::blocks::{read_limited, write_limited};
use super::connections::Lent;
use crate::log::row::{from_sql, to_sql};
use crate::log::{Error, HistoryKept};

const FLOOR: &str = "/* history_floor */ SELECT floor_ms FROM history_retention";

/// Today and three days ahead: a coordinator that cannot reach this for a day still finds its partition.
const MAKE_DAYS: &str = "/* make_history_days */ \
    SELECT history_make_day((extract(epoch FROM clock_timestamp()) * 1000)::bigint + ahead * 86400000::bigint) \
    FROM generate_series(0, 3) AS ahead";

const DROP: &str = "/* drop_history */ \
    SELECT history_drop_before(greatest(0, (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $1))";

pub(super) async fn floor(mut lent: Lent, limit: Duration) -> Result<Timestamp, Error> {
    let floor = read_floor(&mut lent, limit).await?;
    lent.give_back();
    Ok(floor)
}

pub(super) async fn keep(mut lent: Lent, retention: Duration, limit: Duration) -> Result<HistoryKept, Error> {
    let retention = to_sql(u64::try_from(retention.as_millis()).unwrap_or(u64::MAX));
    write_limited(limit, sqlx::query(MAKE_DAYS).execute(lent.connection())).await?;
    let dropping = sqlx::query_scalar::<_, bool>(DROP).bind(retention);
    let more = write_limited(limit, dropping.fetch_one(lent.connection())).await?;
    let floor = read_floor(&mut lent, limit).await?;
    lent.give_back();
    Ok(HistoryKept { floor, more })
}

async fn read_floor(lent: &mut Lent, limit: Duration) -> Result<Timestamp, Error> {
    let query = sqlx::query_scalar::<_, i64>(FLOOR);
    Ok(Timestamp(from_sql(read_limited(limit, query.fetch_one(lent.connection())).await?)))
}
