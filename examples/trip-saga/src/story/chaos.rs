//! Kills services in the middle of their work, and starts them again.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::plan::PlannedKill;
use super::stack::Stack;
use crate::services::Kind;

/// How long a dead service stays dead: long enough that trips meet it.
const DEAD_FOR: Duration = Duration::from_millis(300);

/// A service that was killed.
#[derive(Debug, Clone)]
pub struct Kill {
    /// Which.
    pub victim: Kind,
    /// How many trips had been answered.
    pub after: u32,
    /// Until it listened again.
    pub away: Duration,
}

/// Kills as planned while trips are answered. Ends when that is done, or no more trips come.
pub(super) async fn run(
    stack: &mut Stack,
    planned: &[PlannedKill],
    mut answered: watch::Receiver<u32>,
) -> anyhow::Result<Vec<Kill>> {
    let mut kills = Vec::new();
    if !stack.can_kill() {
        return Ok(kills);
    }
    for PlannedKill { after, victim } in planned {
        // The sender lives as long as the customers; if it is gone there is nothing to disturb.
        let Ok(now) = answered.wait_for(|count| count >= after).await.map(|count| *count) else { break };
        let killed = Instant::now();
        stack.kill(*victim).await?;
        tokio::time::sleep(DEAD_FOR).await;
        stack.restart(*victim).await?;
        kills.push(Kill { victim: *victim, after: now, away: killed.elapsed() });
    }
    Ok(kills)
}
