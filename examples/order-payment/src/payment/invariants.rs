//! What must always be true of the money.

use serde::Serialize;

use crate::database::{Database, Pools, values};
use crate::demo::MERCHANT;
use crate::invariants::open_fence_rows;

/// Sums over the payment service's database, in cents.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Money {
    /// What was there at the beginning.
    pub opening: i64,
    /// What customers can spend.
    pub customers: i64,
    /// What is set aside for orders that are not decided.
    pub held: i64,
    /// What the merchant got.
    pub revenue: i64,
    /// What the paid orders say that the merchant got.
    pub paid: i64,
    /// What the undecided orders say is set aside.
    pub on_hold: i64,
    /// Branches that are neither confirmed nor cancelled.
    pub open_fence_rows: i64,
}

impl Money {
    /// Adds up, in one snapshot.
    pub(crate) async fn read<DB: Database>(pools: &Pools<DB>) -> anyhow::Result<Self> {
        // One statement, so that no transaction ends between two numbers.
        let sql = "SELECT CAST(coalesce(sum(opening), 0) AS BIGINT),
                          CAST(coalesce(sum(CASE WHEN name <> $1 THEN balance END), 0) AS BIGINT),
                          CAST(coalesce(sum(held), 0) AS BIGINT),
                          CAST(coalesce(sum(CASE WHEN name = $1 THEN balance END), 0) AS BIGINT),
                          (SELECT CAST(coalesce(sum(cents), 0) AS BIGINT) FROM holds WHERE status = 'paid'),
                          (SELECT CAST(coalesce(sum(cents), 0) AS BIGINT) FROM holds WHERE status = 'held')
                   FROM accounts";
        let mut connection = pools.read.acquire().await?;
        let rows: Vec<(i64, i64, i64, i64, i64, i64)> =
            DB::fetch(&mut connection, sql, values![MERCHANT]).await?;
        let (opening, customers, held, revenue, paid, on_hold) = rows.into_iter().next().unwrap_or_default();
        let open_fence_rows = open_fence_rows::<DB>(&mut connection).await?;
        Ok(Self { opening, customers, held, revenue, paid, on_hold, open_fence_rows })
    }
}
