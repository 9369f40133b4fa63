//! Which shards this relay works on: leases in the outbox's own database, by its clock alone.
//!
//! A relay shows that it lives, renews what it holds, gives back what is more than its share, and
//! takes what is free up to its share. Who takes a shard counts its epoch up; every later change of
//! a row compares it, so a lease decides who tries and the epoch decides who may.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::OutboxError;
use super::super::row::SHARDS;
use super::super::statements::OutboxDatabase;
use super::{Shared, shard};

/// How often the stats are looked up for those who watch them.
const STATS_EVERY: Duration = Duration::from_secs(5);

/// A shard that we work on.
struct Held {
    epoch: i64,
    /// Until when the lease holds for sure, by our own clock.
    until: watch::Sender<Instant>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Takes, renews and gives back leases until the relay stops.
pub(super) async fn run<DB: OutboxDatabase>(shared: Arc<Shared<DB>>) {
    let mut held = BTreeMap::new();
    let mut stats_at = Instant::now();
    while !shared.stop.is_cancelled() {
        if let Err(error) = round(&shared, &mut held).await {
            tracing::warn!(%error, "the outbox's relay could not see to its leases");
        }
        if Instant::now() >= stats_at {
            stats_at = Instant::now() + STATS_EVERY;
            match shared.stats().await {
                Ok(stats) => drop(shared.stats.send_replace(stats)),
                Err(error) => tracing::warn!(%error, "the outbox could not be counted"),
            }
        }
        // A third, so that two rounds may fail; jitter, so that relays do not come in step.
        let pause = (shared.settings.lease / 3).min(STATS_EVERY).mul_f64(0.7 + 0.3 * fastrand::f64());
        tokio::select! {
            () = shared.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    for (shard, held) in held {
        give_back(&shared, shard, held).await;
    }
    let gone = async {
        let mut connection = shared.outbox.pool().acquire().await?;
        DB::disappear(&mut connection, &shared.name).await
    };
    if let Err(error) = gone.await {
        tracing::debug!(%error, "the relay's row stays until it is too old");
    }
}

async fn round<DB: OutboxDatabase>(
    shared: &Arc<Shared<DB>>,
    held: &mut BTreeMap<i16, Held>,
) -> Result<(), OutboxError> {
    let lease = i64::try_from(shared.settings.lease.as_millis()).unwrap_or(i64::MAX);
    let mut connection = shared.outbox.pool().acquire().await?;
    let mut lost = Vec::new();
    for (shard, held) in held.iter() {
        // Our clock starts before the database's: for us the lease is never longer than for it.
        let asked = Instant::now();
        if held.task.is_finished() || !DB::renew(&mut connection, *shard, held.epoch, lease).await? {
            lost.push(*shard);
        } else {
            held.until.send_replace(asked + shared.settings.lease);
        }
    }
    for shard in lost {
        if let Some(held) = held.remove(&shard) {
            tracing::debug!(shard, "this relay works on this shard of the outbox no more");
            held.stop.cancel();
            // It ended by itself: the lease may still be ours. Does nothing to another's.
            DB::release(&mut connection, shard, held.epoch).await?;
        }
    }
    DB::appear(&mut connection, &shared.name, lease).await?;
    let living = DB::living(&mut connection).await?.max(1);
    // Rounded up: together the shares cover all shards.
    let share = (i64::from(SHARDS) + living - 1) / living;
    let share = usize::try_from(share).unwrap_or(1);
    if held.len() < share {
        for shard in DB::free_shards(&mut connection).await? {
            if held.len() >= share || shared.stop.is_cancelled() {
                break;
            }
            let asked = Instant::now();
            if held.contains_key(&shard) {
                continue;
            }
            if let Some(epoch) = DB::acquire(&mut connection, shard, &shared.name, lease).await? {
                held.insert(shard, start(shared, shard, epoch, asked + shared.settings.lease));
            }
        }
    }
    // Not held while waiting for tasks that may need the pool's last connection.
    drop(connection);
    while held.len() > share {
        if let Some((shard, surplus)) = held.pop_last() {
            tracing::debug!(shard, "a shard of the outbox is left to another relay");
            give_back(shared, shard, surplus).await;
        }
    }
    Ok(())
}

fn start<DB: OutboxDatabase>(shared: &Arc<Shared<DB>>, shard: i16, epoch: i64, until: Instant) -> Held {
    let stop = shared.stop.child_token();
    let (until, lease) = watch::channel(until);
    let task = tokio::spawn(shard::run(Arc::clone(shared), shard, epoch, lease, stop.clone()));
    Held { epoch, until, stop, task }
}

async fn give_back<DB: OutboxDatabase>(shared: &Shared<DB>, shard: i16, held: Held) {
    held.stop.cancel();
    if let Err(error) = held.task.await {
        tracing::error!(shard, %error, "the work on a shard of the outbox ended badly");
    }
    let released = async {
        let mut connection = shared.outbox.pool().acquire().await?;
        DB::release(&mut connection, shard, held.epoch).await
    };
    if let Err(error) = released.await {
        tracing::debug!(shard, %error, "the lease ends by itself");
    }
}
