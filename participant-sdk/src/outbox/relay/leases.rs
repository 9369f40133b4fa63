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

/// Tries to renew a lease whose row is locked: by our own work, for milliseconds, or by a relay that
/// was frozen, and then the others must not wait for it.
const RENEWALS: usize = 10;

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
    renew(shared, held, lease).await?;
    let share = {
        let mut connection = shared.outbox.pool().acquire().await?;
        DB::appear(&mut connection, &shared.name, lease).await?;
        let living = DB::living(&mut connection).await?.max(1);
        // Rounded up: together the shares cover all shards.
        usize::try_from((i64::from(SHARDS) + living - 1) / living).unwrap_or(1)
    };
    if held.len() < share {
        let mut tx = DB::begin(shared.outbox.pool()).await?;
        // Our clock starts before the database's: for us the lease is never longer than for it.
        let asked = Instant::now();
        let mut free = DB::free_shards(&mut tx).await?;
        free.retain(|shard| !held.contains_key(shard));
        free.truncate(share - held.len());
        let taken = DB::acquire(&mut tx, &free, &shared.name, lease).await?;
        tx.commit().await?;
        for (shard, epoch) in taken {
            held.insert(shard, start(shared, shard, epoch, asked + shared.settings.lease));
        }
    }
    while held.len() > share {
        if let Some((shard, surplus)) = held.pop_last() {
            tracing::debug!(shard, "a shard of the outbox is left to another relay");
            give_back(shared, shard, surplus).await;
        }
    }
    Ok(())
}

/// Renews what is ours. Lets go of what is another's, and of what ended by itself.
async fn renew<DB: OutboxDatabase>(
    shared: &Shared<DB>,
    held: &mut BTreeMap<i16, Held>,
    lease: i64,
) -> Result<(), OutboxError> {
    let ended: Vec<i16> =
        held.iter().filter(|(_, held)| held.task.is_finished()).map(|(shard, _)| *shard).collect();
    let mut left: Vec<i16> = held.keys().copied().filter(|shard| !ended.contains(shard)).collect();
    if !ended.is_empty() {
        held.retain(|shard, _| !ended.contains(shard));
        let mut tx = DB::begin(shared.outbox.pool()).await?;
        DB::release(&mut tx, &ended, &shared.name).await?;
        tx.commit().await?;
    }
    for _ in 0..RENEWALS {
        if left.is_empty() {
            return Ok(());
        }
        let mut tx = DB::begin(shared.outbox.pool()).await?;
        let asked = Instant::now();
        let renewed = DB::renew(&mut tx, &left, &shared.name, lease).await?;
        tx.commit().await?;
        for shard in &renewed {
            if let Some(held) = held.get(shard) {
                held.until.send_replace(asked + shared.settings.lease);
            }
        }
        left.retain(|shard| !renewed.contains(shard));
        if !left.is_empty() {
            // Locked by a change of our own, or another's.
            let mut connection = shared.outbox.pool().acquire().await?;
            let owned = DB::owned(&mut connection, &shared.name).await?;
            left.retain(|shard| match held.get(shard) {
                Some(ours) if owned.contains(&(*shard, ours.epoch)) => true,
                Some(lost) => {
                    tracing::info!(shard, "another relay works on this shard of the outbox now");
                    lost.stop.cancel();
                    held.remove(shard);
                    false
                }
                None => false,
            });
            drop(connection);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    tracing::warn!(shards = ?left, "the leases of these shards of the outbox are locked and cannot be renewed");
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
        let mut tx = DB::begin(shared.outbox.pool()).await?;
        DB::release(&mut tx, &[shard], &shared.name).await?;
        Ok::<_, OutboxError>(tx.commit().await?)
    };
    if let Err(error) = released.await {
        tracing::debug!(shard, %error, "the lease ends by itself");
    }
}
