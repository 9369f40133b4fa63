//! Who is killed, whose answers get lost, and when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::proxy::Side;
use integration_tests::wait::until;
use tokio::time::sleep;

use super::customers::Customers;
use super::services::Service;
use super::{READY_LIMIT, Stack, TRIP_TIMEOUT};

/// The goal: so many trips, whatever else has happened by then.
const TRIPS: usize = 2_000;
/// The limit of the whole story, for a busy machine: two idle cores need a fraction of it.
const STORY_LIMIT: Duration = Duration::from_secs(240);
/// Trips that must be booked between two faults: work goes on by itself after each of them.
const BOOKED_BETWEEN: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL, and back after a moment.
    Kill(Service),
    /// SIGKILL, and back when trips have turned back by their deadline, over steps of which nothing is known.
    KillForLong(Service),
    KillCoordinator,
    /// Operations are carried out, and their answers are lost.
    LoseAnswers,
    /// Operations and the coordinator's own answers are lost.
    LoseOperations,
}

impl Fault {
    /// What happens how often: 28 kills, 14 times losses.
    const ALL: [(Self, usize, &str); 10] = [
        (Self::Kill(Service::Agency), 5, "kill agency"),
        (Self::Kill(Service::Flights), 5, "kill flights"),
        (Self::Kill(Service::Hotels), 4, "kill hotels"),
        (Self::Kill(Service::Cars), 4, "kill cars"),
        (Self::KillForLong(Service::Flights), 1, "kill flights for long"),
        (Self::KillForLong(Service::Hotels), 1, "kill hotels for long"),
        (Self::KillForLong(Service::Cars), 1, "kill cars for long"),
        (Self::KillCoordinator, 7, "kill coordinator"),
        (Self::LoseAnswers, 10, "lose answers"),
        (Self::LoseOperations, 4, "lose operations"),
    ];

    const fn is_kill(self) -> bool {
        matches!(self, Self::Kill(_) | Self::KillForLong(_) | Self::KillCoordinator)
    }

    async fn happen(self, stack: &mut Stack, random: &mut fastrand::Rng) -> anyhow::Result<()> {
        let moment = Duration::from_millis(random.u64(..500));
        match self {
            Self::Kill(service) => restart(stack, service, moment).await,
            Self::KillForLong(service) => restart(stack, service, TRIP_TIMEOUT + moment).await,
            Self::KillCoordinator => {
                stack.coordinator.process.kill()?;
                sleep(moment).await;
                stack.coordinator.process.start()
            }
            Self::LoseAnswers => {
                stack.proxy.lose(Side::Caller, moment / 2).await;
                Ok(())
            }
            Self::LoseOperations => {
                stack.proxy.lose(Side::Listener, moment / 2).await;
                Ok(())
            }
        }
    }
}

async fn restart(stack: &mut Stack, service: Service, after: Duration) -> anyhow::Result<()> {
    stack.services.process(service).kill()?;
    sleep(after).await;
    stack.services.process(service).start()
}

/// Every kind of fault, one after another in a random order, under load; then the rest of the trips.
pub(super) async fn of_everything(
    stack: &mut Stack,
    customers: &Arc<Customers>,
    random: &mut fastrand::Rng,
) -> anyhow::Result<String> {
    let started = Instant::now();
    let mut faults: Vec<Fault> =
        Fault::ALL.iter().flat_map(|(fault, times, _)| vec![*fault; *times]).collect();
    random.shuffle(&mut faults);
    let kills = faults.iter().filter(|fault| fault.is_kill()).count();
    let mut happened: BTreeMap<Fault, usize> = BTreeMap::new();
    for fault in faults {
        // What one fault left behind must be over before the next: then its cause is known.
        progress(customers, BOOKED_BETWEEN).await.with_context(|| format!("after {happened:?}"))?;
        sleep(Duration::from_millis(random.u64(..300))).await;
        fault.happen(stack, random).await.with_context(|| format!("{fault:?}"))?;
        *happened.entry(fault).or_default() += 1;
        ensure!(started.elapsed() < STORY_LIMIT, "{} trips, {happened:?} so far", customers.placed());
    }
    progress(customers, BOOKED_BETWEEN).await.context("after all faults")?;
    let left = STORY_LIMIT.saturating_sub(started.elapsed());
    until("enough trips", left, async || {
        let placed = customers.placed();
        ensure!(placed >= TRIPS, "{placed} trips");
        Ok(())
    })
    .await?;
    ensure!(stack.proxy.lost_bytes() > 0, "nothing was lost on the way");
    let counts: Vec<String> = Fault::ALL
        .iter()
        .map(|(fault, _, name)| format!("{name} {}", happened.get(fault).unwrap_or(&0)))
        .collect();
    Ok(format!("SIGKILLs {kills}, bytes lost {}: {}", stack.proxy.lost_bytes(), counts.join(", ")))
}

/// Waits until so many more trips are booked.
async fn progress(customers: &Customers, trips: usize) -> anyhow::Result<()> {
    let goal = customers.booked() + trips;
    until("trips are booked again", READY_LIMIT, async || {
        let booked = customers.booked();
        ensure!(booked >= goal, "{booked} of {goal}");
        Ok(())
    })
    .await
}
