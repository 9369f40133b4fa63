//! Who is killed, and when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::output::say;
use integration_tests::shop::Service;
use integration_tests::wait::until;
use tokio::time::sleep;

use super::customers::Customers;
use super::{READY_LIMIT, Stack};

/// The goal of the first test: so many orders, so many kills, whichever takes longer.
const ORDERS: usize = 1_000;
const KILLS: usize = 20;
/// The limit of the whole story.
const STORY_LIMIT: Duration = Duration::from_secs(240);
/// Orders that must commit between two faults: work goes on by itself after each of them.
const COMMITS_BETWEEN: usize = 15;

/// SIGKILL of the coordinator, again and again: mostly at work, sometimes while it still recovers.
pub(super) async fn of_the_coordinator(
    stack: &mut Stack,
    customers: &Arc<Customers>,
    random: &mut fastrand::Rng,
) -> anyhow::Result<String> {
    let started = Instant::now();
    let (mut kills, mut in_recovery) = (0, 0);
    while kills < KILLS || customers.placed() < ORDERS {
        ensure!(started.elapsed() < STORY_LIMIT, "{kills} kills, {} orders so far", customers.placed());
        if random.u32(..4) == 0 {
            sleep(Duration::from_millis(random.u64(20..400))).await;
            let ready = stack.coordinators[0].ready(Duration::from_millis(1)).await.is_ok();
            in_recovery += usize::from(!ready);
        } else {
            stack.coordinators[0].ready(READY_LIMIT).await?;
            progress(customers, 1).await?;
            sleep(Duration::from_millis(random.u64(..2_500))).await;
        }
        stack.coordinators[0].process.kill()?;
        kills += 1;
        sleep(Duration::from_millis(random.u64(..300))).await;
        stack.coordinators[0].process.start()?;
    }
    ensure!(customers.committed() > ORDERS / 5, "only {} orders committed", customers.committed());
    Ok(format!("SIGKILLs: coordinator {kills} ({in_recovery} of them before it was ready)"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillOrder,
    KillPayment,
    KillInventory,
    KillCoordinator,
    FreezeCoordinator,
    PauseCoordinatorDb,
    KillCoordinatorDb,
    PauseShopDb,
    KillShopDb,
}

impl Fault {
    const ALL: [(Self, usize, &str); 9] = [
        (Self::KillOrder, 3, "kill order"),
        (Self::KillPayment, 3, "kill payment"),
        (Self::KillInventory, 3, "kill inventory"),
        (Self::KillCoordinator, 3, "kill coordinator"),
        (Self::FreezeCoordinator, 1, "freeze coordinator"),
        (Self::PauseCoordinatorDb, 3, "pause coordinator's database"),
        (Self::KillCoordinatorDb, 3, "kill coordinator's database"),
        (Self::PauseShopDb, 1, "pause services' database"),
        (Self::KillShopDb, 2, "kill services' database"),
    ];

    const fn is_of_a_database(self) -> bool {
        matches!(
            self,
            Self::PauseCoordinatorDb | Self::KillCoordinatorDb | Self::PauseShopDb | Self::KillShopDb
        )
    }

    async fn happen(self, stack: &mut Stack, random: &mut fastrand::Rng, first: bool) -> anyhow::Result<()> {
        let moment = Duration::from_millis(random.u64(..700));
        // The first pause of the coordinator's database outlasts its limit for an append (10 s), so that outcomes
        // of appends become unknown and late ones land.
        let pause = match self {
            Self::PauseCoordinatorDb if first => Duration::from_secs(12),
            _ => Duration::from_millis(random.u64(500..3_000)),
        };
        match self {
            Self::KillOrder => restart(stack, Service::Order, moment).await,
            Self::KillPayment => restart(stack, Service::Payment, moment).await,
            Self::KillInventory => restart(stack, Service::Inventory, moment).await,
            Self::KillCoordinator => {
                stack.coordinators[0].process.kill()?;
                sleep(moment).await;
                stack.coordinators[0].process.start()
            }
            Self::FreezeCoordinator => {
                // Beyond its leases (6 s).
                stack.coordinators[0].process.pause()?;
                sleep(Duration::from_secs(7)).await;
                stack.coordinators[0].process.unpause()
            }
            Self::PauseCoordinatorDb => {
                stack.coordinator_db.pause().await?;
                sleep(pause).await;
                stack.coordinator_db.unpause().await
            }
            Self::KillCoordinatorDb => {
                stack.coordinator_db.kill().await?;
                sleep(moment).await;
                stack.coordinator_db.restart().await
            }
            Self::PauseShopDb => {
                stack.shop_db.pause().await?;
                sleep(pause).await;
                stack.shop_db.unpause().await
            }
            Self::KillShopDb => {
                stack.shop_db.kill().await?;
                sleep(moment).await;
                stack.shop_db.restart().await
            }
        }
    }
}

async fn restart(stack: &mut Stack, service: Service, after: Duration) -> anyhow::Result<()> {
    stack.shop.process(service).kill()?;
    sleep(after).await;
    stack.shop.process(service).start()
}

/// Every kind of fault, one after another in a random order, each under load.
pub(super) async fn of_everything(
    stack: &mut Stack,
    customers: &Arc<Customers>,
    random: &mut fastrand::Rng,
) -> anyhow::Result<String> {
    let mut faults: Vec<Fault> = Fault::ALL
        .iter()
        .filter(|(fault, ..)| stack.owns_databases() || !fault.is_of_a_database())
        .flat_map(|(fault, times, _)| vec![*fault; *times])
        .collect();
    random.shuffle(&mut faults);
    let mut happened: BTreeMap<Fault, usize> = BTreeMap::new();
    for fault in faults {
        // What one fault left behind must be over before the next: then its cause is known.
        progress(customers, COMMITS_BETWEEN).await.with_context(|| format!("after {happened:?}"))?;
        sleep(Duration::from_millis(random.u64(..500))).await;
        let count = happened.entry(fault).or_default();
        fault.happen(stack, random, *count == 0).await.with_context(|| format!("{fault:?}"))?;
        *count += 1;
    }
    progress(customers, COMMITS_BETWEEN).await.context("after all faults")?;
    if !stack.owns_databases() {
        say("an external PostgreSQL: its kills are left out");
    }
    let counts: Vec<String> = Fault::ALL
        .iter()
        .map(|(fault, _, name)| format!("{name} {}", happened.get(fault).unwrap_or(&0)))
        .collect();
    Ok(format!("SIGKILLs and pauses: {}", counts.join(", ")))
}

/// Waits until so many more orders have committed.
async fn progress(customers: &Customers, commits: usize) -> anyhow::Result<()> {
    let goal = customers.committed() + commits;
    until("orders commit again", READY_LIMIT, async || {
        let committed = customers.committed();
        ensure!(committed >= goal, "{committed} of {goal}");
        Ok(())
    })
    .await
}
