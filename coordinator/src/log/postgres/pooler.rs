//! Whether a pooler stands between that gives a connection's statements to several servers.
//!
//! pgbouncer's *transaction* and *statement* pooling do. The log's statements are prepared by name; another client's
//! statement of the same name on another server would then be run in their place, without an error where the
//! parameters have the same types. So such a pooler is refused at start (protocol M15). *Session* pooling keeps one
//! server for each connection and is as good as none.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::timeout;
use uuid::Uuid;

use super::connections::Connections;
use super::error;
use crate::log::Error;

/// A word that belongs to the session; a direct connection keeps it.
const MARK: &str = "SELECT set_config('unanimity.session', '";
const MARKED: &str = "SELECT coalesce(current_setting('unanimity.session', true), '')";

/// What to do about it.
const REFUSAL: &str = "a pooler in transaction or statement mode stands before the database: the log needs sessions \
    of its own. Connect to the database itself, or set the pooler's mode for this database to session; a node needs \
    a dozen connections, whatever its load (docs/operations.md)";

/// Looks whether two connections have two sessions. The first one marks its session; a pooler lends that
/// server to the second one as soon as it is idle, and another to the first one while the second holds it.
pub(super) async fn refuse(connections: &Arc<Connections>, limit: Duration) -> Result<(), Error> {
    let look = async {
        let mut first = connections.lend().await?;
        let mut second = connections.lend().await?;
        let own = Uuid::new_v4().simple().to_string();
        if let Err(error) = run(first.connection(), &format!("{MARK}{own}', false)")).await {
            // A compatible database without such settings: it cannot be told.
            tracing::debug!(%error, "whether a pooler stands between cannot be told");
            return Ok(());
        }
        // Simple statements only: a prepared one is just what cannot be relied on here.
        run(second.connection(), "BEGIN").await?;
        let seen_by_other = run(second.connection(), MARKED).await?;
        let seen_by_first = run(first.connection(), MARKED).await?;
        run(second.connection(), "COMMIT").await?;
        if seen_by_other == own || seen_by_first != own {
            return Err(Error::Refused(REFUSAL.to_owned()));
        }
        first.give_back();
        second.give_back();
        Ok(())
    };
    match timeout(limit, look).await {
        Ok(looked) => looked,
        Err(_) => Err(Error::Unavailable("the database does not answer".to_owned())),
    }
}

/// Runs a statement without parameters by the simple protocol, and answers its first column, if it has one.
async fn run(connection: &mut PgConnection, sql: &str) -> Result<String, Error> {
    use sqlx::{AssertSqlSafe, Executor as _, Row as _};
    let row = connection
        .fetch_optional(sqlx::raw_sql(AssertSqlSafe(sql.to_owned())))
        .await
        .map_err(|e| error::reading(&e))?;
    Ok(row.and_then(|row| row.try_get::<String, _>(0).ok()).unwrap_or_default())
}
