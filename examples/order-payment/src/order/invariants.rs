//! What must be true of the orders.

use serde::Serialize;

use crate::database::{Database, Pools, values};
use crate::invariants::open_fence_rows;

/// Counts over the order service's database.
#[derive(Debug, Clone, Default, Serialize)]
pub struct OrderCounts {
    /// Not decided yet.
    pub pending: i64,
    /// Sold and paid.
    pub confirmed: i64,
    /// Without effect.
    pub cancelled: i64,
    /// What the confirmed orders cost, in cents.
    pub confirmed_cents: i64,
    /// Branches that are neither confirmed nor cancelled.
    pub open_fence_rows: i64,
}

impl OrderCounts {
    /// Counts, in one snapshot.
    pub(crate) async fn read<DB: Database>(pools: &Pools<DB>) -> anyhow::Result<Self> {
        let sql = "SELECT CAST(count(CASE WHEN status = 'pending' THEN 1 END) AS BIGINT),
                          CAST(count(CASE WHEN status = 'confirmed' THEN 1 END) AS BIGINT),
                          CAST(count(CASE WHEN status = 'cancelled' THEN 1 END) AS BIGINT),
                          CAST(coalesce(sum(CASE WHEN status = 'confirmed' THEN cents END), 0) AS BIGINT)
                   FROM orders";
        let mut connection = pools.read.acquire().await?;
        let rows: Vec<(i64, i64, i64, i64)> = DB::fetch(&mut connection, sql, values![]).await?;
        let (pending, confirmed, cancelled, confirmed_cents) = rows.into_iter().next().unwrap_or_default();
        let open_fence_rows = open_fence_rows::<DB>(&mut connection).await?;
        Ok(Self { pending, confirmed, cancelled, confirmed_cents, open_fence_rows })
    }
}
