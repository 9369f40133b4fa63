//! Who is killed, and when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::output::say;
use integration_tests::wait::until;
use tokio::time::sleep;

use super::clients::Clients;
use super::{READY_LIMIT, Stack, TRANSFERS};

/// The limit of the whole story.
const STORY_LIMIT: Duration = Duration::from_secs(210);
/// Transfers that must commit between two kills: work goes on by itself after each of them.
const COMMITS_BETWEEN: usize = 10;
/// The least number of kills, where all servers are ours.
const KILLS: usize = 30;

/// A bank, by its place among them.
const BANKS: [(usize, &str); 3] = [(0, "east (MariaDB)"), (1, "north"), (2, "south")];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Coordinator,
    Teller,
    Bank(usize),
    Database(usize),
    CoordinatorDb,
}

impl Victim {
    /// Each as often as it dies.
    fn all(with_databases: bool) -> Vec<Self> {
        let mut all = vec![Self::Coordinator; 7];
        all.extend([Self::Teller; 3]);
        for (bank, _) in BANKS {
            all.extend([Self::Bank(bank); 4]);
            if with_databases {
                all.extend([Self::Database(bank); 3]);
            }
        }
        if with_databases {
            all.extend([Self::CoordinatorDb; 2]);
        }
        all
    }

    fn name(self) -> String {
        match self {
            Self::Coordinator => "coordinator".to_owned(),
            Self::Teller => "teller".to_owned(),
            Self::Bank(bank) => format!("bank {}", BANKS[bank].1),
            Self::Database(bank) => format!("database {}", BANKS[bank].1),
            Self::CoordinatorDb => "coordinator's database".to_owned(),
        }
    }

    async fn die(self, stack: &mut Stack, random: &mut fastrand::Rng) -> anyhow::Result<()> {
        let moment = Duration::from_millis(random.u64(..600));
        let process = match self {
            Self::Coordinator => &mut stack.coordinator.process,
            Self::Teller => &mut stack.teller,
            Self::Bank(bank) => &mut stack.banks[bank].process,
            Self::Database(bank) => {
                let server = &stack.banks[bank].server;
                server.kill().await?;
                sleep(moment).await;
                return server.restart().await;
            }
            Self::CoordinatorDb => {
                stack.coordinator_db.kill().await?;
                sleep(moment).await;
                return stack.coordinator_db.restart().await;
            }
        };
        process.kill()?;
        sleep(moment).await;
        process.start()
    }
}

/// Everybody, one after another in a random order, each under load; until there are transfers enough.
pub(super) async fn of_everything(
    stack: &mut Stack,
    clients: &Clients,
    random: &mut fastrand::Rng,
) -> anyhow::Result<String> {
    let started = Instant::now();
    if !stack.owns_databases() {
        say("an external database: kills of databases are left out");
    }
    let mut victims = Victim::all(stack.owns_databases());
    ensure!(victims.len() >= KILLS || !stack.owns_databases(), "too few kills are planned");
    random.shuffle(&mut victims);
    let mut killed: BTreeMap<Victim, usize> = BTreeMap::new();
    for victim in victims {
        ensure!(started.elapsed() < STORY_LIMIT, "{killed:?}, {} transfers so far", clients.made());
        // What one kill left behind need not be over before the next; but work must go on.
        progress(clients, COMMITS_BETWEEN).await.with_context(|| format!("after {killed:?}"))?;
        sleep(Duration::from_millis(random.u64(..300))).await;
        victim.die(stack, random).await.with_context(|| format!("{victim:?}"))?;
        *killed.entry(victim).or_default() += 1;
    }
    let limit = STORY_LIMIT.saturating_sub(started.elapsed());
    until("there are transfers enough", limit, async || {
        ensure!(clients.made() >= TRANSFERS, "{} of {TRANSFERS}", clients.made());
        Ok(())
    })
    .await?;
    progress(clients, COMMITS_BETWEEN).await.context("after all kills")?;
    let counts: Vec<String> =
        killed.iter().map(|(victim, times)| format!("{} {times}", victim.name())).collect();
    Ok(format!("SIGKILLs: {} ({})", killed.values().sum::<usize>(), counts.join(", ")))
}

/// Waits until so many more transfers have committed.
async fn progress(clients: &Clients, commits: usize) -> anyhow::Result<()> {
    let goal = clients.committed() + commits;
    until("transfers commit again", READY_LIMIT, async || {
        let committed = clients.committed();
        ensure!(committed >= goal, "{committed} of {goal}");
        Ok(())
    })
    .await
}
