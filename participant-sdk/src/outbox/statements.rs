//! The outbox's SQL: what the databases share, and the seam between them.
//!
//! Every statement that changes a row's state on a relay's behalf runs in a transaction whose first
//! statement locks the shard's lease row and compares its epoch. An unlocked comparison would let a
//! former owner's write through (measured: design section 10).

use std::future::Future;

use sqlx::{Database, Pool, Transaction};
use unanimity_types::Xid;

use super::OutboxError;
use super::row::{Change, DeadLetter, Found, FullRow, Header, NewRow, RelayStats};

/// A database that can hold an outbox: `sqlx::Postgres`, `sqlx::Sqlite`, `sqlx::MySql`. Its methods
/// are this crate's own; the trait is sealed.
pub trait OutboxDatabase: Database + sealed::Statements {}

pub(crate) mod sealed {
    #![allow(unreachable_pub)]

    use super::*;

    type Answer<T> = Result<T, OutboxError>;

    /// The statements. All times are the database's.
    pub trait Statements: Database {
        fn migrate(pool: &Pool<Self>) -> impl Future<Output = Answer<()>> + Send;
        /// Begins a transaction that can write and that sees what others committed meanwhile.
        fn begin(pool: &Pool<Self>) -> impl Future<Output = Answer<Transaction<'static, Self>>> + Send;
        fn insert(
            connection: &mut Self::Connection,
            row: &NewRow<'_>,
        ) -> impl Future<Output = Answer<()>> + Send;

        /// Says that a relay lives, for so long.
        fn appear(
            connection: &mut Self::Connection,
            relay: &str,
            millis: i64,
        ) -> impl Future<Output = Answer<()>> + Send;
        /// Takes a relay away, and all that are long gone.
        fn disappear(
            connection: &mut Self::Connection,
            relay: &str,
        ) -> impl Future<Output = Answer<()>> + Send;
        /// How many relays live.
        fn living(connection: &mut Self::Connection) -> impl Future<Output = Answer<i64>> + Send;
        /// The shards whose lease this relay has taken and nobody else since, with their epochs.
        fn owned(
            connection: &mut Self::Connection,
            relay: &str,
        ) -> impl Future<Output = Answer<Vec<(i16, i64)>>> + Send;
        /// The shards whose lease is over.
        fn free_shards(connection: &mut Self::Connection) -> impl Future<Output = Answer<Vec<i16>>> + Send;
        /// Takes those of these shards whose lease is over: with their new epochs. Rows that somebody
        /// has locked are left out: a process that was frozen inside of a transaction must not keep
        /// us from our other shards.
        fn acquire(
            connection: &mut Self::Connection,
            shards: &[i16],
            relay: &str,
            millis: i64,
        ) -> impl Future<Output = Answer<Vec<(i16, i64)>>> + Send;
        /// Makes the leases of these shards longer, so far as they are this relay's and not locked.
        fn renew(
            connection: &mut Self::Connection,
            shards: &[i16],
            relay: &str,
            millis: i64,
        ) -> impl Future<Output = Answer<Vec<i16>>> + Send;
        /// Ends the leases of these shards, so far as they are this relay's and not locked.
        fn release(
            connection: &mut Self::Connection,
            shards: &[i16],
            relay: &str,
        ) -> impl Future<Output = Answer<()>> + Send;
        /// Locks the rows of these shards that are this relay's and that nobody has locked.
        fn lock_owned(
            connection: &mut Self::Connection,
            shards: &[i16],
            relay: &str,
        ) -> impl Future<Output = Answer<Vec<i16>>> + Send;
        /// Locks a shard's lease row until the transaction ends: its epoch.
        fn lock_shard(
            connection: &mut Self::Connection,
            shard: i16,
        ) -> impl Future<Output = Answer<i64>> + Send;

        /// Rows that the coordinator may have, eldest first.
        fn handed(
            connection: &mut Self::Connection,
            shard: i16,
            limit: i64,
        ) -> impl Future<Output = Answer<Vec<Header>>> + Send;
        /// Pending rows without a key, eldest first.
        fn keyless(
            connection: &mut Self::Connection,
            shard: i16,
            limit: i64,
        ) -> impl Future<Output = Answer<Vec<Header>>> + Send;
        /// The eldest pending row of each key, by key, for keys greater than `after`.
        fn heads(
            connection: &mut Self::Connection,
            shard: i16,
            after: &str,
            limit: i64,
        ) -> impl Future<Output = Answer<Vec<Header>>> + Send;
        /// The eldest pending row of each of these keys.
        fn heads_of(
            connection: &mut Self::Connection,
            shard: i16,
            keys: &[String],
        ) -> impl Future<Output = Answer<Vec<Header>>> + Send;
        /// What is handed over of a row that may be with the coordinator.
        fn load(
            connection: &mut Self::Connection,
            n: i64,
        ) -> impl Future<Output = Answer<Option<FullRow>>> + Send;
        /// Changes the state of rows; answers how many were in the state that it was to be.
        fn change(
            connection: &mut Self::Connection,
            rows: &[i64],
            change: Change<'_>,
        ) -> impl Future<Output = Answer<u64>> + Send;

        fn find(
            connection: &mut Self::Connection,
            id: Xid,
        ) -> impl Future<Output = Answer<Option<Found>>> + Send;
        fn dead(
            connection: &mut Self::Connection,
            after: i64,
            limit: i64,
        ) -> impl Future<Output = Answer<Vec<DeadLetter>>> + Send;
        fn stats(connection: &mut Self::Connection) -> impl Future<Output = Answer<RelayStats>> + Send;
        /// Deletes rows of a shard that were delivered so long ago; at most `limit`.
        fn forget(
            connection: &mut Self::Connection,
            shard: i16,
            millis: i64,
            limit: i64,
        ) -> impl Future<Output = Answer<u64>> + Send;
    }
}

/// The statements that read alike in all databases. `$now` is the database's time in milliseconds
/// since the Unix epoch, `$key` the column `message_key` as text, `$by_number` makes a change of rows by
/// their numbers touch no other row.
macro_rules! shared_statements {
    ($db:ty, $connection:ty, $xid:ty, now: $now:literal, key: $key:literal, for_update: $for_update:literal,
        skip_locked: $skip_locked:literal, by_number: $by_number:literal) => {
        async fn insert(connection: &mut $connection, row: &NewRow<'_>) -> Result<(), OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: insert
                 INSERT INTO unanimity_outbox (id, shard, name, message_key, plan, payload, state, epoch,
                     created_at_ms, updated_at_ms) VALUES (",
            );
            let mut values = sql.separated(", ");
            values.push_bind(<$xid>::from(row.id.uuid())).push_bind(row.shard).push_bind(row.name);
            values.push_bind(row.key).push_bind(row.plan).push_bind(row.payload);
            values.push("'pending'").push("0").push($now).push($now);
            sql.push(")").build().execute(connection).await?;
            Ok(())
        }

        async fn appear(connection: &mut $connection, relay: &str, millis: i64) -> Result<(), OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: appear
                 UPDATE unanimity_outbox_relays SET until_ms = ",
                $now,
                " + "
            ));
            sql.push_bind(millis).push(" WHERE relay = ").push_bind(relay);
            if sql.build().execute(&mut *connection).await?.rows_affected() == 0 {
                let mut sql = QueryBuilder::<$db>::new(
                    "-- unanimity outbox: appear first
                     INSERT INTO unanimity_outbox_relays (relay, until_ms) VALUES (",
                );
                sql.push_bind(relay).push(concat!(", ", $now, " + ")).push_bind(millis).push(")");
                sql.build().execute(connection).await?;
            }
            Ok(())
        }

        async fn disappear(connection: &mut $connection, relay: &str) -> Result<(), OutboxError> {
            // A minute after its end nobody renews a relay's row any more: it is made anew.
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: disappear
                 DELETE FROM unanimity_outbox_relays WHERE until_ms + 60000 < ",
                $now,
                " OR relay = "
            ));
            sql.push_bind(relay).build().execute(connection).await?;
            Ok(())
        }

        async fn living(connection: &mut $connection) -> Result<i64, OutboxError> {
            Ok(sqlx::query_scalar(concat!(
                "-- unanimity outbox: living
                 SELECT count(*) FROM unanimity_outbox_relays WHERE until_ms >= ",
                $now
            ))
            .fetch_one(connection)
            .await?)
        }

        async fn owned(connection: &mut $connection, relay: &str) -> Result<Vec<(i16, i64)>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: owned
                 SELECT shard, epoch FROM unanimity_outbox_shards WHERE owner = ",
            );
            Ok(sql.push_bind(relay).build_query_as().fetch_all(connection).await?)
        }

        async fn free_shards(connection: &mut $connection) -> Result<Vec<i16>, OutboxError> {
            Ok(sqlx::query_scalar(concat!(
                "-- unanimity outbox: free_shards
                 SELECT shard FROM unanimity_outbox_shards WHERE until_ms < ",
                $now,
                " ORDER BY shard"
            ))
            .fetch_all(connection)
            .await?)
        }

        async fn acquire(
            connection: &mut $connection,
            shards: &[i16],
            relay: &str,
            millis: i64,
        ) -> Result<Vec<(i16, i64)>, OutboxError> {
            if shards.is_empty() {
                return Ok(Vec::new());
            }
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: acquire, look
                 SELECT shard, epoch FROM unanimity_outbox_shards WHERE until_ms < ",
                $now,
                " AND shard IN ("
            ));
            let mut list = sql.separated(", ");
            for shard in shards {
                list.push_bind(*shard);
            }
            sql.push(concat!(") ORDER BY shard", $skip_locked));
            let free: Vec<(i16, i64)> = sql.build_query_as().fetch_all(&mut *connection).await?;
            for (shard, epoch) in &free {
                let mut sql = QueryBuilder::<$db>::new(
                    "-- unanimity outbox: acquire
                     UPDATE unanimity_outbox_shards SET epoch = ",
                );
                sql.push_bind(*epoch + 1).push(", owner = ").push_bind(relay);
                sql.push(concat!(", until_ms = ", $now, " + ")).push_bind(millis);
                sql.push(" WHERE shard = ").push_bind(*shard).build().execute(&mut *connection).await?;
            }
            Ok(free.into_iter().map(|(shard, epoch)| (shard, epoch + 1)).collect())
        }

        async fn renew(
            connection: &mut $connection,
            shards: &[i16],
            relay: &str,
            millis: i64,
        ) -> Result<Vec<i16>, OutboxError> {
            let mine = Self::lock_owned(connection, shards, relay).await?;
            // One by one: for a list MySQL may scan the table, and wait for every lock in it.
            for shard in &mine {
                let mut sql = QueryBuilder::<$db>::new(concat!(
                    "-- unanimity outbox: renew
                     UPDATE unanimity_outbox_shards SET until_ms = ",
                    $now,
                    " + "
                ));
                sql.push_bind(millis).push(" WHERE shard = ").push_bind(*shard);
                sql.build().execute(&mut *connection).await?;
            }
            Ok(mine)
        }

        async fn release(
            connection: &mut $connection,
            shards: &[i16],
            relay: &str,
        ) -> Result<(), OutboxError> {
            for shard in Self::lock_owned(connection, shards, relay).await? {
                let mut sql = QueryBuilder::<$db>::new(
                    "-- unanimity outbox: release
                     UPDATE unanimity_outbox_shards SET until_ms = 0, owner = '' WHERE shard = ",
                );
                sql.push_bind(shard).build().execute(&mut *connection).await?;
            }
            Ok(())
        }

        async fn lock_owned(
            connection: &mut $connection,
            shards: &[i16],
            relay: &str,
        ) -> Result<Vec<i16>, OutboxError> {
            if shards.is_empty() {
                return Ok(Vec::new());
            }
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: lock_owned
                 SELECT shard FROM unanimity_outbox_shards WHERE owner = ",
            );
            let mut list = sql.push_bind(relay).push(" AND shard IN (").separated(", ");
            for shard in shards {
                list.push_bind(*shard);
            }
            sql.push(concat!(") ORDER BY shard", $skip_locked));
            Ok(sql.build_query_scalar().fetch_all(connection).await?)
        }

        async fn lock_shard(connection: &mut $connection, shard: i16) -> Result<i64, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: lock_shard
                 SELECT epoch FROM unanimity_outbox_shards WHERE shard = ",
            );
            sql.push_bind(shard).push($for_update);
            Ok(sql.build_query_scalar().fetch_one(connection).await?)
        }

        async fn handed(
            connection: &mut $connection,
            shard: i16,
            limit: i64,
        ) -> Result<Vec<Header>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: handed
                 SELECT n, id, ",
                $key,
                " AS k FROM unanimity_outbox WHERE state = 'handed' AND shard = "
            ));
            sql.push_bind(shard).push(" ORDER BY n LIMIT ").push_bind(limit);
            sql.build().fetch_all(connection).await?.iter().map(read_header).collect()
        }

        async fn keyless(
            connection: &mut $connection,
            shard: i16,
            limit: i64,
        ) -> Result<Vec<Header>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: keyless
                 SELECT n, id, ",
                $key,
                " AS k FROM unanimity_outbox
                 WHERE state = 'pending' AND message_key = '' AND shard = "
            ));
            sql.push_bind(shard).push(" ORDER BY n LIMIT ").push_bind(limit);
            sql.build().fetch_all(connection).await?.iter().map(read_header).collect()
        }

        async fn heads(
            connection: &mut $connection,
            shard: i16,
            after: &str,
            limit: i64,
        ) -> Result<Vec<Header>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: heads
                 SELECT n, id, ",
                $key,
                " AS k FROM unanimity_outbox JOIN (
                     SELECT min(n) AS head FROM unanimity_outbox WHERE state = 'pending' AND shard = "
            ));
            sql.push_bind(shard).push(" AND message_key > ").push_bind(after);
            sql.push(" GROUP BY message_key ORDER BY message_key LIMIT ").push_bind(limit);
            sql.push(") heads ON n = head ORDER BY message_key");
            sql.build().fetch_all(connection).await?.iter().map(read_header).collect()
        }

        async fn heads_of(
            connection: &mut $connection,
            shard: i16,
            keys: &[String],
        ) -> Result<Vec<Header>, OutboxError> {
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: heads_of
                 SELECT n, id, ",
                $key,
                " AS k FROM unanimity_outbox JOIN (
                     SELECT min(n) AS head FROM unanimity_outbox WHERE state = 'pending' AND shard = "
            ));
            sql.push_bind(shard).push(" AND message_key IN (");
            let mut list = sql.separated(", ");
            for key in keys {
                list.push_bind(key.as_str());
            }
            sql.push(") GROUP BY message_key) heads ON n = head");
            sql.build().fetch_all(connection).await?.iter().map(read_header).collect()
        }

        async fn load(connection: &mut $connection, n: i64) -> Result<Option<FullRow>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: load
                 SELECT name, plan, payload FROM unanimity_outbox WHERE state = 'handed' AND n = ",
            );
            let row = sql.push_bind(n).build().fetch_optional(connection).await?;
            row.map(|row| {
                Ok(FullRow {
                    name: row.try_get("name")?,
                    plan: row.try_get("plan")?,
                    payload: row.try_get("payload")?,
                })
            })
            .transpose()
        }

        async fn change(
            connection: &mut $connection,
            rows: &[i64],
            change: Change<'_>,
        ) -> Result<u64, OutboxError> {
            if rows.is_empty() {
                return Ok(0);
            }
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: change
                 UPDATE unanimity_outbox",
                $by_number,
                " SET state = "
            ));
            sql.push_bind(change.to.as_str()).push(", epoch = ").push_bind(change.epoch);
            sql.push(", cause = ").push_bind(change.death.map(|(cause, _)| cause.as_str()));
            sql.push(", reason = ").push_bind(change.death.map(|(_, reason)| reason));
            sql.push(concat!(", updated_at_ms = ", $now, " WHERE state = ")).push_bind(change.from.as_str());
            sql.push(" AND n IN (");
            let mut list = sql.separated(", ");
            for n in rows {
                list.push_bind(*n);
            }
            Ok(sql.push(")").build().execute(connection).await?.rows_affected())
        }

        async fn find(connection: &mut $connection, id: Xid) -> Result<Option<Found>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: find
                 SELECT n, shard, state, cause FROM unanimity_outbox WHERE id = ",
            );
            let row = sql.push_bind(<$xid>::from(id.uuid())).build().fetch_optional(connection).await?;
            row.map(|row| {
                let cause: Option<String> = row.try_get("cause")?;
                Ok(Found {
                    n: row.try_get("n")?,
                    shard: row.try_get("shard")?,
                    state: RowState::parse(&row.try_get::<String, _>("state")?)?,
                    cause: cause.as_deref().map(DeathCause::parse).transpose()?,
                })
            })
            .transpose()
        }

        async fn dead(
            connection: &mut $connection,
            after: i64,
            limit: i64,
        ) -> Result<Vec<DeadLetter>, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(concat!(
                "-- unanimity outbox: dead
                 SELECT n, id, name, ",
                $key,
                " AS k, cause, reason FROM unanimity_outbox
                 WHERE state = 'dead' AND n > "
            ));
            sql.push_bind(after).push(" ORDER BY n LIMIT ").push_bind(limit);
            let read = |row: &<$db as sqlx::Database>::Row| {
                let Header { n, id, key } = read_header(row)?;
                Ok(DeadLetter {
                    id,
                    n,
                    name: row.try_get("name")?,
                    key: (!key.is_empty()).then_some(key),
                    cause: DeathCause::parse(&row.try_get::<String, _>("cause")?)?,
                    reason: row.try_get::<Option<String>, _>("reason")?.unwrap_or_default(),
                })
            };
            sql.build().fetch_all(connection).await?.iter().map(read).collect()
        }

        async fn stats(connection: &mut $connection) -> Result<RelayStats, OutboxError> {
            let rows = sqlx::query(concat!(
                "-- unanimity outbox: stats
                 SELECT state, count(*) AS rows_of_it, min(created_at_ms) AS oldest, ",
                $now,
                " AS at
                 FROM unanimity_outbox WHERE state IN ('pending', 'handed', 'dead') GROUP BY state"
            ))
            .fetch_all(connection)
            .await?;
            let mut stats = RelayStats::default();
            for row in rows {
                let count = row.try_get::<i64, _>("rows_of_it")?.unsigned_abs();
                match RowState::parse(&row.try_get::<String, _>("state")?)? {
                    RowState::Pending => {
                        let (at, oldest): (i64, i64) = (row.try_get("at")?, row.try_get("oldest")?);
                        let age = u64::try_from(at.saturating_sub(oldest)).unwrap_or(0);
                        stats.pending = count;
                        stats.oldest_pending_age = Some(std::time::Duration::from_millis(age));
                    }
                    RowState::Handed => stats.handed = count,
                    RowState::Dead => stats.dead = count,
                    RowState::Delivered => {}
                }
            }
            Ok(stats)
        }

        async fn forget(
            connection: &mut $connection,
            shard: i16,
            millis: i64,
            limit: i64,
        ) -> Result<u64, OutboxError> {
            let mut sql = QueryBuilder::<$db>::new(
                "-- unanimity outbox: delivered long ago
                 SELECT n FROM unanimity_outbox WHERE state = 'delivered' AND shard = ",
            );
            sql.push_bind(shard).push(concat!(" AND updated_at_ms < ", $now, " - ")).push_bind(millis);
            sql.push(" LIMIT ").push_bind(limit);
            let rows: Vec<i64> = sql.build_query_scalar().fetch_all(&mut *connection).await?;
            let mut gone = 0;
            for n in rows {
                let mut sql = QueryBuilder::<$db>::new(
                    "-- unanimity outbox: forget
                     DELETE FROM unanimity_outbox WHERE state = 'delivered' AND n = ",
                );
                gone += sql.push_bind(n).build().execute(&mut *connection).await?.rows_affected();
            }
            Ok(gone)
        }
    };
}

/// Reads what a relay keeps of a row, for the database of the module that uses it.
macro_rules! read_header {
    ($row:ty, $xid:ty) => {
        fn read_header(row: &$row) -> Result<Header, OutboxError> {
            let id = uuid::Uuid::from(row.try_get::<$xid, _>("id")?);
            Ok(Header { n: row.try_get("n")?, id: Xid::new(id), key: row.try_get("k")? })
        }
    };
}

pub(crate) use {read_header, shared_statements};
