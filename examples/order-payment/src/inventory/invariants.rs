//! What must always be true of the stock.

use serde::Serialize;

use crate::database::{Database, Pools, values};
use crate::invariants::open_fence_rows;

/// Sums over the inventory's database.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stock {
    /// How many there were at the beginning.
    pub initial: i64,
    /// How many are free.
    pub available: i64,
    /// How many are held for orders that are not decided.
    pub reserved: i64,
    /// How many are sold.
    pub sold: i64,
    /// Products whose own numbers do not add up.
    pub wrong_products: i64,
    /// Branches that are neither confirmed nor cancelled.
    pub open_fence_rows: i64,
}

impl Stock {
    /// Adds up, in one snapshot.
    pub(crate) async fn read<DB: Database>(pools: &Pools<DB>) -> anyhow::Result<Self> {
        // One statement, so that no transaction ends between two numbers.
        let sql =
            "SELECT CAST(coalesce(sum(initial), 0) AS BIGINT), CAST(coalesce(sum(available), 0) AS BIGINT),
                          CAST(coalesce(sum(reserved), 0) AS BIGINT), CAST(coalesce(sum(sold), 0) AS BIGINT),
                          CAST(count(CASE WHEN initial <> available + reserved + sold OR reserved <> held
                                     THEN 1 END) AS BIGINT)
                   FROM (SELECT s.initial, s.available, s.reserved,
                                coalesce(sum(CASE WHEN r.status = 'sold' THEN r.quantity END), 0) AS sold,
                                coalesce(sum(CASE WHEN r.status = 'reserved' THEN r.quantity END), 0) AS held
                         FROM stock s LEFT JOIN reservations r ON r.sku = s.sku
                         GROUP BY s.sku, s.initial, s.available, s.reserved) AS products";
        let mut connection = pools.read.acquire().await?;
        let rows: Vec<(i64, i64, i64, i64, i64)> = DB::fetch(&mut connection, sql, values![]).await?;
        let (initial, available, reserved, sold, wrong_products) =
            rows.into_iter().next().unwrap_or_default();
        let open_fence_rows = open_fence_rows::<DB>(&mut connection).await?;
        Ok(Self { initial, available, reserved, sold, wrong_products, open_fence_rows })
    }
}
