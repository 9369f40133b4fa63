//! Kills processes in the middle of their work, and starts them again.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::plan::PlannedKill;
use super::stack::{Member, Stack};

/// How long the dead stay dead: long enough that orders and messages meet it.
const DEAD_FOR: Duration = Duration::from_millis(300);

/// A process that was killed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Which.
    pub victim: Member,
    /// How many orders had been answered.
    pub after: u32,
    /// Until it listened again.
    pub away: Duration,
}

/// Kills as planned while orders are answered. Ends when that is done, or no more orders come.
pub(super) async fn run(
    stack: &mut Stack,
    planned: &[PlannedKill],
    mut answered: watch::Receiver<u32>,
) -> anyhow::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    for PlannedKill { after, victim } in planned {
        // The sender lives as long as the customers; if it is gone there is nothing to disturb.
        let Ok(now) = answered.wait_for(|count| count >= after).await.map(|count| *count) else { break };
        let killed = Instant::now();
        stack.process(*victim).kill().await?;
        tokio::time::sleep(DEAD_FOR).await;
        stack.process(*victim).restart().await?;
        kills.push(Kill { victim: *victim, after: now, away: killed.elapsed() });
    }
    Ok(kills)
}
