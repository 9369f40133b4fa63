//! Settings of the server that matter to a log: what makes it impossible, and what will hurt.

use sqlx::{FromRow, PgConnection};

use super::{blocks, error};
use crate::log::Error;

/// `current_setting(…, true)` is null where a compatible database has no such setting.
const SETTINGS: &str = "/* check_settings */ SELECT \
    pg_is_in_recovery() AS in_recovery, \
    current_setting('server_encoding', true) AS server_encoding, \
    current_setting('transaction_read_only', true) AS read_only, \
    current_setting('synchronous_commit', true) AS synchronous_commit, \
    current_setting('fsync', true) AS fsync, \
    current_setting('full_page_writes', true) AS full_page_writes, \
    current_setting('synchronous_standby_names', true) AS synchronous_standby_names, \
    current_setting('statement_timeout', true) AS statement_timeout, \
    (SELECT count(*) FROM pg_stat_replication) AS replicas, \
    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')) AS synchronous, \
    (SELECT count(sync_state) FROM pg_stat_replication) AS states_shown";

#[derive(Debug, FromRow)]
pub(super) struct Settings {
    in_recovery: bool,
    server_encoding: Option<String>,
    read_only: Option<String>,
    synchronous_commit: Option<String>,
    fsync: Option<String>,
    full_page_writes: Option<String>,
    synchronous_standby_names: Option<String>,
    statement_timeout: Option<String>,
    replicas: Option<i64>,
    /// Of those, the synchronous ones.
    synchronous: Option<i64>,
    /// How many tell this role whether they are: none without `pg_monitor`.
    states_shown: Option<i64>,
}

impl Settings {
    pub(super) async fn read(connection: &mut PgConnection) -> Result<Self, Error> {
        sqlx::query_as(SETTINGS).fetch_one(connection).await.map_err(|e| error::reading(&e))
    }

    /// What makes a log impossible here.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.in_recovery {
            // Behind a name or address that moves with a failover it may be promoted in a moment.
            return Err(Error::Unavailable(
                "the database is a read replica (in recovery): give the address of the primary".to_owned(),
            ));
        }
        if self.read_only.as_deref() == Some("on") {
            return Err(Error::Refused(
                "the database is read-only for this role (default_transaction_read_only)".to_owned(),
            ));
        }
        match self.server_encoding.as_deref() {
            None | Some("UTF8") => Ok(()),
            Some(other) => Err(Error::Refused(format!(
                "the database's encoding is {other}: create it with ENCODING 'UTF8'"
            ))),
        }
    }

    /// What will hurt, in sentences, where the URL names so many hosts.
    pub(super) fn warnings(&self, hosts: usize) -> Vec<String> {
        let mut warnings = Vec::new();
        let commit = self.synchronous_commit.as_deref().unwrap_or("on");
        if !matches!(commit, "on" | "remote_apply") {
            warnings.push(blocks::synchronous_commit_off(commit).to_string());
        }
        if self.fsync.as_deref() == Some("off") {
            warnings.push("fsync is off: a crash of the machine can lose or destroy the log".to_owned());
        }
        if self.full_page_writes.as_deref() == Some("off") {
            warnings.push("full_page_writes is off: a crash can leave torn pages in the log".to_owned());
        }
        let standbys = self.synchronous_standby_names.as_deref().unwrap_or("");
        let replicas = self.replicas.unwrap_or(0);
        if replicas > 0 && standbys.is_empty() {
            warnings.push(
                "replicas are connected and synchronous_standby_names is empty: a failover can lose decisions \
                 that were answered, and without a witness nobody notices (protocol H6)"
                    .to_owned(),
            );
        } else if hosts > 1 && standbys.is_empty() {
            warnings.push(
                "the URL names several hosts and synchronous_standby_names is empty: a failover to one of them \
                 can lose decisions that were answered (protocol H6)"
                    .to_owned(),
            );
        }
        let none_waits = self.synchronous == Some(0) && (replicas == 0 || self.states_shown > Some(0));
        if !standbys.is_empty() && none_waits {
            warnings.push(
                "no synchronous standby is connected: every append waits until one is, and no transaction can \
                 be decided meanwhile"
                    .to_owned(),
            );
        }
        if !matches!(self.statement_timeout.as_deref(), None | Some("0")) {
            warnings.push(
                "statement_timeout is set for this role: an append that it cancels has an unknown outcome \
                 and is offered again"
                    .to_owned(),
            );
        }
        warnings
    }
}
