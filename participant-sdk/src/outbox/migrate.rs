//! The outbox's own files of the participant's migrations, under a record of their own.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::{Database, Pool};

use super::OutboxError;

/// Makes the outbox's tables: of the folder's files those that are called so. The record is
/// `unanimity_outbox_migrations`, beside the user's own and the fence's.
pub(super) async fn run_migrations<DB>(
    pool: &Pool<DB>,
    migrations: &'static Migrator,
) -> Result<(), OutboxError>
where
    DB: Database,
    DB::Connection: Migrate,
{
    let own = migrations.iter().filter(|migration| migration.description == "outbox").cloned().collect();
    let mut migrator = Migrator::with_migrations(own);
    migrator.dangerous_set_table_name("unanimity_outbox_migrations");
    let mut connection = pool.acquire().await?;
    // SQLite has no lock around migrations: who loses the race fails, and then finds the work done.
    for pause_ms in [50, 100, 200, 400] {
        match migrator.run_direct(None, &mut *connection, false).await {
            Err(error @ (MigrateError::Execute(_) | MigrateError::ExecuteMigration(..))) => {
                tracing::debug!(%error, "the outbox's migration failed, trying again");
                tokio::time::sleep(Duration::from_millis(fastrand::u64(pause_ms / 2..pause_ms))).await;
            }
            result => return Ok(result?),
        }
    }
    Ok(migrator.run_direct(None, &mut *connection, false).await?)
}
